package queues

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

// fragmenting returns a wire that cuts TCP packets with data into fragments of
// size bytes, a multiple of 8.
func fragmenting(deliver func([]byte), size int) func([]byte) {
	id := uint32(0)
	return func(frame []byte) {
		p, ok := offload.Parse(frame)
		if !ok || p.Protocol != offload.TCP || p.End-p.L3 <= size {
			deliver(frame)
			return
		}
		id++
		payload := frame[p.L3+header.IPv4MinimumSize : p.End]
		if p.IPv6 {
			payload = frame[p.L3+header.IPv6MinimumSize : p.End]
		}
		for at := 0; at < len(payload); at += size {
			part := payload[at:min(at+size, len(payload))]
			more := at+size < len(payload)
			b := append([]byte(nil), frame[:link.EthernetHeaderLen]...)
			if p.IPv6 {
				h := append(header.IPv6(nil), frame[p.L3:p.L3+header.IPv6MinimumSize]...)
				next := h.NextHeader()
				h.SetNextHeader(uint8(header.IPv6FragmentHeader))
				h.SetPayloadLength(uint16(header.IPv6FragmentHeaderSize + len(part)))
				ext := make([]byte, header.IPv6FragmentHeaderSize)
				ext[0] = next
				offset := uint16(at)
				if more {
					offset |= 1
				}
				binary.BigEndian.PutUint16(ext[2:], offset)
				binary.BigEndian.PutUint32(ext[4:], id)
				b = append(append(b, h...), ext...)
			} else {
				h := append(header.IPv4(nil), frame[p.L3:p.L3+header.IPv4MinimumSize]...)
				h.SetTotalLength(uint16(header.IPv4MinimumSize + len(part)))
				h.SetID(uint16(id))
				flags := uint8(0)
				if more {
					flags = header.IPv4FlagMoreFragments
				}
				h.SetFlagsFragmentOffset(flags, uint16(at))
				h.SetChecksum(0)
				h.SetChecksum(^h.CalculateChecksum())
				b = append(b, h...)
			}
			deliver(append(b, part...))
		}
	}
}

// A quote makes an ICMP error from a router to the sender of a TCP segment.
type quote struct {
	router     byte // last byte of its address
	tooBig     bool // else: port unreachable
	mtu        int
	routerMAC  [6]byte
	receiveMAC [6]byte
}

// about returns the error about a frame that holds a whole segment.
func (q quote) about(frame []byte) []byte {
	p, ok := offload.Parse(frame)
	if !ok {
		panic("not an IP packet")
	}
	packet := frame[p.L3:p.End]
	b := append(append([]byte(nil), q.receiveMAC[:]...), q.routerMAC[:]...)
	b = append(b, frame[12:14]...)
	if !p.IPv6 {
		icmp := make(header.ICMPv4, header.ICMPv4MinimumSize, 64)
		icmp.SetType(header.ICMPv4DstUnreachable)
		icmp.SetCode(header.ICMPv4PortUnreachable)
		if q.tooBig {
			icmp.SetCode(header.ICMPv4FragmentationNeeded)
			icmp.SetMTU(uint16(q.mtu))
		}
		icmp = append(icmp, packet[:header.IPv4MinimumSize+8]...) // RFC 792
		icmp.SetChecksum(0)
		icmp.SetChecksum(^checksum.Checksum(icmp, 0))
		h := make(header.IPv4, header.IPv4MinimumSize)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(h) + len(icmp)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: tcpip.AddrFrom4([4]byte{10, 0, 0, q.router}), DstAddr: header.IPv4(packet).SourceAddress(),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return append(append(b, h...), icmp...)
	}
	src, dst := tcpip.AddrFrom16([16]byte{0: 0xfd, 15: q.router}), header.IPv6(packet).SourceAddress()
	icmp := make(header.ICMPv6, header.ICMPv6DstUnreachableMinimumSize, 128)
	icmp.SetType(header.ICMPv6DstUnreachable)
	icmp.SetCode(header.ICMPv6PortUnreachable)
	if q.tooBig {
		icmp.SetType(header.ICMPv6PacketTooBig)
		icmp.SetCode(header.ICMPv6UnusedCode)
		icmp.SetMTU(uint32(q.mtu))
	}
	icmp = append(icmp, packet[:header.IPv6MinimumSize+header.TCPMinimumSize]...)
	icmp.SetChecksum(0)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	h := make(header.IPv6, header.IPv6MinimumSize)
	h.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(icmp)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 255, SrcAddr: src, DstAddr: dst,
	})
	return append(append(b, h...), icmp...)
}

// accept turns a SYN into the SYN-ACK that answers it. It returns false for other
// frames.
func accept(frame []byte) bool {
	p, ok := offload.Parse(frame)
	if !ok || p.IPv6 || p.Protocol != offload.TCP || header.TCP(frame[p.L4:p.End]).Flags() != header.TCPFlagSyn {
		return false
	}
	var mac [6]byte
	copy(mac[:], frame)
	copy(frame, frame[6:12])
	copy(frame[6:], mac[:])
	ip, tcp := header.IPv4(frame[p.L3:p.End]), header.TCP(frame[p.L4:p.End])
	src, dst := ip.SourceAddress(), ip.DestinationAddress()
	ip.SetSourceAddress(dst)
	ip.SetDestinationAddress(src)
	from, to := tcp.SourcePort(), tcp.DestinationPort()
	tcp.SetSourcePort(to)
	tcp.SetDestinationPort(from)
	tcp.SetAckNumber(tcp.SequenceNumber() + 1)
	tcp.SetFlags(uint8(header.TCPFlagSyn | header.TCPFlagAck))
	tcp.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, dst, src, uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	return true
}
