package bpf

import "github.com/gotpa/tpa/link"

// Counts are frames by what the filter made of them. All but Redirected and the
// last three went on to the kernel.
type Counts struct {
	// Redirected went to a socket of this process.
	Redirected uint64
	// NoSocket were ours, on a receive queue without a socket.
	NoSocket uint64
	// NotIP were neither IPv4 nor IPv6, or tagged with a VLAN, or not unicast.
	NotIP uint64
	// NotTCP carried another protocol: UDP, ICMP.
	NotTCP uint64
	// Fragment were pieces of IP packets.
	Fragment uint64
	// IPOptions carried IPv4 options or IPv6 extension headers.
	IPOptions uint64
	// Malformed were too short for their headers.
	Malformed uint64
	// OtherAddress were TCP to an address without claims.
	OtherAddress uint64
	// OtherPort were TCP to a port that is not claimed.
	OtherPort uint64
	// Answered were SYNs that the filter answered with a cookie, Dropped those that
	// it was told to drop, or that no cookie answers: see Answer.
	Answered, Dropped uint64
	// NotAllowed were SYNs of sources that may not connect: see Allow.
	NotAllowed uint64
}

// fields are the counters in the order of enum action in filter.c.
func (c *Counts) fields() []*uint64 {
	return []*uint64{
		&c.Redirected, &c.NoSocket, &c.NotIP, &c.NotTCP, &c.Fragment, &c.IPOptions,
		&c.Malformed, &c.OtherAddress, &c.OtherPort, &c.Answered, &c.Dropped, &c.NotAllowed,
	}
}

// Counts returns the counters. Those of a closed filter are its last ones.
func (f *Filter) Counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.countsLocked()
}

func (f *Filter) countsLocked() Counts {
	if f.closed {
		return f.final
	}
	var c Counts
	for i, field := range c.fields() {
		var perCPU []uint64
		if f.maps.Frames.Lookup(uint32(i), &perCPU) != nil {
			continue
		}
		for _, n := range perCPU {
			*field += n
		}
	}
	return c
}

// Stats implements link.Filter.
func (f *Filter) Stats() link.FilterStats {
	c := f.Counts()
	return link.FilterStats{Backend: "xdp", Frames: []link.FrameCount{
		{Name: "redirected", Frames: c.Redirected, Taker: "accel"},
		{Name: "no socket", Frames: c.NoSocket, Taker: "kernel"},
		{Name: "not IP", Frames: c.NotIP, Taker: "kernel"},
		{Name: "not TCP", Frames: c.NotTCP, Taker: "kernel"},
		{Name: "fragment", Frames: c.Fragment, Taker: "kernel"},
		{Name: "IP options", Frames: c.IPOptions, Taker: "kernel"},
		{Name: "malformed", Frames: c.Malformed, Taker: "kernel"},
		{Name: "other address", Frames: c.OtherAddress, Taker: "kernel"},
		{Name: "other port", Frames: c.OtherPort, Taker: "kernel"},
		{Name: "SYN answered", Frames: c.Answered, Taker: "filter"},
		{Name: "SYN dropped", Frames: c.Dropped, Taker: "filter"},
		{Name: "source not allowed", Frames: c.NotAllowed, Taker: "filter"},
	}}
}
