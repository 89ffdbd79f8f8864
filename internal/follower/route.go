package follower

import "net/netip"

// Where packets to a destination leave the host is the kernel's decision: rules,
// tables, metrics, next hops and what it has learned since all have a part in it. So
// it is asked, for each pair of addresses, and its answer is kept until something
// that it may depend on changes.

// An Exit is where the kernel would send packets.
type Exit int

const (
	// Here: by the follower's interface, as they are.
	Here Exit = iota
	// Aside: by another interface, in the clear.
	Aside
	// Closed: nowhere, to this host itself, or through a tunnel, or encrypted.
	Closed
)

// A Path is how the kernel would send packets from one address to another.
type Path struct {
	Exit Exit
	// Hop is the next hop, the destination itself where that is on the link. It may be
	// of the other IP version (via inet6). With Aside, it is the next hop by the
	// follower's interface, if the kernel has one there; else it is the zero Addr.
	Hop netip.Addr
	// Source is the kernel's choice of a source address.
	Source netip.Addr
	// MTU and MSS are those of the route: the greatest IP packet and the greatest TCP
	// payload to announce (advmss), in bytes. 0 stands for those of the interface.
	MTU, MSS int
	// Why says why Exit is not Here, in words for the log.
	Why string
}
