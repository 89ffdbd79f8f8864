package xdp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/internal/netdevgenl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// deferral is what makes a preferred busy poll keep interrupts off: after two empty
// polls in a row, or 200 µs without any, the interrupt is on again. Longer times
// have been seen to lose frames in full rings. While the poller comes back to
// epoll_wait it stays off; a poller that is not heard of for 20 ms has it on again.
var deferral = netdevgenl.Deferral{HardIRQs: 2, FlushTimeout: 200 * time.Microsecond, SuspendTimeout: 20 * time.Millisecond}

// leftoversDir has a file for each interface whose interrupts are deferred, for as
// long as they are. Who deferred them has a lock on it, which ends with the process.
var leftoversDir = "/run/tpa"

// interrupts are those of an interface while they are deferred.
type interrupts struct {
	conn   *genetlink.Conn
	record *os.File
	before *deferrals
}

// deferrals are how an interface deferred its interrupts before: by NAPI context, or
// else all of them alike. They are the record, in JSON.
type deferrals struct {
	NAPIs     []netdevgenl.NAPI    `json:",omitempty"`
	Interface *interfaceInterrupts `json:",omitempty"`
}

// deferInterrupts defers the interrupts of an interface. What they were before is
// written down first, so that it is put back after a crash, too: a machine where
// that cannot be done keeps its interrupts.
func deferInterrupts(attrs *netlink.LinkAttrs) (_ *interrupts, err error) {
	i := &interrupts{}
	if i.conn, err = genetlink.Open(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.restore())
		}
	}()
	name, err := recordName(attrs.Index)
	if err != nil {
		return nil, err
	}
	if err = os.MkdirAll(leftoversDir, 0o755); err != nil {
		return nil, err
	}
	if _, err = cleanRecord(i.conn, name); err != nil {
		return nil, err
	}
	before := &deferrals{}
	if before.NAPIs, err = netdevgenl.NAPIs(i.conn, attrs.Index); err != nil {
		// Before Linux 6.13.
		var serr error
		if before.Interface, serr = interruptsOf(attrs); serr != nil {
			return nil, errors.Join(err, serr)
		}
	}
	if i.record, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = unix.Flock(int(i.record.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	if err = json.NewEncoder(i.record).Encode(before); err != nil {
		return nil, err
	}
	i.before = before
	for _, n := range before.NAPIs {
		if err = netdevgenl.Defer(i.conn, n.ID, deferral); err != nil {
			return nil, err
		}
	}
	if before.Interface != nil {
		err = before.Interface.write(deferral)
	}
	if err != nil {
		return nil, err
	}
	return i, nil
}

// restore ends the deferral.
func (i *interrupts) restore() (err error) {
	if i.before != nil {
		err = i.before.putBack(i.conn)
	}
	if i.record != nil {
		err = errors.Join(err, os.Remove(i.record.Name()), i.record.Close())
	}
	i.conn.Close()
	return err
}

// putBack leaves alone what is gone, or what somebody else has changed.
func (d *deferrals) putBack(c *genetlink.Conn) (err error) {
	for _, n := range d.NAPIs {
		now, nerr := netdevgenl.GetDeferral(c, n.ID)
		if nerr != nil || now != deferral {
			continue
		}
		err = errors.Join(err, netdevgenl.Defer(c, n.ID, n.Deferral))
	}
	if before := d.Interface; before != nil {
		if now, nerr := before.read(); nerr == nil && now.HardIRQs == deferral.HardIRQs && now.FlushTimeout == deferral.FlushTimeout {
			err = errors.Join(err, before.write(before.Before))
		}
	}
	return err
}

// recordName is the file of an interface of the calling thread's namespace.
func recordName(ifindex int) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", err
	}
	return filepath.Join(leftoversDir, fmt.Sprintf("xdp-%d-%d.json", st.Ino, ifindex)), nil
}

// cleanRecord puts back what a dead process has left, and tells whether there was
// something. A live one is an error.
func cleanRecord(c *genetlink.Conn, name string) (bool, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, fmt.Errorf("another process defers the interrupts of the interface (%s): %w", name, err)
	}
	var before deferrals
	// A record that was cut off is from before anything was changed.
	if json.NewDecoder(f).Decode(&before) == nil {
		err = before.putBack(c)
	}
	return true, errors.Join(err, os.Remove(name))
}

// cleanInterface puts back what a killed process has left on an interface. Nothing
// depends on it.
func cleanInterface(ifindex int) {
	name, err := recordName(ifindex)
	if err != nil {
		return
	}
	if _, err := os.Stat(name); err != nil {
		return
	}
	if c, err := genetlink.Open(); err == nil {
		_, _ = cleanRecord(c, name)
		c.Close()
	}
}

// cleanRecords puts back what killed processes have left on interfaces of the calling
// thread's network namespace.
func cleanRecords() (cleaned []string, err error) {
	pattern, err := recordName(0)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(pattern[:len(pattern)-len("0.json")] + "*.json")
	if err != nil || len(names) == 0 {
		return nil, err
	}
	c, err := genetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for _, name := range names {
		done, cerr := cleanRecord(c, name)
		if done {
			cleaned = append(cleaned, name)
		}
		if !errors.Is(cerr, unix.EWOULDBLOCK) {
			err = errors.Join(err, cerr)
		}
	}
	return cleaned, err
}
