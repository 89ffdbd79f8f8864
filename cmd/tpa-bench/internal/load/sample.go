package load

import (
	"runtime"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// newHistogram keeps three digits of latencies in ns. It takes 250 KB.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, 3) }

// collector is a histogram that several connections share. There are as many as
// processors: one for each connection would not fit into caches, and the generator
// would soon be the limit.
type collector struct {
	mu sync.Mutex
	// mu guards the following fields
	histogram *hdrhistogram.Histogram
}

// newCollectors makes one for each processor that Go uses.
func newCollectors() []collector {
	all := make([]collector, runtime.GOMAXPROCS(0))
	for i := range all {
		all[i].histogram = newHistogram()
	}
	return all
}

// merged returns what all have collected. No sampler may be in use any more.
func merged(all []collector) *hdrhistogram.Histogram {
	sum := newHistogram()
	for i := range all {
		sum.Merge(all[i].histogram)
	}
	return sum
}

// sampler takes values from one goroutine and hands them on by the dozen.
type sampler struct {
	to      *collector
	n       int // of values that are not handed on yet
	pending [32]int64
}

func (s *sampler) add(ns int64) {
	if s.n == len(s.pending) {
		s.flush()
	}
	s.pending[s.n] = ns
	s.n++
}

// flush hands on what is pending.
func (s *sampler) flush() {
	if s.n == 0 {
		return
	}
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	for _, ns := range s.pending[:s.n] {
		s.to.histogram.RecordValue(min(ns, maxLatency))
	}
	s.n = 0
}
