package accel

import (
	"slices"
	"sync"
	"time"
)

// historyLength is how many samples are kept, one for each look of Runtime.watch, which
// is a second: five minutes, in 24 KB.
const historyLength = 300

// A Sample is what a runtime had done until a moment, summed over its shards.
// Differences between samples are what it did between them.
type Sample struct {
	// Time is the moment.
	Time time.Time
	// RxFrames, RxBytes, TxFrames and TxBytes count what the queues received and
	// sent.
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	// Busy is the time in which pollers had frames to handle.
	Busy time.Duration
	// Retransmits counts TCP segments sent again.
	Retransmits uint64
	// Connections is how many there were, in whatever state.
	Connections int
}

// history keeps the latest samples.
type history struct {
	mu sync.Mutex
	// mu guards the following fields.
	samples []Sample // a ring once it is full
	next    int
}

func (h *history) add(s Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) < historyLength {
		h.samples = append(h.samples, s)
		return
	}
	h.samples[h.next] = s
	h.next = (h.next + 1) % historyLength
}

// History returns a sample for each second of the last five minutes, oldest first.
// After a fallback there are none.
func (rt *Runtime) History() []Sample {
	h := &rt.history
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Concat(h.samples[h.next:], h.samples[:h.next])
}

// sample takes a sample for the history.
func (rt *Runtime) sample(now time.Time) {
	s := Sample{Time: now}
	for _, sh := range rt.shards {
		t := sh.Totals()
		s.RxFrames += t.RxFrames
		s.RxBytes += t.RxBytes
		s.TxFrames += t.TxFrames
		s.TxBytes += t.TxBytes
		s.Busy += t.Busy
		s.Retransmits += t.Retransmits
		s.Connections += t.Flows
	}
	rt.history.add(s)
}
