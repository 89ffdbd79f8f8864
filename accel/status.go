package accel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"time"

	"github.com/gotpa/tpa/link"
	tpanet "github.com/gotpa/tpa/net"
)

// Status is all that is known about a runtime at one moment, for people and for
// the tools of tpa-bench: the debug socket serves it as JSON. Counters count from
// the runtime's start. Names that end in _ns are of durations in nanoseconds.
type Status struct {
	// Time is the moment.
	Time time.Time `json:"time"`
	// Program is the process that the runtime belongs to.
	Program Program `json:"program"`
	// Accelerated is false for a runtime that fell back to the kernel. It then has no
	// device, shards and connections here.
	Accelerated bool `json:"accelerated"`
	// Reason says why it fell back.
	Reason string `json:"reason,omitempty"`
	// Device describes the device.
	Device DeviceStatus `json:"device"`
	// Settings are all settings as they are now.
	Settings []SettingStatus `json:"settings"`
	// Limits are in force, defaults filled in.
	Limits Limits `json:"limits"`
	// Shards has one element per queue.
	Shards []ShardStats `json:"shards"`
	// Drops are lost packets by place, in the order in which packets pass.
	Drops []Drop `json:"drops"`
	// Listeners are the open listeners, sorted by address.
	Listeners []ListenStatus `json:"listeners"`
	// Dials count accelerated dials.
	Dials DialStats `json:"dials"`
	// Recorder tells about the flight recorder, zero without one.
	Recorder RecorderStats `json:"recorder"`
	// Conns are the established connections. One that comes or goes while they
	// are listed may be missing.
	Conns []ConnStatus `json:"conns"`
	// Addrs are the local addresses with their prefix lengths.
	Addrs []netip.Prefix `json:"addrs"`
	// Routes is the routing table. The first that fits wins.
	Routes []RouteStatus `json:"routes"`
	// Neighbours is the neighbour table, sorted by address.
	Neighbours []NeighbourStatus `json:"neighbours"`
	// Sharing tells how the device is shared with the kernel, nil where it is not.
	Sharing *SharingStatus `json:"sharing,omitempty"`
	// Events are what the runtime logged lately, oldest first.
	Events []Event `json:"events"`
}

// Program is the process that a runtime belongs to.
type Program struct {
	// Name is the name of the executable file, PID the process number.
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Version is that of this module, Go that of Go, DPDK that of DPDK, empty
	// without it.
	Version string `json:"version"`
	Go      string `json:"go"`
	DPDK    string `json:"dpdk,omitempty"`
	// GOMAXPROCS is how many processors Go uses.
	GOMAXPROCS int `json:"gomaxprocs"`
	// Started is when the runtime was made.
	Started time.Time `json:"started"`
	// Socket is the path of the debug socket, empty without one.
	Socket string `json:"socket,omitempty"`
}

// DeviceStatus describes a runtime's device.
type DeviceStatus struct {
	// Name is the interface's or port's name, Driver the driver's.
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Mode says how a kernel interface is used, such as "XDP native,
	// zero-copy", and QueueModes that of each queue, and why no better. Both are empty
	// for devices that can be used in one way only.
	Mode       string   `json:"mode,omitempty"`
	QueueModes []string `json:"queue_modes,omitempty"`
	// HardwareAddr is the MAC address.
	HardwareAddr string `json:"hardware_addr"`
	// MTU is the greatest IP packet in bytes.
	MTU int `json:"mtu"`
	// LinkUp tells whether there is a carrier.
	LinkUp bool `json:"link_up"`
	// NUMANode is the node that the device hangs off, -1 when unknown.
	NUMANode int `json:"numa_node"`
	// Offloads are what the device takes off the processor, such as "rx-checksum".
	Offloads []string `json:"offloads"`
	// Stats are the device's counters.
	Stats DeviceStats `json:"stats"`
	// Neighbours tell about the neighbour table.
	Neighbours NeighbourStats `json:"neighbours"`
}

// A Drop counts packets lost at one place. Drops are listed in the order in which
// a packet passes the places, first those on the way in, then those on the way
// out: the first one that grows is where to look.
type Drop struct {
	// Out is true on the way out.
	Out bool `json:"out"`
	// Place and Reason say where and why, such as "device" and "no buffer".
	Place  string `json:"place"`
	Reason string `json:"reason"`
	// Packets is how many.
	Packets uint64 `json:"packets"`
}

// ListenStatus describes one listener.
type ListenStatus struct {
	// Addr is the address listened on.
	Addr string `json:"addr"`
	// Accepted counts connections that Accept returned.
	Accepted uint64 `json:"accepted"`
	// Waiting is how many wait for Accept.
	Waiting int `json:"waiting"`
}

// ConnStatus describes one connection.
type ConnStatus struct {
	// Shard is the number of its shard.
	Shard int `json:"shard"`
	// State is that of TCP, such as ESTABLISHED.
	State string `json:"state"`
	// Local and Remote are its addresses with ports.
	Local  string `json:"local"`
	Remote string `json:"remote"`
	// Age is the time since it was established.
	Age time.Duration `json:"age_ns"`
	// RTT is the smoothed round-trip time, RTTVar its variation, RTO the
	// retransmission timeout.
	RTT    time.Duration `json:"rtt_ns"`
	RTTVar time.Duration `json:"rttvar_ns"`
	RTO    time.Duration `json:"rto_ns"`
	// Cwnd and Ssthresh are in segments.
	Cwnd     uint32 `json:"cwnd"`
	Ssthresh uint32 `json:"ssthresh"`
	// Retransmits counts segments sent again, FastRetransmits those in fast recovery,
	// Timeouts retransmission timers that ran out.
	Retransmits     uint64 `json:"retransmits"`
	FastRetransmits uint64 `json:"fast_retransmits"`
	Timeouts        uint64 `json:"timeouts"`
	// ReceiveQueue is how many bytes wait to be read.
	ReceiveQueue int `json:"receive_queue"`
	// SendQueue is how many bytes wait to be acknowledged, sent or not; -1 when
	// that is not known: of a connection of gVisor's TCP that is not recorded.
	SendQueue int `json:"send_queue"`
	// Trace is the connection's number with the flight recorder, 0 for none.
	Trace uint64 `json:"trace,omitempty"`
	// Read and Written are what the program read and wrote, in bytes.
	Read    uint64 `json:"read"`
	Written uint64 `json:"written"`
}

// RouteStatus is one line of the routing table.
type RouteStatus struct {
	// Destination is a prefix.
	Destination string `json:"destination"`
	// Gateway is the next hop, empty for what is on the link.
	Gateway string `json:"gateway,omitempty"`
}

// NeighbourStatus is one line of the neighbour table.
type NeighbourStatus struct {
	// Addr is an IP address, HardwareAddr its MAC address.
	Addr         string `json:"addr"`
	HardwareAddr string `json:"hardware_addr"`
}

// SharingStatus describes how a device is shared with the kernel.
type SharingStatus struct {
	// Filter says for people what keeps our flows apart, Backend in one word: xdp or
	// rte_flow.
	Filter  string `json:"filter"`
	Backend string `json:"backend"`
	// Claims are the local ports that are ours.
	Claims []ClaimStatus `json:"claims"`
	// Steering tells about claimed ports, and what the filter made of frames.
	Steering SteeringStats `json:"steering"`
	// Kernel counts what the kernel tells about the interface.
	Kernel KernelStats `json:"kernel"`
	// Routes counts packets and dials that the kernel would send elsewhere.
	Routes RouteStats `json:"routes"`
}

// ClaimStatus is a range of local ports that is ours.
type ClaimStatus struct {
	// Addr is the local address, empty for all.
	Addr string `json:"addr"`
	// First and Count are the range.
	First uint16 `json:"first"`
	Count int    `json:"count"`
	// Draining: no new connection comes, those that are left stay ours.
	Draining bool `json:"draining,omitempty"`
	// Kept is the number of flows at these ports that the kernel had before.
	Kept int `json:"kept,omitempty"`
}

// Last is the last port of the range.
func (c ClaimStatus) Last() int { return int(c.First) + c.Count - 1 }

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
		Settings:    rt.settingsNow(),
		Events:      loggedEvents(rt.events.Events()),
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
	status.Limits, status.Shards, status.Dials, status.Recorder = s.Limits, s.Shards, s.Dials, s.Recorder
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
	sort.Slice(status.Neighbours, func(i, j int) bool { return status.Neighbours[i].Addr < status.Neighbours[j].Addr })
	return status
}

func (rt *Runtime) sharingStatus(s *SharingStats) *SharingStatus {
	status := &SharingStatus{Filter: s.Filter, Backend: s.Backend, Steering: s.Steering, Kernel: s.Kernel, Routes: s.Routes}
	for _, c := range rt.sharing.steering.Claims() {
		line := ClaimStatus{First: c.First, Count: c.Count, Draining: c.Draining, Kept: len(c.Kept)}
		if c.Addr.IsValid() {
			line.Addr = c.Addr.String()
		}
		status.Claims = append(status.Claims, line)
	}
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
	return DeviceStatus{
		Name: s.Info.Name, Driver: s.Info.Driver, HardwareAddr: s.Info.HardwareAddr.String(),
		Mode: s.Info.Mode, QueueModes: slices.Clone(s.Info.QueueModes),
		MTU: s.Info.MTU, LinkUp: s.LinkUp, NUMANode: s.Info.NUMANode,
		Offloads: offloads(s.Info.Capabilities), Stats: s.Device, Neighbours: s.Neighbours,
	}
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
		return s.Link.RxBadChecksum + s.TCP.ChecksumErrors
	})
	sum(false, "IP", "malformed", func(s *ShardStats) uint64 {
		return s.IP.Malformed
	})
	sum(false, "IP", "address", func(s *ShardStats) uint64 {
		return s.IP.BadDestination + s.IP.BadSource
	})
	sum(false, "transport", "malformed", func(s *ShardStats) uint64 { return s.IP.MalformedTransport })
	sum(false, "transport", "unknown protocol", func(s *ShardStats) uint64 { return s.IP.UnknownTransport })
	sum(false, "transport", "nobody's", func(s *ShardStats) uint64 { return s.IP.Unclaimed })
	sum(false, "ICMP", "invalid", func(s *ShardStats) uint64 {
		return s.ICMP.Invalid
	})
	sum(false, "TCP", "invalid", func(s *ShardStats) uint64 { return s.TCP.InvalidSegments })
	sum(false, "accept queue", "full", func(s *ShardStats) uint64 {
		return s.TCP.OverflowSYNs + s.TCP.OverflowACKs + s.Limits.RefusedBacklog
	})
	sum(false, "limits", "connections", func(s *ShardStats) uint64 { return s.Limits.RefusedConnections })
	sum(false, "limits", "memory", func(s *ShardStats) uint64 { return s.Limits.RefusedMemory })
	sum(false, "limits", "source not allowed", func(s *ShardStats) uint64 { return s.Limits.RefusedSource })
	sum(false, "limits", "unanswered", func(s *ShardStats) uint64 { return s.Limits.Unanswered })
	sum(true, "TCP", "not sent", func(s *ShardStats) uint64 { return s.TCP.SendErrors })
	sum(true, "IP", "not sent", func(s *ShardStats) uint64 { return s.IP.SendErrors })
	list = append(list, Drop{Out: true, Place: "neighbour", Reason: "unknown", Packets: s.Neighbours.HeldDropped})
	sum(true, "queue", "too long", func(s *ShardStats) uint64 { return s.Link.TxTooLong })
	sum(true, "route", "not by the device", func(s *ShardStats) uint64 { return s.Link.TxNoRoute })
	sum(true, "queue", "ring full", func(s *ShardStats) uint64 { return s.Link.TxNoBuffer })
	sum(true, "queue", "closed", func(s *ShardStats) uint64 { return s.Queue.TxDropped })
	return append(list, Drop{Out: true, Place: "device", Reason: "error", Packets: d.TxErrors})
}
