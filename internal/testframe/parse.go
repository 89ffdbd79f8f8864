package testframe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A Packet is an IP packet. It reads no extension headers of IPv6: Protocol is
// then the first one's. Payload is a view.
type Packet struct {
	Src, Dst netip.Addr
	Protocol uint8
	HopLimit uint8
	Payload  []byte // without what pads the frame
	ipv4     header.IPv4
}

// TCP returns the segment of a packet, nil if there is none.
func (p Packet) TCP() header.TCP {
	if p.Protocol != ProtocolTCP {
		return nil
	}
	return p.Payload
}

// Parse reads a frame without tags. It fails for what is no IP packet and for
// wrong lengths and checksums.
func Parse(frame []byte) (Packet, error) { return parseFrame(frame, ParseIP) }

// ParseUnchecked is Parse that ignores checksums, for frames that a device has
// yet to complete.
func ParseUnchecked(frame []byte) (Packet, error) { return parseFrame(frame, parseIP) }

func parseFrame(frame []byte, parse func([]byte) (Packet, error)) (Packet, error) {
	if len(frame) <= EthernetLen {
		return Packet{}, fmt.Errorf("a frame of %d bytes", len(frame))
	}
	version := frame[EthernetLen] >> 4
	switch t := binary.BigEndian.Uint16(frame[12:]); {
	case t == TypeIPv4 && version == 4, t == TypeIPv6 && version == 6:
		return parse(frame[EthernetLen:])
	default:
		return Packet{}, fmt.Errorf("a frame of type %#04x with IP version %d", t, version)
	}
}

// ParseIP reads a packet. It fails for wrong lengths and checksums.
func ParseIP(packet []byte) (Packet, error) {
	p, err := parseIP(packet)
	if err == nil {
		err = p.check()
	}
	return p, err
}

func parseIP(b []byte) (p Packet, err error) {
	switch {
	case len(b) > 0 && b[0]>>4 == 4 && header.IPv4(b).IsValid(len(b)):
		p.ipv4 = header.IPv4(b)
		p.Src, _ = netip.AddrFromSlice(p.ipv4.SourceAddressSlice())
		p.Dst, _ = netip.AddrFromSlice(p.ipv4.DestinationAddressSlice())
		p.Protocol, p.HopLimit, p.Payload = p.ipv4.Protocol(), p.ipv4.TTL(), p.ipv4.Payload()
	case len(b) > 0 && b[0]>>4 == 6 && header.IPv6(b).IsValid(len(b)):
		h := header.IPv6(b)
		p.Src, _ = netip.AddrFromSlice(h.SourceAddressSlice())
		p.Dst, _ = netip.AddrFromSlice(h.DestinationAddressSlice())
		p.Protocol, p.HopLimit, p.Payload = h.NextHeader(), h.HopLimit(), h.Payload()
	default:
		return p, fmt.Errorf("a malformed IP packet: %x", b)
	}
	if h := p.TCP(); h != nil && (len(h) < header.TCPMinimumSize || h.DataOffset() < header.TCPMinimumSize || int(h.DataOffset()) > len(h)) {
		return p, fmt.Errorf("a malformed TCP header: %x", []byte(h))
	}
	return p, nil
}

// check checks the checksums, of the protocols that it knows.
func (p Packet) check() error {
	if p.ipv4 != nil && !p.ipv4.IsChecksumValid() {
		return errors.New("a wrong IPv4 checksum")
	}
	if p.ipv4 != nil && (p.ipv4.More() || p.ipv4.FragmentOffset() != 0) {
		return nil // the others have the rest
	}
	var sum uint16
	switch p.Protocol {
	case ProtocolTCP, ProtocolUDP, ProtocolICMPv6:
		if p.Protocol == ProtocolUDP && len(p.Payload) >= header.UDPMinimumSize && header.UDP(p.Payload).Checksum() == 0 {
			return nil // the sender left it out
		}
		sum = PseudoHeader(p.Src, p.Dst, p.Protocol, len(p.Payload))
	case ProtocolICMP:
	default:
		return nil
	}
	if checksum.Checksum(p.Payload, sum) != 0xffff {
		return fmt.Errorf("a wrong checksum of protocol %d: %x", p.Protocol, p.Payload)
	}
	return nil
}
