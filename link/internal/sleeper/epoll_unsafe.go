package sleeper

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// busyPollParams is struct epoll_params of <linux/eventpoll.h>.
type busyPollParams struct {
	usecs  uint32
	budget uint16 // frames
	prefer uint8
	_      uint8
}

// setBusyPoll has waits at an epoll instance poll the device of its sockets for some
// time before they sleep (Linux 6.9).
func setBusyPoll(epoll int, period time.Duration) error {
	p := busyPollParams{usecs: uint32(period.Microseconds()), budget: 64, prefer: 1}
	// Sound: p has the layout of the kernel's struct, is converted in the call itself
	// and only read.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(epoll), unix.EPIOCSPARAMS, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return errno
	}
	return nil
}

// waitBusy tells whether something happened before the timeout. It is epoll_wait with
// a timeout finer than a millisecond (epoll_pwait2, Linux 5.11).
func waitBusy(epoll int, timeout time.Duration) bool {
	var events [4]unix.EpollEvent
	ts := unix.NsecToTimespec(int64(timeout))
	// Sound: events and ts are converted in the call itself, and the kernel writes no
	// more events than their number.
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	return errno == 0 && n > 0
}
