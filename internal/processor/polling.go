package processor

import (
	"cmp"
	"os"
	"time"

	"github.com/gotpa/tpa/internal/clock"
)

const (
	defaultSpin     = time.Millisecond
	defaultMaxSleep = time.Millisecond
	// defaultLongHandler is more than a garbage collection or another program on the
	// processor takes, most of the time.
	defaultLongHandler = 10 * time.Millisecond
	// noSpin is a Polling.Spin so short that a poller sleeps at once.
	noSpin = time.Nanosecond
)

// Polling is how a poller behaves when its queue is empty. It first polls
// without a pause, then lets other goroutines run between polls, then sleeps
// for times that double up to MaxSleep. Any frame starts it over.
type Polling struct {
	// Spin is how long an idle poller keeps polling, letting other goroutines run
	// between polls, before it sleeps, at most: see spinner. Longer means less latency
	// after a pause and more processor time. Less than 1 µs is none. Default: 1 ms, or
	// 10 µs with a quota of less than two processors. Negative: never sleep.
	Spin time.Duration
	// MaxSleep is the longest sleep between two polls of a device that cannot
	// wake its poller. It bounds the latency of the first frame after a pause.
	// 10 µs to 100 ms. Default: 1 ms, and 4 ms when no frame has come for a second.
	MaxSleep time.Duration
	// LongHandler is how long a handler may run in the poller before it is counted
	// and logged. 10 µs to 1 min. Default: 10 ms.
	LongHandler time.Duration
}

// A Policy is a Polling whose defaults are filled in. It does not change.
type Policy struct {
	Polling
	// deepens: MaxSleep is the default, which sleeps exceed after a long pause.
	deepens bool
}

// Policy fills in the defaults.
func (p Polling) Policy() *Policy {
	deepens := p.MaxSleep == 0
	if p.Spin == 0 {
		p.Spin = defaultSpin
		// A poller that spins uses up the time that the rest of the program has.
		if q := quota(os.DirFS("/")); q > 0 && q < 2 {
			p.Spin = leastSpin
		}
	}
	if clock.Virtual() {
		p.Spin = noSpin // the clock stands still for as long as anybody runs
	}
	p.MaxSleep = cmp.Or(p.MaxSleep, defaultMaxSleep)
	p.LongHandler = cmp.Or(p.LongHandler, defaultLongHandler)
	return &Policy{Polling: p, deepens: deepens}
}

// Spins tells whether an idle poller spins at all before it sleeps.
func (p *Policy) Spins() bool { return p.Spin < 0 || p.Spin >= time.Microsecond }
