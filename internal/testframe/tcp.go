package testframe

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A Sum is what stands in the checksum field of a TCP header.
type Sum uint8

const (
	// Whole is the right checksum.
	Whole Sum = iota
	// Partial is the sum of the pseudo-header, for a device that fills in the rest.
	Partial
	// PartialTSO is that without the length, for a device that cuts the segment.
	PartialTSO
)

// A TCP describes a segment, and the packet and the frame around it. It is good
// for many: change what differs, and build the next one.
type TCP struct {
	DstMAC, SrcMAC []byte // nil for zeros
	ID             uint16 // identification of an IPv4 packet
	Src, Dst       netip.AddrPort
	Seq, Ack       uint32
	Flags          header.TCPFlags
	Window         uint16 // as in the header, not scaled
	Urgent         uint16
	Options        []byte // filled up to whole words
	Payload        []byte
	Sum            Sum
}

// Frame returns the segment in an Ethernet frame.
func (s *TCP) Frame() []byte { return s.AppendFrame(nil) }

// AppendFrame is Frame that appends to a buffer.
func (s *TCP) AppendFrame(b []byte) []byte {
	etherType := uint16(TypeIPv4)
	if s.Dst.Addr().Is6() {
		etherType = TypeIPv6
	}
	return s.appendPacket(appendEthernet(b, s.DstMAC, s.SrcMAC, etherType))
}

// Packet returns the segment in an IP packet.
func (s *TCP) Packet() []byte { return s.appendPacket(nil) }

func (s *TCP) appendPacket(b []byte) []byte {
	return s.appendSegment(appendIP(b, s.Src.Addr(), s.Dst.Addr(), ProtocolTCP, s.ID, s.headerLen()+len(s.Payload)))
}

// Segment returns the TCP header and the payload.
func (s *TCP) Segment() header.TCP { return s.appendSegment(nil) }

func (s *TCP) headerLen() int { return header.TCPMinimumSize + (len(s.Options)+3)&^3 }

func (s *TCP) appendSegment(b []byte) []byte {
	at, head := len(b), s.headerLen()
	b = append(append(b, make([]byte, head)...), s.Payload...)
	h := header.TCP(b[at:])
	h.Encode(&header.TCPFields{
		SrcPort: s.Src.Port(), DstPort: s.Dst.Port(), SeqNum: s.Seq, AckNum: s.Ack,
		DataOffset: uint8(head), Flags: s.Flags, WindowSize: s.Window, UrgentPointer: s.Urgent,
	})
	copy(h[header.TCPMinimumSize:], s.Options)
	switch src, dst := s.Src.Addr(), s.Dst.Addr(); s.Sum {
	case Whole:
		SumTCP(src, dst, h)
	case Partial:
		h.SetChecksum(PseudoHeader(src, dst, ProtocolTCP, len(h)))
	case PartialTSO:
		h.SetChecksum(PseudoHeader(src, dst, ProtocolTCP, 0))
	}
	return b
}

// SumTCP sets the checksum of a segment that has been changed.
func SumTCP(src, dst netip.Addr, segment header.TCP) {
	segment.SetChecksum(0)
	segment.SetChecksum(^checksum.Checksum(segment, PseudoHeader(src, dst, ProtocolTCP, len(segment))))
}

// SumIPv4 sets the header checksum of a packet that has been changed.
func SumIPv4(packet header.IPv4) {
	packet.SetChecksum(0)
	packet.SetChecksum(^packet.CalculateChecksum())
}
