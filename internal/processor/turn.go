package processor

import (
	"math"
	"runtime/metrics"
	"time"

	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/clock"
)

const (
	// turnEvery is how long a busy poller polls, at least, between two turns of the
	// global run queue. A turn that finds nobody costs a microsecond.
	turnEvery = time.Millisecond
	// globalTick is how often a P looks at the global run queue while its own is not
	// empty: once in so many goroutines (Go, schedule in runtime/proc.go).
	globalTick = 61
)

// Turns have goroutines of Go's global run queue run, beside a busy poller.
//
// A poller yields by Goyield, which leaves it in the run queue of its P: it goes on
// after those that it woke. Others come to the global queue: goroutines that were
// preempted, that waited for a descriptor of the kernel, that were too many for a
// P's own queue. A P whose own queue is never empty takes one of them in 61
// switches, and a poller that runs handlers for a millisecond switches a thousand
// times a second. Without more ado a program with no P but pollers' would start 16
// such goroutines a second.
type Turns struct {
	clock *clock.Clock
	// due is when the next turn is, in nanoseconds as the clock has them.
	due      int64
	runnable [1]metrics.Sample
}

// NewTurns returns the Turns of a poller whose clock is c.
func NewTurns(c *clock.Clock) Turns {
	t := Turns{clock: c, runnable: [1]metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}}
	if clock.Virtual() {
		t.due = math.MaxInt64 // a clock that stands still ends no turn
	}
	return t
}

// Give lets goroutines of the global run queue run, if it is their turn: until none
// is left, or for turnEvery. After longer turns the poller polls for as long as they
// took: nobody gets less than half of a processor. now is the time of this poll.
func (t *Turns) Give(now int64) {
	if now < t.due {
		return
	}
	begin := t.clock.Refresh()
	end := begin
	for end-begin < int64(turnEvery) && t.waiting() {
		for range globalTick {
			gsync.Goyield()
		}
		end = t.clock.Refresh()
	}
	t.due = end + max(int64(turnEvery), end-begin)
}

// waiting tells whether a goroutine is runnable in any queue.
func (t *Turns) waiting() bool {
	metrics.Read(t.runnable[:])
	v := t.runnable[0].Value
	return v.Kind() == metrics.KindUint64 && v.Uint64() > 0
}
