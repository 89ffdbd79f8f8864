package accel

import (
	"time"

	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/link"
)

// ShardStats are the counters and gauges of one shard.
type ShardStats = shard.Stats

// Stats are the counters and gauges of a runtime. Counters count from its start
// and never go back.
type Stats struct {
	// Accelerated is false for a runtime that fell back to the kernel; Reason
	// says why.
	Accelerated bool
	Reason      error
	// Info, LinkUp and Device describe the device; zero after a fallback.
	Info   link.Info
	LinkUp bool
	Device link.DeviceStats
	// Neighbours are those of the table that all shards share.
	Neighbours link.NeighbourStats
	// Shards has one element per queue.
	Shards []ShardStats
	// FallbackListens and FallbackDials count what went through the kernel.
	FallbackListens, FallbackDials uint64
	// Dials counts accelerated dials by their end.
	Dials DialStats
}

// DialStats count dials by their end.
type DialStats struct {
	OK, Refused, Timeout, Canceled, Failed uint64
	// Time is the sum of the time that all of them took.
	Time time.Duration
}

// Stats reads the counters. It takes no lock of the data path; the device may be
// asked, so it is not for tight loops.
func (rt *Runtime) Stats() Stats {
	s := Stats{
		Accelerated: rt.reason == nil, Reason: rt.reason,
		FallbackListens: rt.fallbackListens.Load(), FallbackDials: rt.fallbackDials.Load(),
		Dials: DialStats{
			OK: rt.dials.ok.Load(), Refused: rt.dials.refused.Load(), Timeout: rt.dials.timeout.Load(),
			Canceled: rt.dials.canceled.Load(), Failed: rt.dials.failed.Load(),
			Time: time.Duration(rt.dials.time.Load()),
		},
	}
	if rt.reason != nil {
		return s
	}
	rt.mu.Lock()
	closed := rt.closed
	rt.mu.Unlock()
	s.Info = rt.device.Info()
	if !closed {
		s.LinkUp, s.Device = rt.device.LinkUp(), rt.device.Stats()
	}
	s.Neighbours = rt.neighbours.Stats()
	for _, sh := range rt.shards {
		s.Shards = append(s.Shards, sh.Stats())
	}
	return s
}
