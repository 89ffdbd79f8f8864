// Package offload does in software what network devices do for the stack: it
// finds the headers of a frame, verifies checksums, fills them in, and cuts
// large frames into segments. Software devices and impairments use it; the data
// path of a real device does not.
//
// The functions keep no state and may be called by any goroutine.
package offload

import (
	"encoding/binary"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// Protocol numbers (IANA).
const (
	TCP = 6
	UDP = 17
)

const (
	ethernetLen = 14

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100 // IEEE 802.1Q
	etherQinQ = 0x88a8 // IEEE 802.1ad

	ipv4MinLen = 20
	ipv6Len    = 40
	tcpMinLen  = 20
)

// A Packet says where the headers of a frame lie.
type Packet struct {
	// L3 is the offset of the IP header: 14, plus 4 for each VLAN tag.
	L3 int
	// L4 is the offset of the transport header, behind IP options or extension
	// headers.
	L4 int
	// End is the offset where the IP packet ends by its own account. What follows
	// in the frame is padding.
	End int
	// IPv6 tells the IP version.
	IPv6 bool
	// Protocol is the transport protocol.
	Protocol uint8
	// Fragment is set when there is no whole transport header to look at because
	// the packet is part of a larger one.
	Fragment bool
}

// Parse finds the headers of a frame. It returns false for what is no IP packet
// and for what does not hold as much as it says. The ports of a TCP or UDP packet
// that is no fragment lie within the frame.
func Parse(frame []byte) (Packet, bool) {
	p := Packet{L3: ethernetLen}
	if len(frame) < p.L3 {
		return p, false
	}
	ether := binary.BigEndian.Uint16(frame[12:])
	for ether == etherVLAN || ether == etherQinQ {
		if len(frame) < p.L3+4 {
			return p, false
		}
		ether = binary.BigEndian.Uint16(frame[p.L3+2:])
		p.L3 += 4
	}
	ok := false
	switch ether {
	case etherIPv4:
		ok = p.ipv4(frame)
	case etherIPv6:
		ok = p.ipv6(frame)
	}
	if ok && !p.Fragment && (p.Protocol == TCP || p.Protocol == UDP) {
		ok = p.End-p.L4 >= 4
	}
	return p, ok
}

func (p *Packet) ipv4(frame []byte) bool {
	h := frame[p.L3:]
	if len(h) < ipv4MinLen || h[0]>>4 != 4 {
		return false
	}
	header, total := int(h[0]&15)*4, int(binary.BigEndian.Uint16(h[2:]))
	if header < ipv4MinLen || total < header || total > len(h) {
		return false
	}
	const moreAndOffset = 0x3fff
	p.Fragment = binary.BigEndian.Uint16(h[6:])&moreAndOffset != 0
	p.Protocol = h[9]
	p.L4, p.End = p.L3+header, p.L3+total
	return true
}

func (p *Packet) ipv6(frame []byte) bool {
	h := frame[p.L3:]
	if len(h) < ipv6Len || h[0]>>4 != 6 {
		return false
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(h[4:]))
	if total > len(h) {
		return false
	}
	h = h[:total]
	p.IPv6, p.End = true, p.L3+total
	next, at := h[6], ipv6Len
	for {
		length := 0
		switch next {
		case 0, 43, 60: // hop-by-hop options, routing, destination options
			if at+8 <= total {
				length = int(h[at+1])*8 + 8
			}
		case 51: // authentication header
			if at+8 <= total {
				length = int(h[at+1])*4 + 8
			}
		case 44: // fragment
			p.Fragment = true
			length = 8
		default:
			p.Protocol, p.L4 = next, p.L3+at
			return true
		}
		if length == 0 || at+length > total {
			return false
		}
		next, at = h[at], at+length
		if p.Fragment {
			p.Protocol, p.L4 = next, p.L3+at
			return true
		}
	}
}

// Addrs are the source and destination address as they stand in the header.
func (p *Packet) Addrs(frame []byte) []byte {
	if p.IPv6 {
		return frame[p.L3+8 : p.L3+40]
	}
	return frame[p.L3+12 : p.L3+20]
}

// Ports are the source and destination port of a TCP or UDP packet that is no
// fragment.
func (p *Packet) Ports(frame []byte) []byte { return frame[p.L4 : p.L4+4] }

// pseudo is the sum of the pseudo-header without the length.
func (p *Packet) pseudo(frame []byte) uint16 {
	return checksum.Combine(checksum.Sum(p.Addrs(frame), 0), uint16(p.Protocol))
}

// Verify checks the checksums of a frame as devices do. What has none that they
// look at is Unchecked: other protocols, fragments, UDP without a checksum, and
// what Parse refuses.
func Verify(frame []byte) link.ChecksumStatus {
	p, ok := Parse(frame)
	if !ok {
		return link.Unchecked
	}
	if !p.IPv6 && checksum.Sum(frame[p.L3:p.L4], 0) != 0xffff {
		return link.Bad
	}
	segment := frame[p.L4:p.End]
	switch {
	case p.Fragment:
		return link.Unchecked
	case p.Protocol == TCP && len(segment) >= tcpMinLen:
	case p.Protocol == UDP && len(segment) >= 8 && binary.BigEndian.Uint16(segment[6:]) != 0:
	default:
		return link.Unchecked
	}
	sum := checksum.Combine(p.pseudo(frame), uint16(len(segment)))
	if checksum.Sum(segment, sum) != 0xffff {
		return link.Bad
	}
	return link.Good
}
