package shard

import "time"

// Totals are counters that can be read every second, whatever the number of
// connections.
type Totals struct {
	// RxFrames to TxBytes are those of the queue.
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	// Busy is the time in which the poller had frames to handle.
	Busy time.Duration
	// Retransmits counts TCP segments sent again.
	Retransmits uint64
	// Flows is how many connections there are now, in whatever state.
	Flows int
}

// Totals reads the counters. It takes no lock that the data path takes.
func (s *Shard) Totals() Totals {
	q := s.queue.Stats()
	return Totals{
		RxFrames: q.RxFrames, RxBytes: q.RxBytes, TxFrames: q.TxFrames, TxBytes: q.TxBytes,
		Busy: s.pollerStats().Busy, Retransmits: s.stackStats.TCP.Retransmits.Value(), Flows: s.engine.Flows(),
	}
}
