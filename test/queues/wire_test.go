package queues

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/testframe"
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
		for _, f := range testframe.Fragments(frame[p.L3:p.End], id, size) {
			deliver(append(frame[:p.L3:p.L3], f...))
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
	var message []byte
	if p.IPv6 {
		router, sender := netip.AddrFrom16([16]byte{0: 0xfd, 15: q.router}), netip.AddrFrom16([16]byte(packet[8:]))
		quoted := packet[:header.IPv6MinimumSize+header.TCPMinimumSize]
		if q.tooBig {
			message = testframe.ICMP(router, sender, byte(header.ICMPv6PacketTooBig), 0, uint32(q.mtu), quoted)
		} else {
			message = testframe.ICMP(router, sender, byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6PortUnreachable), 0, quoted)
		}
	} else {
		router, sender := netip.AddrFrom4([4]byte{10, 0, 0, q.router}), netip.AddrFrom4([4]byte(packet[12:]))
		quoted, code, mtu := packet[:header.IPv4MinimumSize+8], header.ICMPv4PortUnreachable, 0 // RFC 792
		if q.tooBig {
			code, mtu = header.ICMPv4FragmentationNeeded, q.mtu
		}
		message = testframe.ICMP(router, sender, byte(header.ICMPv4DstUnreachable), byte(code), uint32(mtu), quoted)
	}
	return testframe.Ethernet(q.receiveMAC[:], q.routerMAC[:], binary.BigEndian.Uint16(frame[12:]), message)
}

// accept returns the SYN-ACK that answers a SYN, nil for other frames.
func accept(frame []byte) []byte {
	p, err := testframe.ParseUnchecked(frame)
	syn := p.TCP()
	if err != nil || syn == nil || syn.Flags() != header.TCPFlagSyn {
		return nil
	}
	answer := testframe.TCP{
		DstMAC: frame[6:12], SrcMAC: frame[:6],
		Src: netip.AddrPortFrom(p.Dst, syn.DestinationPort()), Dst: netip.AddrPortFrom(p.Src, syn.SourcePort()),
		Seq: syn.SequenceNumber(), Ack: syn.SequenceNumber() + 1, Flags: header.TCPFlagSyn | header.TCPFlagAck,
		Window: syn.WindowSize(), Options: syn.Options(),
	}
	return answer.Frame()
}
