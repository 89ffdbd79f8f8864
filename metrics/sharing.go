package metrics

import (
	"strings"

	"github.com/gotpa/tpa/accel"
)

// followed makes a counter of news that the kernel has for us.
func followed(name, help string, read func(*accel.KernelStats) uint64) metric[scrape] {
	return metric[scrape]{
		name: "kernel_" + name, kind: counter, help: help,
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			return one(read(&s.Sharing.Kernel))
		},
	}
}

// sharingMetrics are about a device that is shared with the kernel: which flows
// are ours, and what the kernel tells. There are none for a device of our own.
var sharingMetrics = []metric[scrape]{
	{
		name: "flow_rules", kind: gauge, help: "Rules that make flows ours: with rte_flow those on the device, with xdp one per claimed port and address.",
		labels: []string{"backend"},
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			n := s.Sharing.Steering.Rules
			if s.Sharing.Backend != "rte_flow" {
				n = s.Sharing.Steering.Ports
			}
			return []sample{series(n, s.Sharing.Backend)}
		},
	},
	{
		name: "flow_rule_operations_total", kind: counter, help: "Changes of the rules: ports claimed and released, and exceptions for single flows.",
		labels: []string{"backend", "operation", "result"},
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			var all []sample
			o := &s.Sharing.Steering.Operations
			for _, k := range []struct {
				name string
				accel.OperationCounts
			}{{"claim", o.Claims}, {"release", o.Releases}, {"except", o.Exceptions}} {
				all = append(all, series(k.Done, s.Sharing.Backend, k.name, "ok"), series(k.Failed, s.Sharing.Backend, k.name, "failed"))
			}
			return all
		},
	},
	{
		name: "flow_packets_total", kind: counter, help: "Frames that the filter saw on the whole device: those that came here (accel), those left to the kernel, by why, and SYNs that the filter answered or dropped itself.",
		labels: []string{"taker", "reason"},
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			var all []sample
			for _, v := range s.Sharing.Steering.Frames {
				all = append(all, series(v.Frames, v.Taker, strings.ToLower(strings.ReplaceAll(v.Name, " ", "_"))))
			}
			return all
		},
	},
	{
		name: "routed_dials_total", kind: counter, help: "Dials that went through the kernel, because it does not route them by the device as they are.",
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			return one(s.Sharing.Routes.KernelDials)
		},
	},
	{
		name: "reply_routes_total", kind: counter, help: "Ways to peers that the kernel would not have taken: by another interface (aside), or none in the clear by any (closed, which get no reply).",
		labels: []string{"exit"},
		read: func(s scrape) []sample {
			if s.Sharing == nil {
				return nil
			}
			return []sample{series(s.Sharing.Routes.AsideReplies, "aside"), series(s.Sharing.Routes.ClosedReplies, "closed")}
		},
	},
	followed("changes_total", "Changes of the interface, its addresses and its routes that the kernel announced.", func(m *accel.KernelStats) uint64 { return m.Changes }),
	followed("neighbour_changes_total", "Changes of neighbours that the kernel announced.", func(m *accel.KernelStats) uint64 { return m.Neighbours }),
	followed("resyncs_total", "Times that announcements of the kernel were lost and all was read anew.", func(m *accel.KernelStats) uint64 { return m.Resyncs }),
	followed("resolves_total", "Next hops that the kernel was asked to resolve.", func(m *accel.KernelStats) uint64 { return m.Resolves }),
	followed("resolve_errors_total", "Next hops that the kernel refused to resolve.", func(m *accel.KernelStats) uint64 { return m.ResolveErrors }),
	followed("icmp_errors_total", "ICMP errors that the kernel passed on.", func(m *accel.KernelStats) uint64 { return m.ICMP }),
	followed("icmp_errors_dropped_total", "ICMP errors dropped because too many came.", func(m *accel.KernelStats) uint64 { return m.ICMPDropped }),
}
