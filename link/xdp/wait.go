package xdp

import (
	"time"

	"github.com/gotpa/tpa/link/internal/sleeper"
)

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

// Wait implements link.Waiter.
func (q *Queue) Wait(timeout time.Duration) {
	q.sleeper.Wait(timeout)
	q.emptyPolls = livenessPolls - 1 // look at once whether the interface still is there
}

// Wake implements link.Waiter.
func (q *Queue) Wake() { q.sleeper.Wake() }
