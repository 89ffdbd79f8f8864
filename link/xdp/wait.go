package xdp

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxWait bounds a sleep, because the kernel wakes nobody when it takes an
// interface away.
const maxWait = time.Second

// A sleeper lets the receiving goroutine wait for frames. It waits as any Go
// network connection does, in the runtime's poller, and so holds neither a thread
// nor a processor.
//
// The runtime watches an epoll instance of ours, not the sockets: those would
// wake it for each burst, also while nobody waits, and for each frame that was
// sent. Ours watches the sockets, for arriving frames, between arm and disarm.
type sleeper struct {
	sockets []*socket
	epoll   int
	file    *os.File // of epoll
	conn    syscall.RawConn
	ready   func(uintptr) bool
	// woken is set by Wake and cleared by Wait; asleep is set while Wait waits.
	// Each side writes its own, then reads the other's.
	woken, asleep atomic.Bool
}

func newSleeper(sockets []*socket) (*sleeper, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// A file that does not block is what makes the runtime watch it.
	if err := unix.SetNonblock(epoll, true); err != nil {
		unix.Close(epoll)
		return nil, err
	}
	s := &sleeper{sockets: sockets, epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll")}
	s.ready = func(uintptr) bool {
		for _, k := range s.sockets {
			if k.rx.available() > 0 {
				return true
			}
		}
		return s.woken.Load()
	}
	if s.conn, err = s.file.SyscallConn(); err == nil {
		err = s.file.SetReadDeadline(time.Time{}) // fails when the runtime does not watch it
	}
	if err == nil {
		err = s.watch(unix.EPOLL_CTL_ADD, 0)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sleeper) watch(op int, events uint32) (err error) {
	for _, k := range s.sockets {
		err = errors.Join(err, unix.EpollCtl(s.epoll, op, k.fd, &unix.EpollEvent{Events: events, Fd: int32(k.fd)}))
	}
	return err
}

// Wait implements link.Waiter.
func (q *Queue) Wait(timeout time.Duration) {
	s := q.sleeper
	if timeout < 0 || timeout > maxWait {
		timeout = maxWait
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
	q.emptyPolls = livenessPolls - 1 // look at once whether the interface still is there
}

// Wake implements link.Waiter.
func (q *Queue) Wake() {
	s := q.sleeper
	if !s.woken.Swap(true) && s.asleep.Load() {
		_ = s.file.SetReadDeadline(time.Unix(0, 1))
	}
}

func (s *sleeper) close() { s.file.Close() }
