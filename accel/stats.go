package accel

import (
	"sort"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
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
				rt.sharing.guard()
			}
			rt.followSpread()
			rt.sample(now)
			for _, s := range rt.shards {
				s.Tidy()
				s.CheckHandlers()
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

// Stats are the counters and gauges of a runtime. Counters count from its start
// and never go back.
type Stats struct {
	// Accelerated is false for a runtime that fell back to the kernel, and for one
	// whose device is lost; Reason says why.
	Accelerated bool
	Reason      error
	// DPDK is the version of the library that the program is linked with, empty
	// without one.
	DPDK string
	// Info, LinkUp and Device describe the device; zero after a fallback.
	Info   link.Info
	LinkUp bool
	Device DeviceStats
	// Neighbours are those of the table that all shards share.
	Neighbours NeighbourStats
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

// DeviceStats are counters of a whole device since it was opened.
type DeviceStats struct {
	// RxPackets and RxBytes count frames that the device received, TxPackets and
	// TxBytes those that it sent.
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	// RxMissed counts frames that the device dropped because its rings were full.
	RxMissed uint64 `json:"rx_missed"`
	// RxNoBuffer counts frames lost for want of a packet buffer.
	RxNoBuffer uint64 `json:"rx_no_buffer"`
	// RxErrors counts frames that the device found broken, TxErrors those that it
	// could not send.
	RxErrors uint64 `json:"rx_errors"`
	TxErrors uint64 `json:"tx_errors"`
	// LinkSpeed is in bits per second, 0 when there is no link, or nobody knows.
	LinkSpeed uint64 `json:"link_speed"`
	// BuffersInUse and BuffersTotal are packet buffers of all pools. Those that wait
	// in receive rings are in use.
	BuffersInUse int `json:"buffers_in_use"`
	BuffersTotal int `json:"buffers_total"`
	// Extended holds the driver's own counters by the driver's names; nil where there
	// are none.
	Extended map[string]uint64 `json:"extended,omitempty"`
}

// NeighbourStats tell about the neighbour table, which all shards share.
type NeighbourStats struct {
	// RequestsSent counts ARP requests and neighbour solicitations sent.
	RequestsSent uint64 `json:"requests_sent"`
	// RepliesSent counts answers to questions for our own addresses.
	RepliesSent uint64 `json:"replies_sent"`
	// RepliesReceived counts answers that resolved or confirmed an address.
	RepliesReceived uint64 `json:"replies_received"`
	// Failures counts addresses that nobody answered for.
	Failures uint64 `json:"failures"`
	// HeldDropped counts packets dropped while their next hop was asked for.
	HeldDropped uint64 `json:"held_dropped"`
	// Changes counts neighbours that came back with another MAC address.
	Changes uint64 `json:"changes"`
	// Entries is the size of the table.
	Entries int `json:"entries"`
	// Unresolved is the number of addresses being asked for.
	Unresolved int `json:"unresolved"`
}

// RecorderStats tell about the flight recorder.
type RecorderStats struct {
	// Recorded is the number of open connections that are recorded.
	Recorded int `json:"recorded"`
	// Missed counts connections that found no room.
	Missed uint64 `json:"missed"`
	// Captures counts recordings of connections in trouble that were kept.
	Captures uint64 `json:"captures"`
}

// SharingStats tell how a device is shared with the kernel.
type SharingStats struct {
	// Filter says for people what keeps our flows apart.
	Filter string
	// Backend is Filter in one word: xdp or rte_flow.
	Backend string
	// Steering tells about claimed ports, and what the filter made of frames.
	Steering SteeringStats
	// Kernel counts what the kernel tells about the interface.
	Kernel KernelStats
	// Routes counts packets and dials that the kernel would send elsewhere.
	Routes RouteStats
}

// RouteStats count where the kernel's routes lead away from the device.
type RouteStats struct {
	// KernelDials counts dials that went through the kernel, because it does not route
	// them by the device as they are.
	KernelDials uint64 `json:"kernel_dials"`
	// AsideReplies counts how often the way to a peer was looked for, and the kernel
	// would have sent by another interface: the device was taken all the same.
	AsideReplies uint64 `json:"aside_replies"`
	// ClosedReplies counts those where the peer got nothing, because the kernel would
	// encrypt it, tunnel it or not send it.
	ClosedReplies uint64 `json:"closed_replies"`
}

// SteeringStats tell about claimed ports and the filter of a shared device.
type SteeringStats struct {
	// Claims is the number of claims: listeners, and blocks of ports for dialing.
	Claims int `json:"claims"`
	// Ports is that of claimed ports, each counted for each address.
	Ports int `json:"ports"`
	// Rules is that of flow rules on the device; 0 where a filter has none.
	Rules int `json:"rules"`
	// Frames counts frames by what the filter made of them, first those that came
	// here. Empty where the filter does not count.
	Frames []FrameCount `json:"frames"`
	// Operations counts changes of the filter.
	Operations SteeringOperations `json:"operations"`
}

// A FrameCount counts the frames that a filter treated alike.
type FrameCount struct {
	// Name says what they were, such as "not TCP".
	Name string `json:"name"`
	// Frames is their number.
	Frames uint64 `json:"frames"`
	// Taker is who has them: "accel", "kernel", or "filter" where they ended there.
	Taker string `json:"taker"`
}

// SteeringOperations count changes of a filter by kind.
type SteeringOperations struct {
	// Claims and Releases are those of ports.
	Claims   OperationCounts `json:"claims"`
	Releases OperationCounts `json:"releases"`
	// Exceptions are changes of who gets single flows at a port.
	Exceptions OperationCounts `json:"exceptions"`
}

// OperationCounts count operations by their end.
type OperationCounts struct {
	// Done counts those that succeeded.
	Done uint64 `json:"done"`
	// Failed counts those that did not.
	Failed uint64 `json:"failed"`
}

// KernelStats count what the kernel tells about an interface.
type KernelStats struct {
	// Changes counts changes of the interface, its addresses and its routes.
	Changes uint64 `json:"changes"`
	// Neighbours counts changes of neighbours.
	Neighbours uint64 `json:"neighbours"`
	// Resyncs counts how often notifications were lost and everything was read anew.
	Resyncs uint64 `json:"resyncs"`
	// Resolves counts next hops that the kernel was asked to resolve.
	Resolves uint64 `json:"resolves"`
	// ResolveErrors counts those that it refused to resolve.
	ResolveErrors uint64 `json:"resolve_errors"`
	// Known is the number of neighbours that are remembered, 4096 at most.
	Known int `json:"known"`
	// ICMP counts ICMP errors that the kernel passed on.
	ICMP uint64 `json:"icmp"`
	// ICMPDropped counts those dropped because they came too fast.
	ICMPDropped uint64 `json:"icmp_dropped"`
}

// ListenerStats tell about one listener.
type ListenerStats struct {
	// Addr is the address listened on.
	Addr string
	// Queues has one element per shard.
	Queues []AcceptStats
}

// AcceptStats tell about the accept queue of a listener on one shard.
type AcceptStats struct {
	// Shard is the number of the shard.
	Shard int
	// Accepted counts connections that Accept returned.
	Accepted uint64
	// Waiting is the number of connections that wait for Accept.
	Waiting int
}

// DialStats count accelerated dials by their end.
type DialStats struct {
	// OK counts those that connected.
	OK uint64 `json:"ok"`
	// Refused counts those that a reset answered.
	Refused uint64 `json:"refused"`
	// Timeout counts those that ran out of time.
	Timeout uint64 `json:"timeout"`
	// Canceled counts those whose context was canceled.
	Canceled uint64 `json:"canceled"`
	// Failed counts all others that failed.
	Failed uint64 `json:"failed"`
	// Duration counts the time that they took, however they ended.
	Duration Histogram `json:"duration"`
}

// Stats reads the counters. It takes no lock of the data path but that of each
// connection, for a moment; the device may be asked, so it is not for tight loops.
func (rt *Runtime) Stats() Stats {
	accelerated, why := rt.Accelerated()
	s := Stats{
		Accelerated: accelerated, Reason: why, DPDK: dpdk.Version(),
		FallbackListens: rt.fallbackListens.Load(), FallbackDials: rt.fallbackDials.Load(),
		Dials: DialStats{
			OK: rt.dials.ok.Load(), Refused: rt.dials.refused.Load(), Timeout: rt.dials.timeout.Load(),
			Canceled: rt.dials.canceled.Load(), Failed: rt.dials.failed.Load(),
			Duration: Histogram(rt.dials.duration.Snapshot()),
		},
	}
	if rt.reason != nil {
		return s
	}
	rt.mu.Lock()
	closed := rt.closed
	for l := range rt.listeners {
		if l, ok := l.(*listener); ok {
			line := ListenerStats{Addr: l.Addr().String()}
			for _, q := range l.Stats() {
				line.Queues = append(line.Queues, AcceptStats(q))
			}
			s.Listeners = append(s.Listeners, line)
		}
	}
	rt.mu.Unlock()
	sort.Slice(s.Listeners, func(i, j int) bool { return s.Listeners[i].Addr < s.Listeners[j].Addr })
	s.Info = rt.device.Info()
	if !closed {
		s.LinkUp, s.Device = rt.device.LinkUp(), DeviceStats(rt.device.Stats())
	}
	s.Neighbours, s.Memory, s.Limits = NeighbourStats(rt.neighbours.Stats()), dpdk.MemoryStats(), Limits(rt.budget.Limits())
	if rt.recorder != nil {
		s.Recorder = RecorderStats(rt.recorder.Stats())
	}
	if rt.sharing != nil {
		s.Sharing = &SharingStats{
			Filter:   rt.sharing.steering.Filter().String(),
			Backend:  rt.sharing.steering.Filter().Stats().Backend,
			Steering: steeringStats(rt.sharing.steering.Stats()),
			Kernel:   KernelStats(rt.sharing.follower.Stats()),
		}
		if r := rt.sharing.routing; r != nil {
			s.Sharing.Routes = RouteStats{
				KernelDials: r.kernelDials.Load(), AsideReplies: r.asideReplies.Load(), ClosedReplies: r.closedReplies.Load(),
			}
		}
	}
	for _, sh := range rt.shards {
		st := sh.Stats()
		s.Shards = append(s.Shards, shardStats(&st))
	}
	return s
}
