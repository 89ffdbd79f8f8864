// Package histogram counts durations in fixed buckets, for metrics. Counting
// takes no lock and allocates nothing.
package histogram

import (
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets, inclusive; what is longer falls
// into one more. They span a round trip inside a rack and one around the world.
var bounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// A Histogram counts durations. The zero value is empty. All methods may be
// called by any goroutine.
type Histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	// Short first: most are.
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// Snapshot returns the counts so far.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Bounds: bounds[:], Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// A Snapshot is the counts of a Histogram at one moment.
type Snapshot struct {
	// Bounds are the upper bounds of the buckets, inclusive. It must not be
	// changed.
	Bounds []time.Duration
	// Counts has one element for each bound, the number of durations in that
	// bucket alone, and a last one for those above all bounds.
	Counts []uint64
	// Sum is the sum of all durations.
	Sum time.Duration
}
