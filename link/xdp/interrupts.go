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
	"golang.org/x/sys/unix"
)

// deferral is what makes a preferred busy poll keep interrupts off: after two empty
// polls in a row, or 200 µs without any, the interrupt is on again. Longer times
// have been seen to lose frames in full rings.
var deferral = netdevgenl.Deferral{HardIRQs: 2, FlushTimeout: 200 * time.Microsecond}

// leftoversDir has a file for each interface whose interrupts are deferred, for as
// long as they are. Who deferred them has a lock on it, which ends with the process.
var leftoversDir = "/run/tpa"

// interrupts are those of an interface while they are deferred.
type interrupts struct {
	conn   *genetlink.Conn
	record *os.File
	before []netdevgenl.NAPI
}

// deferInterrupts defers the interrupts of an interface. What they were before is
// written down first, so that it is put back after a crash, too: a machine where
// that cannot be done keeps its interrupts.
func deferInterrupts(ifindex int) (_ *interrupts, err error) {
	i := &interrupts{}
	if i.conn, err = genetlink.Open(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.restore())
		}
	}()
	name, err := recordName(ifindex)
	if err != nil {
		return nil, err
	}
	if err = os.MkdirAll(leftoversDir, 0o755); err != nil {
		return nil, err
	}
	if _, err = cleanRecord(i.conn, name); err != nil {
		return nil, err
	}
	before, err := netdevgenl.NAPIs(i.conn, ifindex)
	if err != nil {
		return nil, err
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
	for _, n := range before {
		if err = netdevgenl.Defer(i.conn, n.ID, deferral); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// restore ends the deferral.
func (i *interrupts) restore() (err error) {
	if i.before != nil {
		err = putBack(i.conn, i.before)
	}
	if i.record != nil {
		err = errors.Join(err, os.Remove(i.record.Name()), i.record.Close())
	}
	i.conn.Close()
	return err
}

// putBack leaves alone contexts that are gone, or that somebody else has changed.
func putBack(c *genetlink.Conn, before []netdevgenl.NAPI) (err error) {
	for _, n := range before {
		now, nerr := netdevgenl.GetDeferral(c, n.ID)
		if nerr != nil || now != deferral {
			continue
		}
		err = errors.Join(err, netdevgenl.Defer(c, n.ID, n.Deferral))
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
	var before []netdevgenl.NAPI
	// A record that was cut off is from before anything was changed.
	if json.NewDecoder(f).Decode(&before) == nil {
		err = putBack(c, before)
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
