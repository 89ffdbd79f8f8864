// Package bell lets the goroutine that receives from a queue in memory sleep
// until somebody has something for it. It waits on channels and timers only, so
// that queues work in the bubbles of testing/synctest.
package bell

import "time"

// A Bell wakes one sleeper. One goroutine calls Wait, anyone Ring.
type Bell struct {
	rung  chan struct{}
	timer *time.Timer
}

// New returns a bell.
func New() *Bell { return &Bell{rung: make(chan struct{}, 1)} }

// Ring ends the current Wait, or the next one.
func (b *Bell) Ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

// Wait sleeps until Ring, or until the timeout has passed (negative: never).
func (b *Bell) Wait(timeout time.Duration) {
	if timeout < 0 {
		<-b.rung
		return
	}
	if b.timer == nil {
		b.timer = time.NewTimer(timeout)
	} else {
		b.timer.Reset(timeout)
	}
	select {
	case <-b.rung:
		b.timer.Stop()
	case <-b.timer.C:
		// Both at once must not leave more behind than one of them: simulations
		// replay what happens.
		select {
		case <-b.rung:
		default:
		}
	}
}
