package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// PinDir is where pinned links lie, in a BPF file system: a directory for each
// interface, with one link in it, which has the name of its mode.
var PinDir = "/sys/fs/bpf/tpa"

// A pin is the directory of an interface in PinDir. Its link outlives processes, so
// that the next one exchanges the program and attaches nothing.
type pin struct {
	dir   string
	index int // of the interface
	// lock is on dir, and ends with the process.
	lock *os.File
	// keep leaves the link there when the filter is closed.
	keep bool
}

// pinName is the directory of an interface of the calling thread's namespace.
func pinName(index int) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d-%d", st.Ino, index), nil
}

// errPin says that links cannot be pinned.
var errPin = errors.New("no link can be pinned")

// openPin locks the directory of an interface, which keep makes where there is none.
// Without keep, the result is nil where there is none, or another process has it.
// With keep, the error is then EBUSY.
func openPin(index int, keep bool) (*pin, error) {
	name, err := pinName(index)
	if err != nil {
		return nil, err
	}
	p := &pin{dir: filepath.Join(PinDir, name), index: index, keep: keep}
	if keep {
		if err := makePinDir(p.dir); err != nil {
			return nil, fmt.Errorf("%w: %w", errPin, err)
		}
	}
	err = p.acquire()
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, unix.EWOULDBLOCK) && keep:
		return nil, syscall.EBUSY
	case keep:
		return nil, fmt.Errorf("%w: %w", errPin, err)
	}
	return nil, nil
}

// makePinDir makes a directory in PinDir.
func makePinDir(dir string) error {
	parent := filepath.Dir(PinDir)
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return err
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is no BPF file system: %w", parent, syscall.EINVAL)
	}
	return os.MkdirAll(dir, 0o700)
}

// acquire takes the lock.
func (p *pin) acquire() (err error) {
	if p.lock, err = os.Open(p.dir); err != nil {
		return err
	}
	if err = unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		// Not the one that a process removed while this one waited.
		_, err = os.Stat(p.dir)
	}
	if err != nil {
		p.lock.Close()
	}
	return err
}

// takeOver has the link that an earlier process left run a program. It returns nil
// where there is none that can.
func (p *pin) takeOver(mode Mode, program *ebpf.Program) ebpflink.Link {
	p.remove(mode)
	l, err := ebpflink.LoadPinnedLink(p.link(mode), nil)
	if err != nil {
		return nil
	}
	if p.attachedTo(l) && l.Update(program) == nil {
		if !p.keep {
			p.remove(Auto)
		}
		return l
	}
	p.remove(Auto)
	l.Close()
	return nil
}

// adopt pins a link that another process has passed on, which may be pinned already, or
// ends that.
func (p *pin) adopt(l ebpflink.Link, mode Mode) error {
	if !p.keep {
		p.remove(Auto)
		return nil
	}
	if _, err := os.Stat(p.link(mode)); err == nil {
		return nil
	}
	if err := l.Pin(p.link(mode)); err != nil {
		return fmt.Errorf("%w: %w", errPin, err)
	}
	return nil
}

// leave ends the lock and nothing else: another process goes on with the link.
func (p *pin) leave() { p.lock.Close() }

// attachedTo tells whether a link still is at the interface: one whose interface is
// gone stays without.
func (p *pin) attachedTo(l ebpflink.Link) bool {
	info, err := l.Info()
	return err == nil && info.XDP() != nil && info.XDP().Ifindex == uint32(p.index)
}

// link is where the link of a mode is pinned.
func (p *pin) link(mode Mode) string { return filepath.Join(p.dir, mode.String()) }

// remove removes pins of all modes but one. What nobody else holds is detached.
func (p *pin) remove(but Mode) {
	for _, m := range []Mode{Native, Generic} {
		if m != but {
			_ = os.Remove(p.link(m))
		}
	}
}

// close ends the lock. An empty directory goes, too.
func (p *pin) close() {
	if !p.keep {
		p.remove(Auto)
	}
	_ = os.Remove(p.dir) // fails with a link in it
	p.lock.Close()
}

// CleanPins detaches the filters that processes which are gone have left pinned at
// interfaces of the calling thread's network namespace. It returns their names.
// Those of live processes are left alone.
func CleanPins() (cleaned []string, err error) {
	all, err := os.ReadDir(PinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	here, err := pinName(0)
	if err != nil {
		return nil, err
	}
	here = strings.TrimSuffix(here, "0")
	for _, entry := range all {
		p := &pin{dir: filepath.Join(PinDir, entry.Name())}
		if !strings.HasPrefix(entry.Name(), here) && !p.orphan() {
			continue
		}
		if aerr := p.acquire(); aerr != nil {
			if !errors.Is(aerr, unix.EWOULDBLOCK) {
				err = errors.Join(err, aerr)
			}
			continue
		}
		p.close()
		if _, serr := os.Stat(p.dir); serr == nil {
			err = errors.Join(err, fmt.Errorf("%s cannot be removed", p.dir))
			continue
		}
		cleaned = append(cleaned, p.dir)
	}
	return cleaned, err
}

// orphan tells whether the interface is gone.
func (p *pin) orphan() bool {
	for _, m := range []Mode{Native, Generic} {
		l, err := ebpflink.LoadPinnedLink(p.link(m), nil)
		if err != nil {
			continue
		}
		defer l.Close()
		info, err := l.Info()
		return err == nil && info.XDP() != nil && info.XDP().Ifindex == 0
	}
	return false
}
