package load

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pacer lets a connection sleep until a request is due. It belongs to one
// goroutine.
type pacer interface {
	// sleep returns after d, or a little later.
	sleep(d time.Duration)
	close()
}

// goPacer sleeps by Go's timers. A process with nothing to do waits for them in
// steps of a millisecond (golang.org/issue/44343), many times a round trip; one
// that polls looks at them all the time.
type goPacer struct{}

func (goPacer) sleep(d time.Duration) { time.Sleep(d) }
func (goPacer) close()                {}

// kernelPacer sleeps by a timer of the kernel that wakes Go's network poller, to
// within some microseconds.
type kernelPacer struct {
	fd    int // of file, which owns it
	file  *os.File
	spec  unix.ItimerSpec
	count [8]byte
}

func newKernelPacer() (*kernelPacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a timer: %w", err)
	}
	return &kernelPacer{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

func (p *kernelPacer) sleep(d time.Duration) {
	p.spec.Value = unix.NsecToTimespec(int64(max(d, 1)))
	if unix.TimerfdSettime(p.fd, 0, &p.spec, nil) != nil {
		time.Sleep(d)
		return
	}
	p.file.Read(p.count[:])
}

func (p *kernelPacer) close() { p.file.Close() }
