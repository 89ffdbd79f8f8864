// Package notifier lets the goroutine that receives from a queue in memory sleep
// until somebody has something for it. It waits on channels and timers only, so
// that queues work in the bubbles of testing/synctest.
package notifier

import "time"

// A Notifier wakes one sleeper. One goroutine calls Wait, anyone Notify.
type Notifier struct {
	notified chan struct{}
	timer    *time.Timer
}

// New returns a notifier.
func New() *Notifier { return &Notifier{notified: make(chan struct{}, 1)} }

// Notify ends the current Wait, or the next one.
func (n *Notifier) Notify() {
	select {
	case n.notified <- struct{}{}:
	default:
	}
}

// Wait sleeps until Notify, or until the timeout has passed (negative: never).
func (n *Notifier) Wait(timeout time.Duration) {
	if timeout < 0 {
		<-n.notified
		return
	}
	if n.timer == nil {
		n.timer = time.NewTimer(timeout)
	} else {
		n.timer.Reset(timeout)
	}
	select {
	case <-n.notified:
		n.timer.Stop()
	case <-n.timer.C:
		// Both at once must not leave more behind than one of them: simulations
		// replay what happens.
		select {
		case <-n.notified:
		default:
		}
	}
}
