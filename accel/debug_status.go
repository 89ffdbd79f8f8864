package accel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/eventlog"
	"github.com/gotpa/tpa/link"
	tpanet "github.com/gotpa/tpa/net"
)

// Status is all that is known about a runtime at one moment, for people and for
// the tools of tpa-bench. Counters count from the runtime's start.
type Status struct {
	Time    time.Time `json:"time"`
	Program Program   `json:"program"`
	// Accelerated is false for a runtime that fell back to the kernel; Reason
	// says why. It then has no device, shards and connections here.
	Accelerated bool           `json:"accelerated"`
	Reason      string         `json:"reason,omitempty"`
	Device      DeviceStatus   `json:"device"`
	Shards      []ShardStatus  `json:"shards"`
	Drops       []Drop         `json:"drops"`
	Listeners   []ListenStatus `json:"listeners"`
	// Conns are the established connections. One that comes or goes while they
	// are listed may be missing.
	Conns      []ConnStatus      `json:"conns"`
	Addrs      []netip.Prefix    `json:"addrs"`
	Routes     []RouteStatus     `json:"routes"`
	Neighbours []NeighbourStatus `json:"neighbours"`
	// Sharing tells how the device is shared with the kernel, nil where it is not.
	Sharing *SharingStatus `json:"sharing,omitempty"`
	// Events are what the runtime logged lately, oldest first.
	Events []Event `json:"events"`
}

// Program is the process that a runtime belongs to.
type Program struct {
	Name       string    `json:"name"`
	PID        int       `json:"pid"`
	Version    string    `json:"version"` // of this module
	Go         string    `json:"go"`
	DPDK       string    `json:"dpdk,omitempty"`
	GOMAXPROCS int       `json:"gomaxprocs"`
	Started    time.Time `json:"started"` // the runtime
	// Socket is the path of the debug socket, empty without one.
	Socket string `json:"socket,omitempty"`
}

// DeviceStatus describes a runtime's device.
type DeviceStatus struct {
	Name         string            `json:"name"`
	Driver       string            `json:"driver"`
	HardwareAddr string            `json:"hardware_addr"`
	MTU          int               `json:"mtu"`
	LinkUp       bool              `json:"link_up"`
	LinkSpeed    uint64            `json:"link_speed"` // bits per second, 0 when unknown
	NUMANode     int               `json:"numa_node"`  // -1 when unknown
	Offloads     []string          `json:"offloads"`
	Counters     map[string]uint64 `json:"counters"`
	BuffersInUse int               `json:"buffers_in_use"`
	BuffersTotal int               `json:"buffers_total"`
}

// ShardStatus describes one queue with its poller and its stack.
type ShardStatus struct {
	Index int `json:"index"`
	// CPU is where the poller is pinned, -1 when it floats.
	CPU int `json:"cpu"`
	// Busy and Idle share the time since the poller started.
	Busy time.Duration `json:"busy_ns"`
	Idle time.Duration `json:"idle_ns"`
	// Conns is the number of established connections.
	Conns      int    `json:"conns"`
	Polls      uint64 `json:"polls"`
	EmptyPolls uint64 `json:"empty_polls"`
	Sleeps     uint64 `json:"sleeps"`
	RxFrames   uint64 `json:"rx_frames"`
	RxBytes    uint64 `json:"rx_bytes"`
	TxFrames   uint64 `json:"tx_frames"`
	TxBytes    uint64 `json:"tx_bytes"`
	// RxBursts and TxBursts count bursts of 1, 2-3, 4-7, … 32-63 and more frames.
	RxBursts []uint64 `json:"rx_bursts"`
	TxBursts []uint64 `json:"tx_bursts"`
	// RTT is an estimate of the median and the 99th percentile of the round-trip
	// times since the runtime started: bounds of their buckets.
	RTT50 time.Duration `json:"rtt_p50_ns"`
	RTT99 time.Duration `json:"rtt_p99_ns"`
	// Counters are all counters of the shard by name, such as
	// "stack.tcp.retransmits". Those that are 0 are left out.
	Counters map[string]uint64 `json:"counters"`
}

// A Drop counts packets lost at one place. Drops are listed in the order in which
// a packet passes the places, first those on the way in, then those on the way
// out: the first one that grows is where to look.
type Drop struct {
	Out     bool   `json:"out"`
	Place   string `json:"place"`
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// ListenStatus describes one listener.
type ListenStatus struct {
	Addr     string `json:"addr"`
	Accepted uint64 `json:"accepted"`
	Waiting  int    `json:"waiting"` // for Accept
}

// ConnStatus describes one connection.
type ConnStatus struct {
	Shard  int           `json:"shard"`
	State  string        `json:"state"`
	Local  string        `json:"local"`
	Remote string        `json:"remote"`
	Age    time.Duration `json:"age_ns"`
	RTT    time.Duration `json:"rtt_ns"`
	RTTVar time.Duration `json:"rttvar_ns"`
	RTO    time.Duration `json:"rto_ns"`
	// Cwnd and Ssthresh are in segments.
	Cwnd            uint32 `json:"cwnd"`
	Ssthresh        uint32 `json:"ssthresh"`
	Retransmits     uint64 `json:"retransmits"`
	FastRetransmits uint64 `json:"fast_retransmits"`
	Timeouts        uint64 `json:"timeouts"`
	// ReceiveQueue is how many bytes wait to be read.
	ReceiveQueue int `json:"receive_queue"`
	// SendQueue is how many bytes wait to be acknowledged, sent or not; -1 when
	// that is not known: of a connection of gVisor's TCP that is not recorded.
	SendQueue int `json:"send_queue"`
	// Trace is the connection's number with the flight recorder, 0 for none.
	Trace   uint64 `json:"trace,omitempty"`
	Read    uint64 `json:"read"`    // bytes
	Written uint64 `json:"written"` // bytes
}

// RouteStatus is one line of the routing table. The first that fits wins.
type RouteStatus struct {
	Destination string `json:"destination"`
	Gateway     string `json:"gateway,omitempty"` // none: on the link
}

// NeighbourStatus is one line of the neighbour table.
type NeighbourStatus struct {
	Addr         string `json:"addr"`
	HardwareAddr string `json:"hardware_addr"`
}

// SharingStatus describes how a device is shared with the kernel.
type SharingStatus struct {
	// Filter says what keeps our flows apart.
	Filter string `json:"filter"`
	// Claims are the local ports that are ours.
	Claims []ClaimStatus `json:"claims"`
	// Verdicts count frames by what the filter made of them, first those that came
	// here. Empty where the filter does not count.
	Verdicts []VerdictStatus `json:"verdicts"`
	// Counters are all others by name, such as "steering.operations.claims.done".
	Counters map[string]uint64 `json:"counters"`
}

// ClaimStatus is a range of local ports that is ours.
type ClaimStatus struct {
	Addr  string `json:"addr"` // empty: all addresses
	First uint16 `json:"first"`
	Count int    `json:"count"`
	// Draining: no new connection comes, those that are left stay ours.
	Draining bool `json:"draining,omitempty"`
	// Kept is the number of flows at these ports that the kernel had before.
	Kept int `json:"kept,omitempty"`
}

// Last is the last port of the range.
func (c ClaimStatus) Last() int { return int(c.First) + c.Count - 1 }

// VerdictStatus counts the frames of one kind.
type VerdictStatus struct {
	Verdict string `json:"verdict"`
	Frames  uint64 `json:"frames"`
}

// Event is what a runtime logged.
type Event = eventlog.Event

// Status tells all about the runtime. It locks each connection for a moment and
// is meant for people, not for tight loops; see Stats.
func (rt *Runtime) Status() Status {
	s := rt.Stats()
	status := Status{
		Time: time.Now(),
		Program: Program{
			Name: filepath.Base(os.Args[0]), PID: os.Getpid(), Version: Version(), Go: runtime.Version(),
			DPDK: s.DPDK, GOMAXPROCS: runtime.GOMAXPROCS(0), Started: rt.started,
		},
		Accelerated: s.Accelerated,
		Events:      rt.events.Events(),
	}
	if rt.socket != nil {
		status.Program.Socket = rt.socket.path
	}
	if !s.Accelerated {
		status.Reason = s.Reason.Error()
		return status
	}
	status.Device = deviceStatus(&s)
	status.Drops = drops(&s)
	for i := range s.Shards {
		status.Shards = append(status.Shards, shardStatus(i, &s.Shards[i]))
	}
	for _, l := range s.Listeners {
		line := ListenStatus{Addr: l.Addr}
		for _, q := range l.Queues {
			line.Accepted += q.Accepted
			line.Waiting += q.Waiting
		}
		status.Listeners = append(status.Listeners, line)
	}
	status.Conns = rt.conns(status.Time)
	status.Addrs = rt.shards[0].Addresses()
	for _, r := range rt.shards[0].Routes() {
		line := RouteStatus{Destination: r.Destination.String()}
		if r.Gateway.Len() > 0 {
			line.Gateway = r.Gateway.String()
		}
		status.Routes = append(status.Routes, line)
	}
	for addr, mac := range rt.neighbours.All() {
		status.Neighbours = append(status.Neighbours, NeighbourStatus{addr.String(), mac.String()})
	}
	if s.Sharing != nil {
		status.Sharing = rt.sharingStatus(s.Sharing)
	}
	slices.SortFunc(status.Neighbours, func(a, b NeighbourStatus) int { return strings.Compare(a.Addr, b.Addr) })
	return status
}

func (rt *Runtime) sharingStatus(s *SharingStats) *SharingStatus {
	status := &SharingStatus{Filter: s.Filter, Counters: make(map[string]uint64)}
	for _, c := range rt.sharing.steering.Claims() {
		line := ClaimStatus{First: c.First, Count: c.Count, Draining: c.Draining, Kept: len(c.Kept)}
		if c.Addr.IsValid() {
			line.Addr = c.Addr.String()
		}
		status.Claims = append(status.Claims, line)
	}
	for _, v := range s.Steering.Frames {
		status.Verdicts = append(status.Verdicts, VerdictStatus{v.Name, v.Frames})
	}
	flatten(status.Counters, "kernel", reflect.ValueOf(s.Kernel))
	flatten(status.Counters, "steering", reflect.ValueOf(s.Steering))
	return status
}

func (rt *Runtime) conns(now time.Time) []ConnStatus {
	var conns []ConnStatus
	for _, s := range rt.shards {
		for c := range s.Conns() {
			tc := c.Conn().(*tpanet.Conn)
			i := tc.Info()
			trace := uint64(0)
			if t := c.Trace(); t != nil {
				trace = t.ID()
			}
			conns = append(conns, ConnStatus{
				Trace: trace,
				Shard: i.Shard, State: i.State,
				Local: tc.LocalAddr().String(), Remote: tc.RemoteAddr().String(), Age: now.Sub(i.Since),
				RTT: i.RTT, RTTVar: i.RTTVar, RTO: i.RTO,
				Cwnd: i.CongestionWindow, Ssthresh: i.SlowStartThreshold,
				Retransmits: i.Retransmits, FastRetransmits: i.FastRetransmits, Timeouts: i.Timeouts,
				ReceiveQueue: i.ReceiveQueue, SendQueue: i.SendQueue, Read: i.BytesRead, Written: i.BytesWritten,
			})
		}
	}
	return conns
}

// Version returns the version of this module in the program, such as "v0.3.0".
func Version() string {
	const module = "github.com/gotpa/tpa"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	return info.Main.Version
}

func deviceStatus(s *Stats) DeviceStatus {
	d := DeviceStatus{
		Name: s.Info.Name, Driver: s.Info.Driver, HardwareAddr: s.Info.HardwareAddr.String(),
		MTU: s.Info.MTU, LinkUp: s.LinkUp, LinkSpeed: s.Device.LinkSpeed, NUMANode: s.Info.NUMANode,
		Offloads:     offloads(s.Info.Capabilities),
		Counters:     make(map[string]uint64),
		BuffersInUse: s.Device.BuffersInUse, BuffersTotal: s.Device.BuffersTotal,
	}
	device := s.Device
	device.LinkSpeed, device.BuffersInUse, device.BuffersTotal, device.Extended = 0, 0, 0, nil
	flatten(d.Counters, "", reflect.ValueOf(device))
	flatten(d.Counters, "neighbour", reflect.ValueOf(s.Neighbours))
	for name, v := range s.Device.Extended {
		d.Counters["extended."+name] = v
	}
	return d
}

func offloads(c link.Capabilities) []string {
	list := []string{}
	add := func(ok bool, name string) {
		if ok {
			list = append(list, name)
		}
	}
	add(c.RxChecksum, "rx-checksum")
	add(c.TxIPv4Checksum, "tx-ipv4-checksum")
	add(c.TxTCPChecksum, "tx-tcp-checksum")
	add(c.TSO > 0, fmt.Sprintf("tso-%d", c.TSO))
	return list
}

func shardStatus(index int, s *ShardStats) ShardStatus {
	status := ShardStatus{
		Index: index, CPU: s.CPU, Busy: s.Poller.Busy, Idle: s.Poller.Idle, Conns: s.Flows,
		Polls: s.Poller.Polls, EmptyPolls: s.Poller.Empty, Sleeps: s.Poller.Sleeps,
		RxFrames: s.Queue.RxFrames, RxBytes: s.Queue.RxBytes, TxFrames: s.Queue.TxFrames, TxBytes: s.Queue.TxBytes,
		RxBursts: s.Poller.Bursts[:], TxBursts: s.Link.TxBursts[:],
		RTT50: s.Conns.RTT.Quantile(0.5), RTT99: s.Conns.RTT.Quantile(0.99),
		Counters: make(map[string]uint64),
	}
	flatten(status.Counters, "", reflect.ValueOf(*s))
	return status
}

// drops lists the places where packets get lost.
func drops(s *Stats) []Drop {
	d := &s.Device
	list := []Drop{
		{Place: "device", Reason: "broken", Packets: d.RxErrors},
		{Place: "device", Reason: "ring full: the poller is too slow", Packets: d.RxMissed},
		{Place: "device", Reason: "no buffer", Packets: d.RxNoBuffer},
	}
	sum := func(out bool, place, reason string, read func(*ShardStats) uint64) {
		drop := Drop{Out: out, Place: place, Reason: reason}
		for i := range s.Shards {
			drop.Packets += read(&s.Shards[i])
		}
		list = append(list, drop)
	}
	sum(false, "queue", "no buffer", func(s *ShardStats) uint64 { return s.Queue.RxNoBuffer })
	sum(false, "queue", "ring to the owner full", func(s *ShardStats) uint64 { return s.Handover.Dropped })
	sum(false, "queue", "malformed", func(s *ShardStats) uint64 { return s.Queue.RxMalformed })
	sum(false, "Ethernet", "malformed", func(s *ShardStats) uint64 { return s.Link.RxMalformed })
	sum(false, "Ethernet", "not for us", func(s *ShardStats) uint64 { return s.Link.RxNotOurs })
	sum(false, "Ethernet", "VLAN", func(s *ShardStats) uint64 { return s.Link.RxVLAN })
	sum(false, "Ethernet", "unknown protocol", func(s *ShardStats) uint64 { return s.Link.RxUnknown })
	sum(false, "checksum", "wrong", func(s *ShardStats) uint64 {
		return s.Link.RxBadChecksum + s.Stack.TCP.ChecksumErrors.Value()
	})
	sum(false, "IP", "malformed", func(s *ShardStats) uint64 {
		return s.Stack.IP.MalformedPacketsReceived.Value() + s.Stack.IP.MalformedFragmentsReceived.Value()
	})
	sum(false, "IP", "address", func(s *ShardStats) uint64 {
		return s.Stack.IP.InvalidDestinationAddressesReceived.Value() + s.Stack.IP.InvalidSourceAddressesReceived.Value()
	})
	sum(false, "transport", "malformed", func(s *ShardStats) uint64 { return s.Stack.NICs.MalformedL4RcvdPackets.Value() })
	sum(false, "transport", "unknown protocol", func(s *ShardStats) (n uint64) {
		unknown := s.Stack.NICs.UnknownL4ProtocolRcvdPacketCounts
		for _, protocol := range unknown.Keys() {
			if c, ok := unknown.Get(protocol); ok {
				n += c.Value()
			}
		}
		return n
	})
	sum(false, "transport", "nobody's", func(s *ShardStats) uint64 { return s.Stack.DroppedPackets.Value() })
	sum(false, "ICMP", "invalid", func(s *ShardStats) uint64 {
		return s.Stack.ICMP.V4.PacketsReceived.Invalid.Value() + s.Stack.ICMP.V6.PacketsReceived.Invalid.Value()
	})
	sum(false, "TCP", "invalid", func(s *ShardStats) uint64 { return s.Stack.TCP.InvalidSegmentsReceived.Value() })
	sum(false, "accept queue", "full", func(s *ShardStats) uint64 {
		return s.Stack.TCP.ListenOverflowSynDrop.Value() + s.Stack.TCP.ListenOverflowAckDrop.Value() + s.Limits.RefusedBacklog
	})
	sum(false, "limits", "connections", func(s *ShardStats) uint64 { return s.Limits.RefusedConnections })
	sum(false, "limits", "memory", func(s *ShardStats) uint64 { return s.Limits.RefusedMemory })
	sum(false, "limits", "unanswered", func(s *ShardStats) uint64 { return s.Limits.Unanswered })
	sum(true, "TCP", "not sent", func(s *ShardStats) uint64 { return s.Stack.TCP.SegmentSendErrors.Value() })
	sum(true, "IP", "not sent", func(s *ShardStats) uint64 { return s.Stack.IP.OutgoingPacketErrors.Value() })
	list = append(list, Drop{Out: true, Place: "neighbour", Reason: "unknown", Packets: s.Neighbours.HeldDropped})
	sum(true, "queue", "too long", func(s *ShardStats) uint64 { return s.Link.TxTooLong })
	sum(true, "queue", "ring full", func(s *ShardStats) uint64 { return s.Link.TxNoBuffer })
	sum(true, "queue", "closed", func(s *ShardStats) uint64 { return s.Queue.TxDropped })
	return append(list, Drop{Out: true, Place: "device", Reason: "error", Packets: d.TxErrors})
}

// flatten enters the counters of a struct, and of those in it, under names like
// "queue.rx_frames". What is 0 is left out.
func flatten(to map[string]uint64, prefix string, v reflect.Value) {
	enter := func(n uint64) {
		if n != 0 {
			to[prefix] = n
		}
	}
	switch c := v.Interface().(type) {
	case *tcpip.StatCounter:
		if c != nil {
			enter(c.Value())
		}
		return
	case time.Duration:
		return // no counter
	}
	switch v.Kind() {
	case reflect.Uint64:
		enter(v.Uint())
	case reflect.Struct:
		if prefix != "" {
			prefix += "."
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				flatten(to, prefix+snake(f.Name), v.Field(i))
			}
		}
	}
}

// snake writes a Go name as in metrics: RxNoBuffer becomes rx_no_buffer.
func snake(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if upper(c) && i > 0 && (!upper(name[i-1]) || i+2 < len(name) && !upper(name[i+1])) {
			b.WriteByte('_')
		}
		if upper(c) {
			c += 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}

func upper(c byte) bool { return 'A' <= c && c <= 'Z' }
