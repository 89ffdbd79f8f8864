package sleeper

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Busy sleeper waits in the kernel for a short time first, which polls the device
// meanwhile instead of having it interrupt (Documentation/networking/napi.rst, "epoll
// based busy polling"), and holds a thread for that time. Then it sleeps as a Sleeper
// does. One goroutine calls Wait, anyone Wake.
type Busy struct {
	*Sleeper
	// period is how long to wait in the kernel.
	period time.Duration
	// epoll has the sockets, and event for each write to it: nobody reads it.
	epoll int
	event *os.File // eventfd; blocking, so that the runtime does not watch it
	// polling is set while Wait waits in the kernel.
	polling atomic.Bool
	// mu is held while Wait is in the kernel.
	mu     sync.Mutex
	closed bool
}

// NewBusy returns a Busy sleeper at sockets. The error is that of EPIOCSPARAMS where
// the kernel cannot poll in epoll_wait (before Linux 6.9). It takes the sleeper over
// if there is no error.
func NewBusy(s *Sleeper, period time.Duration) (_ *Busy, err error) {
	b := &Busy{Sleeper: s, period: period}
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(b.epoll)
			if b.event != nil {
				b.event.Close()
			}
		}
	}()
	if err = setBusyPoll(b.epoll, period); err != nil {
		return nil, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	b.event = os.NewFile(uintptr(event), "eventfd")
	err = unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(event)})
	for _, fd := range s.fds {
		err = errors.Join(err, unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Wait is that of Sleeper.
func (b *Busy) Wait(timeout time.Duration) {
	if timeout >= 0 && timeout <= b.period {
		b.poll(timeout)
		return
	}
	if b.poll(b.period) {
		return
	}
	if timeout > 0 {
		timeout -= b.period
	}
	b.Sleeper.Wait(timeout)
}

// poll waits in the kernel and tells whether there is a reason to return.
func (b *Busy) poll(timeout time.Duration) (done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return true
	}
	b.polling.Store(true)
	// A Wake from here on writes to event. One that came before is seen here.
	done = b.ready(0) || waitBusy(b.epoll, timeout)
	b.polling.Store(false)
	return b.woken.Swap(false) || done
}

// Wake ends the current Wait, or the next one.
func (b *Busy) Wake() {
	if b.woken.Swap(true) {
		return
	}
	if b.polling.Load() {
		_, _ = b.event.Write(binary.NativeEndian.AppendUint64(nil, 1))
	}
	if b.asleep.Load() {
		_ = b.file.SetReadDeadline(time.Unix(0, 1))
	}
}

// Close ends waiting for good. The sockets stay open.
func (b *Busy) Close() {
	b.Wake()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		unix.Close(b.epoll)
		b.event.Close()
		b.Sleeper.Close()
	}
}
