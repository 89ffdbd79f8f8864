// Package follower follows what the kernel knows of one network interface: whether
// it is up, its MTU, addresses and routes, the neighbours behind it, and what
// ICMP errors arrive there; and, of the whole host, where packets leave it. On an
// interface that is shared with the kernel, the kernel owns all that, and another
// stack copies it.
//
// A Follower takes a snapshot when it starts and follows the kernel's notifications
// (rtnetlink) from then on. When those come faster than they are read, the kernel
// drops some; the follower then takes everything anew.
//
// The follower can ask for one thing: that the kernel resolve a neighbour. It
// writes nothing else, and what it asks for leaves no trace once the kernel finds
// nobody using it.
//
// All of this is Linux's: elsewhere New fails.
package follower

import (
	"net"
	"net/netip"
	"slices"
)

// State is what the kernel knows of an interface.
type State struct {
	Name  string
	Index int
	// Up: the interface is set up and has a carrier.
	Up bool
	// MTU is the greatest IP packet in bytes.
	MTU          int
	HardwareAddr net.HardwareAddr
	// Addrs are the addresses in use, in ascending order: not those that the kernel
	// still checks for duplicates.
	Addrs []netip.Prefix
	// Others are addresses of the host's other interfaces, in ascending order, those
	// at which the kernel takes packets that come by this one: not loopback and
	// link-local addresses.
	Others []netip.Addr
	// Routes are those of the main table through this interface, most specific
	// first, and the smaller metric first among equals.
	Routes []Route
}

// Local returns Addrs, and behind them Others, each as a prefix of its own.
func (s *State) Local() []netip.Prefix {
	all := slices.Clone(s.Addrs)
	for _, a := range s.Others {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// A Route is a way to a range of addresses.
type Route struct {
	Destination netip.Prefix
	// Gateway is the next hop, the zero Addr where the destination is on the link.
	Gateway netip.Addr
	Metric  int
}

// Events are what a follower calls when the kernel has news. All calls come from
// one goroutine, one at a time, and hold up the news behind them. Fields may be
// nil.
type Events struct {
	// Changed gets the state after each change.
	Changed func(State)
	// Neighbour gets the MAC address of a neighbour: a new one, a changed one, one
	// confirmed, or one asked for with Resolve. Those known from the start come
	// right after New.
	Neighbour func(addr netip.Addr, mac [6]byte)
	// Unreachable gets a neighbour that did not answer, or was deleted by hand.
	// Entries that the kernel drops for want of use or of room are not reported:
	// what was known of them stays true as far as it goes.
	Unreachable func(addr netip.Addr)
	// Rerouted says that packets may leave by other ways than before: something that
	// Routes.Path depends on has changed, on whatever interface.
	Rerouted func()
	// ICMP gets ICMP and ICMPv6 errors that are about TCP segments: whole IP
	// packets, which are the callee's.
	ICMP func(packet []byte)
	// Gone is the last call: the interface was removed.
	Gone func()
}

// Stats are counters since the follower was opened.
type Stats struct {
	// Changes counts changes of the state, Neighbours those of neighbours.
	Changes, Neighbours uint64
	// Resyncs counts how often notifications were lost and everything was read anew.
	Resyncs uint64
	// Resolves counts questions to the kernel, ResolveErrors those that it refused.
	Resolves, ResolveErrors uint64
	// Known is the number of neighbours that are remembered, 4096 at most.
	Known int
	// ICMP counts ICMP errors, ICMPDropped those dropped because they came too fast.
	ICMP, ICMPDropped uint64
}
