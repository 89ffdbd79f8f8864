package xdp

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/link/internal/sleeper"
)

// A waiter is a sleeper.Sleeper or a sleeper.Busy.
type waiter interface {
	Wait(timeout time.Duration)
	Wake()
	Close()
}

func newSleeper(sockets []*socket) (*sleeper.Sleeper, error) {
	fds := make([]int, len(sockets))
	for i, s := range sockets {
		fds[i] = s.fd
	}
	return sleeper.New(fds, func() bool {
		for _, s := range sockets {
			if s.rx.available() > 0 {
				return true
			}
		}
		return false
	})
}

// pollBusily has the kernel poll the device while the queue is empty, as far as it can.
// Where it cannot at all, a receive call would be in vain.
func (q *Queue) pollBusily(cfg Config, mode bpf.Mode) {
	if q.notPolled = notPolled(q.sockets, mode); q.notPolled != nil && !cfg.deferAnyway {
		return
	}
	q.busyPoll = true
	q.notPolled = nil
	b, err := sleeper.NewBusy(q.sleeper.(*sleeper.Sleeper), cfg.BusyPoll)
	if err != nil {
		q.sleepsUnpolled = fmt.Errorf("the kernel does not poll in epoll_wait: %w", err)
		return
	}
	q.sleeper = b
}

// notPolled returns why the kernel cannot poll the device for sockets, else nil. From
// Linux 6.13 on, a socket knows its NAPI context from the beginning on, if the driver
// says which one a queue has; before, it learns that from its first frame.
func notPolled(sockets []*socket, mode bpf.Mode) error {
	if mode == bpf.Generic {
		return errors.New("the kernel polls for sockets in native mode only")
	}
	if (facts{kernel: bpf.KernelRelease()}).before(6, 13) {
		return nil
	}
	for _, s := range sockets {
		if id, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_INCOMING_NAPI_ID); err != nil || id == 0 {
			return errors.New("the driver does not tell the kernel which NAPI context serves a queue")
		}
	}
	return nil
}

// Wait implements link.Waiter.
func (q *Queue) Wait(timeout time.Duration) {
	q.sleeper.Wait(timeout)
	q.emptyPolls = livenessPolls - 1 // look at once whether the interface still is there
}

// Wake implements link.Waiter.
func (q *Queue) Wake() { q.sleeper.Wake() }
