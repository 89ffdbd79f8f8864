package flow

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// A Segment is a TCP segment found in a frame. It points into the frame.
type Segment struct {
	Key Key
	// Packet is the IP packet without padding; IPLen and TCPLen are the lengths of
	// its headers in bytes.
	Packet        []byte
	IPLen, TCPLen int
	Network       tcpip.NetworkProtocolNumber
}

// Header is the TCP header and what follows it.
func (s *Segment) Header() header.TCP { return header.TCP(s.Packet[s.IPLen:]) }

// Payload is what follows the TCP header.
func (s *Segment) Payload() []byte { return s.Packet[s.IPLen+s.TCPLen:] }

// Unusual are the flags of segments that begin or end a connection, or are urgent.
const Unusual = header.TCPFlagSyn | header.TCPFlagRst | header.TCPFlagUrg

// Parse finds a plain TCP segment in a frame to mac: IPv4 without options or
// IPv6 without extension headers, no fragment, lengths that add up.
func (s *Segment) Parse(b []byte, mac link.MAC) bool {
	const eth = link.EthernetHeaderLen
	if len(b) < eth+header.IPv4MinimumSize+header.TCPMinimumSize || link.MAC(b) != mac {
		return false
	}
	p := b[eth:]
	switch {
	case b[12] == 0x08 && b[13] == 0x00 && p[0] == 0x45:
		size := int(binary.BigEndian.Uint16(p[2:]))
		// The fragment field may hold "do not fragment" and nothing else.
		if p[9] != uint8(header.TCPProtocolNumber) || (p[6]&^0x40)|p[7] != 0 ||
			size > len(p) || size < header.IPv4MinimumSize+header.TCPMinimumSize {
			return false
		}
		s.Packet, s.IPLen, s.Network = p[:size], header.IPv4MinimumSize, header.IPv4ProtocolNumber
		s.Key = Key4(p[12:20], p[20:24])
	case b[12] == 0x86 && b[13] == 0xdd && p[0]>>4 == 6 && len(p) >= header.IPv6MinimumSize+header.TCPMinimumSize:
		size := header.IPv6MinimumSize + int(binary.BigEndian.Uint16(p[4:]))
		if p[6] != uint8(header.TCPProtocolNumber) || size > len(p) || size < header.IPv6MinimumSize+header.TCPMinimumSize {
			return false
		}
		s.Packet, s.IPLen, s.Network = p[:size], header.IPv6MinimumSize, header.IPv6ProtocolNumber
		s.Key = Key6(p[8:40], p[40:44])
	default:
		return false
	}
	s.TCPLen = int(s.Packet[s.IPLen+12]>>4) * 4
	return s.TCPLen >= header.TCPMinimumSize && s.IPLen+s.TCPLen <= len(s.Packet)
}

// ChecksumsRight checks the IPv4 header and TCP checksums in software.
func (s *Segment) ChecksumsRight() bool {
	p := s.Packet
	addrs := p[8:s.IPLen]
	if s.IPLen == header.IPv4MinimumSize {
		if checksum.Sum(p[:s.IPLen], 0) != 0xffff {
			return false
		}
		addrs = p[12:s.IPLen]
	}
	sum := checksum.Sum(addrs, uint16(header.TCPProtocolNumber))
	sum = checksum.Combine(sum, uint16(len(p)-s.IPLen))
	return checksum.Sum(p[s.IPLen:], sum) == 0xffff
}
