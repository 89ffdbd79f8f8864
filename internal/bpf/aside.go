package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// StepAside moves a filter from the interface's XDP to behind it, where OpenIngress
// attaches one, with all that is claimed. open is to open a packet socket with tap as
// its socket filter; it must not use the filter. It gets our frames when StepAside has
// returned, and the sockets of SetSocket get no more. The attachment to the interface,
// through which all frames pass on, is the caller's then: the next filter takes its
// place there, see Replace. It needs Linux 6.6; on error nothing has changed.
func (f *Filter) StepAside(open func(tap int) error) (attachment *os.File, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errFilterClosed
	}
	if f.mode == Ingress {
		return nil, errors.New("filter: it stands behind XDP already")
	}
	fd, ok := f.attached.(interface{ FD() int })
	if !ok {
		return nil, fmt.Errorf("filter: its attachment has no descriptor: %w", errors.ErrUnsupported)
	}
	ingress, err := f.loadLocked(filterProgTpaIngress)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	tap, err := f.loadLocked(filterProgTpaTap)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("filter: %w", err), ingress.Close())
	}
	var behind ebpflink.Link
	copied := -1
	defer func() {
		if err == nil {
			return
		}
		ingress.Close()
		tap.Close()
		if behind != nil {
			behind.Close()
		}
		if copied >= 0 {
			unix.Close(copied)
		}
	}()
	if copied, err = unix.FcntlInt(uintptr(fd.FD()), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err = f.there(func() (err error) {
		behind, err = ebpflink.AttachTCX(ebpflink.TCXOptions{Interface: f.index, Program: ingress, Attach: ebpf.AttachTCXIngress})
		return err
	}); err != nil {
		return nil, fmt.Errorf("filter: attach behind XDP: %w", err)
	}
	if err = open(tap.FD()); err != nil {
		return nil, err
	}
	// Frames pass on from XDP where their queue has no socket.
	for queue := range MaxQueues {
		_ = f.maps.Sockets.Delete(uint32(queue))
	}
	f.answerNoneLocked() // until the next call of Answer, which finds the filter where it is
	if f.behind != nil {
		f.behind.Close()
		f.behind = nil
	}
	f.attached.Close() // the copy keeps it
	f.program.Close()  // the attachment keeps it, until the next filter is there
	if f.pin != nil {
		f.pin.leave()
		f.pin = nil
	}
	f.attached, f.program, f.tap, f.mode = behind, ingress, tap, Ingress
	f.answers, f.apart = false, false
	return os.NewFile(uintptr(copied), "XDP"), nil
}
