package accel

import (
	"slices"
	"strings"
	"time"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/histogram"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/bifurcation"
	"github.com/gotpa/tpa/link/dpdk"
	tpanet "github.com/gotpa/tpa/net"
)

const (
	// watchEvery is the time between two looks at the link.
	watchEvery = time.Second
	// sampleEvery is the time between two samples of round-trip times, and
	// sampleConns how many connections of a shard one sample looks at: 1,000 take
	// about a millisecond.
	sampleEvery = 10 * time.Second
	sampleConns = 1000
)

// watch looks at what nobody announces until the runtime stops: the link and the
// round-trip times.
func (rt *Runtime) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	up, sampled := rt.device.LinkUp(), time.Now()
	for {
		select {
		case now := <-tick.C:
			if is := rt.device.LinkUp(); is != up {
				up = is
				rt.log.Warn("link changed", "device", rt.device.Info().Name, "up", up)
			}
			if rt.sharing != nil {
				rt.sharing.tend()
			}
			rt.followSpread()
			for _, s := range rt.shards {
				s.Tidy()
			}
			if now.Sub(sampled) < sampleEvery {
				continue
			}
			sampled = now
			for _, s := range rt.shards {
				s.SampleRTT(sampleConns)
			}
		case <-rt.stopped:
			return
		}
	}
}

// ShardStats are the counters and gauges of one shard.
type ShardStats = shard.Stats

// LimitStats tell how near a shard is to its limits, and what they cost.
type LimitStats = limits.Stats

// HandoverStats count what arrived on the queue of one shard and belonged to
// another.
type HandoverStats = handover.MemberStats

// Histogram is the distribution of durations.
type Histogram = histogram.Snapshot

// Stats are the counters and gauges of a runtime. Counters count from its start
// and never go back.
type Stats struct {
	// Accelerated is false for a runtime that fell back to the kernel; Reason
	// says why.
	Accelerated bool
	Reason      error
	// DPDK is the version of the library that the program is linked with, empty
	// without one.
	DPDK string
	// Info, LinkUp and Device describe the device; zero after a fallback.
	Info   link.Info
	LinkUp bool
	Device link.DeviceStats
	// Neighbours are those of the table that all shards share.
	Neighbours netif.NeighbourStats
	// Sharing tells about a device that is shared with the kernel, nil for others.
	Sharing *SharingStats
	// Limits are in force, defaults filled in. What they cost is in Shards.
	Limits Limits
	// Shards has one element per queue.
	Shards []ShardStats
	// Listeners has one element per open listener, sorted by address.
	Listeners []ListenerStats
	// Memory is what DPDK has taken, by NUMA node; nil without.
	Memory []dpdk.Memory
	// Recorder tells about the flight recorder, zero without one.
	Recorder RecorderStats
	// FallbackListens and FallbackDials count what went through the kernel.
	FallbackListens, FallbackDials uint64
	// Dials counts accelerated dials by their end.
	Dials DialStats
}

// RecorderStats tell about the flight recorder.
type RecorderStats = recorder.Stats

// SharingStats tell how a device is shared with the kernel.
type SharingStats struct {
	// Filter says what keeps our flows apart, Backend in one word: xdp or rte_flow.
	Filter, Backend string
	// Steering counts claimed ports, and frames by what the filter made of them.
	Steering bifurcation.Stats
	// Kernel counts the news from the kernel.
	Kernel follower.Stats
}

// ListenerStats tell about one listener.
type ListenerStats struct {
	// Addr is the address listened on.
	Addr string
	// Queues has one element per shard.
	Queues []AcceptStats
}

// AcceptStats tell about the accept queue of a listener on one shard.
type AcceptStats = tpanet.AcceptStats

// DialStats count dials by their end.
type DialStats struct {
	OK, Refused, Timeout, Canceled, Failed uint64
	// Duration counts the time that they took, however they ended.
	Duration Histogram
}

// Stats reads the counters. It takes no lock of the data path; the device may be
// asked, so it is not for tight loops.
func (rt *Runtime) Stats() Stats {
	s := Stats{
		Accelerated: rt.reason == nil, Reason: rt.reason, DPDK: dpdk.Version(),
		FallbackListens: rt.fallbackListens.Load(), FallbackDials: rt.fallbackDials.Load(),
		Dials: DialStats{
			OK: rt.dials.ok.Load(), Refused: rt.dials.refused.Load(), Timeout: rt.dials.timeout.Load(),
			Canceled: rt.dials.canceled.Load(), Failed: rt.dials.failed.Load(),
			Duration: rt.dials.duration.Snapshot(),
		},
	}
	if rt.reason != nil {
		return s
	}
	rt.mu.Lock()
	closed := rt.closed
	for l := range rt.listeners {
		if l, ok := l.(*listener); ok {
			s.Listeners = append(s.Listeners, ListenerStats{Addr: l.Addr().String(), Queues: l.Stats()})
		}
	}
	rt.mu.Unlock()
	slices.SortFunc(s.Listeners, func(a, b ListenerStats) int { return strings.Compare(a.Addr, b.Addr) })
	s.Info = rt.device.Info()
	if !closed {
		s.LinkUp, s.Device = rt.device.LinkUp(), rt.device.Stats()
	}
	s.Neighbours, s.Memory, s.Limits = rt.neighbours.Stats(), dpdk.MemoryStats(), rt.budget.Limits()
	if rt.recorder != nil {
		s.Recorder = rt.recorder.Stats()
	}
	if rt.sharing != nil {
		s.Sharing = &SharingStats{
			Filter:   rt.sharing.steering.Filter().String(),
			Backend:  rt.sharing.steering.Filter().Stats().Backend,
			Steering: rt.sharing.steering.Stats(),
			Kernel:   rt.sharing.follower.Stats(),
		}
	}
	for _, sh := range rt.shards {
		s.Shards = append(s.Shards, sh.Stats())
	}
	return s
}
