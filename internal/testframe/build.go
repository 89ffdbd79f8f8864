// Package testframe builds and reads the frames and packets of tests: Ethernet,
// IPv4, IPv6, TCP, UDP, ICMP and ARP. What it builds has right lengths and
// checksums; a test that wants a wrong one spoils the bytes that it gets. No
// program may import it.
package testframe

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Types of Ethernet frames.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd
)

// Protocols of IP packets.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// EthernetLen is the length of an Ethernet header without tags, in bytes.
const EthernetLen = header.EthernetMinimumSize

const ttl = 64

// Ethernet returns a frame. Addresses have 6 bytes; nil is that of zeros.
func Ethernet(dst, src []byte, etherType uint16, payload []byte) []byte {
	return append(appendEthernet(nil, dst, src, etherType), payload...)
}

func appendEthernet(b, dst, src []byte, etherType uint16) []byte {
	var macs [12]byte
	copy(macs[:6], dst)
	copy(macs[6:], src)
	return binary.BigEndian.AppendUint16(append(b, macs[:]...), etherType)
}

// VLAN returns a copy of a frame with tags, the outermost first.
func VLAN(frame []byte, ids ...uint16) []byte {
	var tags []byte
	for _, id := range ids {
		tags = binary.BigEndian.AppendUint16(tags, TypeVLAN)
		tags = binary.BigEndian.AppendUint16(tags, id)
	}
	return slices.Concat(frame[:12], tags, frame[12:])
}

// IP returns a packet of the version that the addresses have. The hop limit is
// 64, and IPv4 packets must not be fragmented.
func IP(src, dst netip.Addr, protocol uint8, payload []byte) []byte {
	return append(appendIP(nil, src, dst, protocol, 0, len(payload)), payload...)
}

func appendIP(b []byte, src, dst netip.Addr, protocol uint8, id uint16, length int) []byte {
	at := len(b)
	if dst.Is4() {
		b = append(b, make([]byte, header.IPv4MinimumSize)...)
		h := header.IPv4(b[at:])
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + length), ID: id, TTL: ttl, Protocol: protocol,
			Flags: header.IPv4FlagDontFragment, SrcAddr: address(src), DstAddr: address(dst),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return b
	}
	b = append(b, make([]byte, header.IPv6MinimumSize)...)
	header.IPv6(b[at:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(length), TransportProtocol: tcpip.TransportProtocolNumber(protocol), HopLimit: ttl,
		SrcAddr: address(src), DstAddr: address(dst),
	})
	return b
}

func address(a netip.Addr) tcpip.Address {
	switch {
	case a.Is4():
		return tcpip.AddrFrom4(a.As4())
	case a.Is6():
		return tcpip.AddrFrom16(a.As16())
	}
	return tcpip.Address{}
}

// Fragments cuts a packet that Parse can read into fragments with size bytes of
// payload each, a multiple of 8, and less in the last.
func Fragments(packet []byte, id uint32, size int) (all [][]byte) {
	head := header.IPv4MinimumSize
	if packet[0]>>4 == 6 {
		head = header.IPv6MinimumSize
	}
	payload := packet[head:]
	for at := 0; at < len(payload); at += size {
		part, more := payload[at:min(at+size, len(payload))], at+size < len(payload)
		b := slices.Clone(packet[:head])
		if packet[0]>>4 == 6 {
			h := header.IPv6(b)
			extension := make([]byte, header.IPv6FragmentHeaderSize)
			extension[0] = h.NextHeader()
			offset := uint16(at)
			if more {
				offset |= 1
			}
			binary.BigEndian.PutUint16(extension[2:], offset)
			binary.BigEndian.PutUint32(extension[4:], id)
			h.SetNextHeader(uint8(header.IPv6FragmentHeader))
			h.SetPayloadLength(uint16(len(extension) + len(part)))
			b = append(b, extension...)
		} else {
			h := header.IPv4(b)
			h.SetTotalLength(uint16(head + len(part)))
			h.SetID(uint16(id))
			flags := uint8(0)
			if more {
				flags = header.IPv4FlagMoreFragments
			}
			h.SetFlagsFragmentOffset(flags, uint16(at))
			h.SetChecksum(0)
			h.SetChecksum(^h.CalculateChecksum())
		}
		all = append(all, append(b, part...))
	}
	return all
}

// UDP returns a packet.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	h := header.UDP(b)
	h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(cap(b))})
	b = append(b, payload...)
	header.UDP(b).SetChecksum(^checksum.Checksum(b, PseudoHeader(src.Addr(), dst.Addr(), ProtocolUDP, len(b))))
	return IP(src.Addr(), dst.Addr(), ProtocolUDP, b)
}

// ICMP returns a packet with a message of ICMP, or of ICMPv6 for addresses of
// IPv6. rest is the second word of its header. The hop limit is 255, as ICMPv6
// wants it of neighbours.
func ICMP(src, dst netip.Addr, kind, code byte, rest uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
	b = append(b, body...)
	protocol, sum := uint8(ProtocolICMP), uint16(0)
	if dst.Is6() {
		protocol, sum = ProtocolICMPv6, PseudoHeader(src, dst, ProtocolICMPv6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, sum))
	p := IP(src, dst, protocol, b)
	if dst.Is6() {
		header.IPv6(p).SetHopLimit(255)
	}
	return p
}

// Flags of a neighbour advertisement.
const (
	Solicited = 0x40
	Override  = 0x20
)

// Solicitation returns the packet by which src asks who has an address of IPv6
// (RFC 4861 section 4.3).
func Solicitation(src, dst, target netip.Addr, mac []byte) []byte {
	return ICMP(src, dst, byte(header.ICMPv6NeighborSolicit), 0, 0, slices.Concat(target.AsSlice(), []byte{1, 1}, mac))
}

// Advertisement returns the packet by which target says that it has a MAC address
// (RFC 4861 section 4.4).
func Advertisement(target, dst netip.Addr, flags byte, mac []byte) []byte {
	return ICMP(target, dst, byte(header.ICMPv6NeighborAdvert), 0, uint32(flags)<<24, slices.Concat(target.AsSlice(), []byte{2, 1}, mac))
}

// Operations of ARP.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP returns an ARP packet for IPv4, which goes behind an Ethernet header.
func ARP(operation uint16, senderMAC []byte, sender netip.Addr, targetMAC []byte, target netip.Addr) []byte {
	b := make(header.ARP, header.ARPSize)
	b.SetIPv4OverEthernet()
	b.SetOp(header.ARPOp(operation))
	copy(b.HardwareAddressSender(), senderMAC)
	copy(b.ProtocolAddressSender(), sender.AsSlice())
	copy(b.HardwareAddressTarget(), targetMAC)
	copy(b.ProtocolAddressTarget(), target.AsSlice())
	return b
}

// PseudoHeader returns the sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200
// section 8.1), not complemented. length is that of the segment; a device that is
// to cut segments wants 0 instead.
func PseudoHeader(src, dst netip.Addr, protocol uint8, length int) uint16 {
	return header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(protocol), address(src), address(dst), uint16(length))
}
