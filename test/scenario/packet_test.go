package scenario

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolICMPv6 = 58
)

// pseudoHeader returns the sum of a pseudo-header (RFC 9293 section 3.1).
func pseudoHeader(src, dst netip.Addr, protocol, size int) uint16 {
	sum := checksum.Checksum(src.AsSlice(), uint16(protocol))
	sum = checksum.Checksum(dst.AsSlice(), sum)
	return checksum.Combine(sum, uint16(size))
}

// encodeIP puts an IP header before a payload.
func encodeIP(src, dst netip.Addr, protocol int, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		b[6] = 0x40
		b[8], b[9] = 64, byte(protocol)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(payload))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = byte(protocol), 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

// A packet is an IP packet of the stack under test.
type packet struct {
	src, dst netip.Addr
	protocol int
	payload  []byte
}

// decodeIP reads a packet and checks its checksums.
func decodeIP(b []byte) (p packet, err error) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		header, size := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || size < header || size > len(b) {
			return p, fmt.Errorf("a malformed IPv4 packet: %x", b)
		}
		if checksum.Checksum(b[:header], 0) != 0xffff {
			return p, fmt.Errorf("a wrong IPv4 checksum: %x", b[:header])
		}
		p = packet{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), int(b[9]), b[header:size]}
	case len(b) >= 40 && b[0]>>4 == 6:
		size := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if size > len(b) {
			return p, fmt.Errorf("a malformed IPv6 packet: %x", b)
		}
		p = packet{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), int(b[6]), b[40:size]}
	default:
		return p, fmt.Errorf("not an IP packet: %x", b)
	}
	if p.protocol == protocolTCP && checksum.Checksum(p.payload, pseudoHeader(p.src, p.dst, protocolTCP, len(p.payload))) != 0xffff {
		return p, fmt.Errorf("a wrong TCP checksum: %x", p.payload)
	}
	return p, nil
}

// An icmpKind is an error message of ICMP and its likeness in ICMPv6.
type icmpKind struct {
	name     string
	v4, v6   [2]byte // type and code
	needsMTU bool
}

var (
	netUnreachable  = icmpKind{name: "network unreachable", v4: [2]byte{3, 0}, v6: [2]byte{1, 0}}
	hostUnreachable = icmpKind{name: "host unreachable", v4: [2]byte{3, 1}, v6: [2]byte{1, 3}}
	portUnreachable = icmpKind{name: "port unreachable", v4: [2]byte{3, 3}, v6: [2]byte{1, 4}}
	prohibited      = icmpKind{name: "administratively prohibited", v4: [2]byte{3, 13}, v6: [2]byte{1, 1}}
	timeExceeded    = icmpKind{name: "time exceeded", v4: [2]byte{11, 0}, v6: [2]byte{3, 0}}
	parameter       = icmpKind{name: "parameter problem", v4: [2]byte{12, 0}, v6: [2]byte{4, 0}}
	packetTooBig    = icmpKind{name: "packet too big", v4: [2]byte{3, 4}, v6: [2]byte{2, 0}, needsMTU: true}
	sourceQuench    = icmpKind{name: "source quench", v4: [2]byte{4, 0}, v6: [2]byte{100, 0}}
)

// encodeICMP makes a whole packet from a router to dst about a packet of dst.
func encodeICMP(kind icmpKind, router, dst netip.Addr, mtu int, quoted []byte) []byte {
	b := make([]byte, 8, 8+len(quoted))
	b[0], b[1] = kind.v4[0], kind.v4[1]
	if dst.Is6() {
		b[0], b[1] = kind.v6[0], kind.v6[1]
	}
	if kind.needsMTU {
		binary.BigEndian.PutUint32(b[4:], uint32(mtu))
	}
	b = append(b, quoted...)
	protocol, sum := protocolICMP, uint16(0)
	if dst.Is6() {
		protocol, sum = protocolICMPv6, pseudoHeader(router, dst, protocolICMPv6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, sum))
	return encodeIP(router, dst, protocol, b)
}

// advertisement makes an IPv6 packet that says that target has a MAC address
// (RFC 4861 section 4.4).
func advertisement(target, asker netip.Addr, mac [6]byte) []byte {
	b := make([]byte, 32)
	b[0], b[4] = 136, 0x60 // solicited, override
	copy(b[8:], target.AsSlice())
	b[24], b[25] = 2, 1 // target link-layer address
	copy(b[26:], mac[:])
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, pseudoHeader(target, asker, protocolICMPv6, len(b))))
	p := encodeIP(target, asker, protocolICMPv6, b)
	p[7] = 255 // nobody but a neighbour can have sent it
	return p
}
