package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/gotpa/tpa/accel"
)

// device makes a counter of one of the device's own.
func device(name, help string, read func(*accel.DeviceStats) uint64) metric[scrape] {
	return metric[scrape]{
		name: "port_" + name, kind: counter, help: help,
		read: func(s scrape) []sample { return one(read(&s.Device)) },
	}
}

// neighbour makes a counter of one of the neighbour table's.
func neighbour(name, help string, read func(*accel.NeighbourStats) uint64) metric[scrape] {
	return metric[scrape]{
		name: "neighbour_" + name, kind: counter, help: help,
		read: func(s scrape) []sample { return one(read(&s.Neighbours)) },
	}
}

// portMetrics are about a device and its neighbours.
var portMetrics = []metric[scrape]{
	{
		name: "port_info", kind: gauge, help: "1. The labels describe the device; numa_node is -1 when unknown.",
		labels: []string{"driver", "mac", "numa_node"},
		read: func(s scrape) []sample {
			return []sample{series(1, s.Info.Driver, s.Info.HardwareAddr.String(), strconv.Itoa(s.Info.NUMANode))}
		},
	},
	{
		name: "port_link_up", kind: gauge, help: "1 while the device has a carrier.",
		read: func(s scrape) []sample { return flag(s.LinkUp) },
	},
	{
		name: "port_link_speed_bytes_per_second", kind: gauge, help: "What the device says that its link carries, 0 when it has none or does not know.",
		read: func(s scrape) []sample { return one(s.Device.LinkSpeed / 8) },
	},
	{
		name: "port_mtu_bytes", kind: gauge, help: "Greatest IP packet that the device takes.",
		read: func(s scrape) []sample { return one(s.Info.MTU) },
	},
	{
		name: "port_queues", kind: gauge, help: "Device queues in use, each with a shard of its own.",
		read: func(s scrape) []sample { return one(len(s.Shards)) },
	},
	{
		name: "port_queue_info", kind: gauge, help: "1. The label mode says how the queue is used, and why no better. Only of devices that can be used in several ways.",
		labels: []string{"queue", "mode"},
		read: func(s scrape) []sample {
			var all []sample
			for i, mode := range s.Info.QueueModes {
				all = append(all, series(1, strconv.Itoa(i), mode))
			}
			return all
		},
	},
	device("receive_packets_total", "Frames that the device received.", func(d *accel.DeviceStats) uint64 { return d.RxPackets }),
	device("receive_bytes_total", "Bytes of the frames that the device received.", func(d *accel.DeviceStats) uint64 { return d.RxBytes }),
	device("transmit_packets_total", "Frames that the device sent.", func(d *accel.DeviceStats) uint64 { return d.TxPackets }),
	device("transmit_bytes_total", "Bytes of the frames that the device sent.", func(d *accel.DeviceStats) uint64 { return d.TxBytes }),
	device("receive_missed_total", "Frames lost because the device's rings were full: the poller was too slow.", func(d *accel.DeviceStats) uint64 { return d.RxMissed }),
	device("receive_nombuf_total", "Frames lost for want of a packet buffer.", func(d *accel.DeviceStats) uint64 { return d.RxNoBuffer }),
	device("receive_errors_total", "Frames that the device found broken.", func(d *accel.DeviceStats) uint64 { return d.RxErrors }),
	device("transmit_errors_total", "Frames that the device could not send.", func(d *accel.DeviceStats) uint64 { return d.TxErrors }),
	{
		name: "port_allowance_exceeded_total", kind: counter,
		help:   "Frames that a cloud queued or dropped because the instance was over a limit: pps, bw_in, bw_out, conntrack, linklocal. Only of drivers that tell (ena).",
		labels: []string{"limit"},
		read: func(s scrape) []sample {
			var all []sample
			for name, v := range s.Device.Extended {
				if limit, ok := strings.CutSuffix(name, "_allowance_exceeded"); ok {
					all = append(all, series(v, limit))
				}
			}
			slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.labels[0], b.labels[0]) })
			return all
		},
	},
	{
		name: "port_extended_total", kind: counter, help: "Counters of the driver's own, under the driver's names. Off unless asked for.",
		labels: []string{"name"},
		read: func(s scrape) []sample {
			var all []sample
			for name, v := range s.Device.Extended {
				if s.options.Extended != nil && s.options.Extended.MatchString(name) {
					all = append(all, series(v, name))
				}
			}
			slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.labels[0], b.labels[0]) })
			return all
		},
	},
	{
		name: "mempool_mbufs", kind: gauge, help: "Packet buffers of all pools. Those in receive rings are in use.",
		labels: []string{"state"},
		read: func(s scrape) []sample {
			d := &s.Device
			return []sample{series(d.BuffersInUse, "in_use"), series(d.BuffersTotal-d.BuffersInUse, "free")}
		},
	},
	{
		name: "hugepage_memory_bytes", kind: gauge, help: "Memory in huge pages that DPDK has taken for the process. None with ordinary pages.",
		labels: []string{"numa_node", "state"},
		read: func(s scrape) []sample {
			var all []sample
			for _, m := range s.Memory {
				if m.HugePages {
					node := strconv.Itoa(m.NUMANode)
					all = append(all, series(m.InUse, node, "in_use"), series(m.Free, node, "free"))
				}
			}
			return all
		},
	},
	{
		name: "recorder_connections", kind: gauge, help: "Open connections that the flight recorder records.",
		read: func(s scrape) []sample { return one(s.Recorder.Recorded) },
	},
	{
		name: "recorder_missed_connections_total", kind: counter, help: "Connections that found no room in the flight recorder.",
		read: func(s scrape) []sample { return one(s.Recorder.Missed) },
	},
	{
		name: "recorder_captures_total", kind: counter, help: "Recordings of connections in trouble that were kept.",
		read: func(s scrape) []sample { return one(s.Recorder.Captures) },
	},
	{
		name: "neighbours", kind: gauge, help: "Entries of the neighbour table, and addresses being asked for.",
		labels: []string{"state"},
		read: func(s scrape) []sample {
			return []sample{series(s.Neighbours.Entries, "resolved"), series(s.Neighbours.Unresolved, "unresolved")}
		},
	},
	neighbour("requests_sent_total", "ARP requests and neighbour solicitations sent.", func(n *accel.NeighbourStats) uint64 { return n.RequestsSent }),
	neighbour("replies_sent_total", "Answers sent to questions for our addresses.", func(n *accel.NeighbourStats) uint64 { return n.RepliesSent }),
	neighbour("replies_received_total", "Answers that resolved or confirmed an address.", func(n *accel.NeighbourStats) uint64 { return n.RepliesReceived }),
	neighbour("failures_total", "Addresses that nobody answered for.", func(n *accel.NeighbourStats) uint64 { return n.Failures }),
	neighbour("packets_dropped_total", "Packets dropped while their next hop was asked for.", func(n *accel.NeighbourStats) uint64 { return n.HeldDropped }),
	neighbour("changes_total", "Neighbours that came back with another MAC address.", func(n *accel.NeighbourStats) uint64 { return n.Changes }),
}
