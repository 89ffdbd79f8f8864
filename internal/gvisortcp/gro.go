package gvisortcp

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/transport"
)

// joinable are the flags that a segment may have to be joined to others.
const joinable = header.TCPFlagAck | header.TCPFlagPsh

// gro is generic receive offload: a packet under construction, of a segment and
// those that continue it.
type gro struct {
	flow *established
	pkt  *stack.PacketBuffer
	next uint32 // the sequence number that continues it
	size int    // of the payload, in bytes
	// head is the first segment's TCP header, in the packet.
	head header.TCP
	// open tells whether another segment may join.
	open bool
}

// start makes a packet of a segment, copying it out of the device's buffer.
func (g *Engine) start(t *gro, owner *established, s *flow.Segment) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(buffer.NewViewWithData(s.Packet)),
	})
	pkt.NetworkHeader().Consume(s.IPLen)
	tcp, _ := pkt.TransportHeader().Consume(s.TCPLen)
	pkt.NetworkProtocolNumber = s.Network
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NICID = g.c.NIC
	pkt.RXChecksumValidated = true
	h, size := header.TCP(tcp), len(s.Payload())
	*t = gro{
		flow: owner, pkt: pkt, head: h,
		next: h.SequenceNumber() + uint32(size), size: size,
		open: !g.c.NoCoalescing && size > 0 && h.Flags() == header.TCPFlagAck,
	}
}

// join appends a segment that continues the packet: next in sequence, and alike
// in acknowledgement, window and options. A PSH ends the packet; a FIN travels
// alone.
func (t *gro) join(s *flow.Segment) bool {
	h, payload := s.Header(), s.Payload()
	if !t.open || len(payload) == 0 || h.SequenceNumber() != t.next || h.Flags()&^joinable != 0 ||
		h.Flags()&header.TCPFlagAck == 0 || s.TCPLen != len(t.head) || t.size+len(payload) > transport.MaxCoalesced ||
		string(h[8:12]) != string(t.head[8:12]) || string(h[14:16]) != string(t.head[14:16]) ||
		string(h[header.TCPMinimumSize:s.TCPLen]) != string(t.head[header.TCPMinimumSize:]) {
		return false
	}
	t.pkt.Data().AppendView(buffer.NewViewWithData(payload))
	t.next += uint32(len(payload))
	t.size += len(payload)
	if h.Flags()&header.TCPFlagPsh != 0 {
		t.head[13] |= byte(header.TCPFlagPsh)
		t.open = false
	}
	return true
}

// flush hands the packet, if there is one, to TCP.
func (g *Engine) flush(t *gro) {
	if t.flow == nil {
		return
	}
	g.guard.QueuePacket(t.flow.ep.ep, t.flow.id, t.pkt)
	t.pkt.DecRef()
	t.flow, t.pkt, t.head = nil, nil, nil
}
