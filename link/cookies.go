package link

// SYNCookies have the filter of a device answer SYNs by itself, in front of the
// queues.
type SYNCookies struct {
	// Key and Minute make the cookies: see internal/syncookie.
	Key    [2]uint64
	Minute uint32
	// MSS4 and MSS6 are what peers are told of ours, over IPv4 and IPv6.
	MSS4, MSS6 uint16
	// Ports has the ports whose SYNs go no further, at all addresses where they are
	// ours: true to answer them, false to drop them.
	Ports map[uint16]bool
}
