package link

import "net/netip"

// A Sharer is a Device that the kernel can have, too: a filter then decides which
// frames come here.
type Sharer interface {
	// Sharing tells how the device is shared, the same each time; false where it is
	// ours alone.
	Sharing() (Sharing, bool)
}

// Sharing is how a device is shared with the kernel.
type Sharing struct {
	// Filter decides which TCP segments are ours. It belongs to the device.
	Filter Filter
	// Interface is the name of the kernel's interface over the device, with
	// addresses and neighbours; "" where there is none.
	Interface string
}

// A Filter makes ports of local addresses ours, on a device that the kernel has,
// too. All methods may be called by anyone at any time.
type Filter interface {
	// Claim makes n ports from first on ours, Release gives them back.
	Claim(addr netip.Addr, first uint16, n int) error
	Release(addr netip.Addr, first uint16, n int) error
	// Stats returns what there is now, and counters.
	Stats() FilterStats
	// String names the filter: "XDP filter, native".
	String() string
}

// A FlowFilter is a Filter that can tell flows at one port apart.
type FlowFilter interface {
	Filter
	// ClaimExcept is Claim for one port, at which the kernel keeps the flows.
	ClaimExcept(addr netip.Addr, port uint16, kept []Flow) error
	// Drain gives a claimed port back to the kernel, except for the flows.
	Drain(addr netip.Addr, port uint16, kept []Flow) error
	// Except ends such exceptions.
	Except(flows []Flow) error
	// Others returns the flows at a port that are left to other processes, which
	// have drained it.
	Others(port uint16) ([]Flow, error)
}

// A DialFilter is a Filter that has to know where connections of ours begin.
type DialFilter interface {
	Filter
	// Dials says whether they do at n ports from first on: answers to SYNs are ours
	// there. At ports of listeners they are the kernel's, which has connections from
	// there behind NAT.
	Dials(first uint16, n int, yes bool) error
}

// A SourceFilter is a Filter that can keep off connections from other sources.
type SourceFilter interface {
	Filter
	// Allow drops SYNs to claimed ports whose source is in none of the prefixes.
	// Without prefixes, all sources may connect.
	Allow(sources []netip.Prefix) error
}

// A RestorableFilter is a Filter that others can take out of its place.
type RestorableFilter interface {
	Filter
	// Restore sees to it that the filter is in its place, and tells whether it was
	// not. An error says why it cannot be.
	Restore() (restored bool, err error)
}

// FilterStats describe a filter.
type FilterStats struct {
	// Backend says in one word what does the filter's work: "xdp", "rte_flow", or
	// "none" where the device is ours alone.
	Backend string
	// Rules is the number of rules on the device, 0 where a filter has none.
	Rules int
	// Frames counts what the filter saw by what it made of it; nil where nobody
	// counts.
	Frames []FrameCount
}

// A FrameCount is a kind of frame and how many there were.
type FrameCount struct {
	// Name is what they had in common: "redirected", "not TCP".
	Name   string
	Frames uint64
	// Taker is who has the frames: "accel", "kernel", or "filter" where they ended
	// there.
	Taker string
}
