// Package sleeper lets the goroutine that receives from sockets wait for frames.
// It waits as any Go network connection does, in the runtime's poller, and so
// holds neither a thread nor a processor.
//
// The runtime watches an epoll instance of ours, not the sockets: those would
// wake it for each burst, also while nobody waits, and for each frame that was
// sent. Ours watches the sockets, for arriving frames, while someone waits.
package sleeper

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxWait bounds a sleep, because the kernel wakes nobody when it takes an
// interface away.
const MaxWait = time.Second

// A Sleeper waits at sockets. One goroutine calls Wait, anyone Wake.
type Sleeper struct {
	fds   []int
	epoll int
	file  *os.File // of epoll
	conn  syscall.RawConn
	ready func(uintptr) bool
	// woken is set by Wake and cleared by Wait; asleep is set while Wait waits.
	// Each side writes its own, then reads the other's.
	woken, asleep atomic.Bool
}

// New returns a Sleeper at sockets. ready tells whether frames are there.
func New(fds []int, ready func() bool) (*Sleeper, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// A file that does not block is what makes the runtime watch it.
	if err := unix.SetNonblock(epoll, true); err != nil {
		unix.Close(epoll)
		return nil, err
	}
	s := &Sleeper{fds: fds, epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll")}
	s.ready = func(uintptr) bool { return ready() || s.woken.Load() }
	if s.conn, err = s.file.SyscallConn(); err == nil {
		err = s.file.SetReadDeadline(time.Time{}) // fails when the runtime does not watch it
	}
	if err == nil {
		err = s.watch(unix.EPOLL_CTL_ADD, 0)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Sleeper) watch(op int, events uint32) (err error) {
	for _, fd := range s.fds {
		err = errors.Join(err, unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
	}
	return err
}

// Wait returns when a frame may be there, Wake was called, Close was, or the
// timeout has passed (negative: MaxWait), after MaxWait at most.
func (s *Sleeper) Wait(timeout time.Duration) {
	if timeout < 0 || timeout > MaxWait {
		timeout = MaxWait
	}
	s.asleep.Store(true)
	// A Wake from here on moves the deadline into the past. One that came before is
	// seen by ready.
	_ = s.file.SetReadDeadline(time.Now().Add(timeout))
	_ = s.watch(unix.EPOLL_CTL_MOD, unix.EPOLLIN)
	_ = s.conn.Read(s.ready) // nil, os.ErrDeadlineExceeded or os.ErrClosed: all mean return
	_ = s.watch(unix.EPOLL_CTL_MOD, 0)
	s.asleep.Store(false)
	s.woken.Store(false)
}

// Wake ends the current Wait, or the next one.
func (s *Sleeper) Wake() {
	if !s.woken.Swap(true) && s.asleep.Load() {
		_ = s.file.SetReadDeadline(time.Unix(0, 1))
	}
}

// Close ends waiting for good. The sockets stay open.
func (s *Sleeper) Close() { s.file.Close() }
