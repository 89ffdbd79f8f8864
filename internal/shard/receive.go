package shard

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/recorder"
	owntcp "github.com/gotpa/tpa/internal/tcp"
	"github.com/gotpa/tpa/link"
	tpanet "github.com/gotpa/tpa/net"
)

// The short way in: segments of established flows go from the device's buffer
// straight to TCP, past the stack's IP layer and demultiplexers. Anything that
// is not a plain segment of a known flow takes the stack's own way.

// maxCoalesced is the greatest payload in bytes that consecutive segments of one
// flow are joined to, as for Linux's GRO.
const maxCoalesced = 65535

// established is a flow whose segments take the short way.
type established struct {
	endpoint stack.TransportEndpoint
	// own is the endpoint if it is one of our own TCP, which takes all segments of
	// the flow straight from the device's buffer.
	own *owntcp.Endpoint
	id  stack.TransportEndpointID
	key flow.Key
	// tracked is the endpoint's state if it is one of gVisor's TCP.
	tracked *tracked
	// conn stands on the endpoint; nil in tests that have none.
	conn *tpanet.Conn
	// trace records a flow of gVisor's TCP; nil does not. Our own TCP records itself.
	trace *recorder.Shared
}

// segment is a TCP segment found in a frame.
type segment struct {
	key flow.Key
	// packet is the IP packet without padding; ip and tcp are header lengths.
	packet  []byte
	ip, tcp int
	proto   tcpip.NetworkProtocolNumber
}

func (g *segment) header() header.TCP { return header.TCP(g.packet[g.ip:]) }

func (g *segment) payload() []byte { return g.packet[g.ip+g.tcp:] }

const (
	// joinable are the flags that a segment may have to be joined to others.
	joinable = header.TCPFlagAck | header.TCPFlagPsh
	// unusual are those that send a segment the long way.
	unusual = header.TCPFlagSyn | header.TCPFlagRst | header.TCPFlagUrg
)

// parse finds a plain TCP segment in a frame to mac: IPv4 without options or
// IPv6 without extension headers, no fragment, lengths that add up.
func parse(b []byte, mac link.MAC, g *segment) bool {
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
		g.packet, g.ip, g.proto = p[:size], header.IPv4MinimumSize, header.IPv4ProtocolNumber
		g.key = flow.Key4(p[12:20], p[20:24])
	case b[12] == 0x86 && b[13] == 0xdd && p[0]>>4 == 6 && len(p) >= header.IPv6MinimumSize+header.TCPMinimumSize:
		size := header.IPv6MinimumSize + int(binary.BigEndian.Uint16(p[4:]))
		if p[6] != uint8(header.TCPProtocolNumber) || size > len(p) || size < header.IPv6MinimumSize+header.TCPMinimumSize {
			return false
		}
		g.packet, g.ip, g.proto = p[:size], header.IPv6MinimumSize, header.IPv6ProtocolNumber
		g.key = flow.Key6(p[8:40], p[40:44])
	default:
		return false
	}
	g.tcp = int(g.packet[g.ip+12]>>4) * 4
	return g.tcp >= header.TCPMinimumSize && g.ip+g.tcp <= len(g.packet)
}

// checksumsRight checks the IPv4 header and TCP checksums in software.
func (g *segment) checksumsRight() bool {
	p := g.packet
	addrs := p[8:g.ip]
	if g.ip == header.IPv4MinimumSize {
		if checksum.Checksum(p[:g.ip], 0) != 0xffff {
			return false
		}
		addrs = p[12:g.ip]
	}
	sum := checksum.Checksum(addrs, uint16(header.TCPProtocolNumber))
	sum = checksum.Combine(sum, uint16(len(p)-g.ip))
	return checksum.Checksum(p[g.ip:], sum) == 0xffff
}

// train is a packet under construction: a segment and those that continue it.
type train struct {
	flow *established
	pkt  *stack.PacketBuffer
	next uint32
	size int
	// head is the first segment's TCP header, in the packet.
	head header.TCP
	// open tells whether another segment may join.
	open bool
}

// receive hands on a burst.
func (s *Shard) receive(frames []link.Frame) {
	if s.own != nil {
		s.receiveOwn(frames)
		return
	}
	var g segment
	var t train
	short := uint64(0)
	for i := range frames {
		f := &frames[i]
		segment := f.Checksum != link.Bad && parse(f.Data, s.mac, &g)
		if !segment || g.header().Flags()&unusual != 0 {
			s.depart(&t)
			if segment && g.header().Flags()&header.TCPFlagRst != 0 {
				s.recordReset(&g)
			}
			if !s.gather(f) {
				s.link.Deliver(f)
			}
			continue
		}
		owner, ok := s.flows.Lookup(&g.key)
		if !ok {
			s.depart(&t)
			if !s.handOver(f, &g.key) {
				s.link.Deliver(f)
			}
			continue
		}
		if f.Checksum != link.Good && !g.checksumsRight() {
			s.link.CountBadChecksum()
			continue
		}
		if owner.trace != nil {
			owner.trace.Received(g.header(), len(g.payload()))
		}
		if owner.tracked != nil && !s.conntrack.passes(owner.tracked, &g) {
			s.depart(&t)
			s.link.Deliver(f)
			continue
		}
		short++
		if t.flow == owner && t.join(&g) {
			continue
		}
		s.depart(&t)
		s.start(&t, owner, &g)
	}
	s.depart(&t)
	bump(&s.shortcuts, short)
}

// receiveOwn hands on a burst to our own TCP.
func (s *Shard) receiveOwn(frames []link.Frame) {
	var g segment
	short := uint64(0)
	s.own.Polled(true)
	for i := range frames {
		f := &frames[i]
		if f.Checksum != link.Bad && parse(f.Data, s.mac, &g) {
			// The program may keep a connection that a reset has ended.
			if owner, ok := s.flows.Lookup(&g.key); ok && !owner.own.Ended() {
				if f.Checksum != link.Good && !g.checksumsRight() {
					s.link.CountBadChecksum()
					continue
				}
				short++
				if owner.own.Input(header.TCP(g.packet[g.ip:g.ip+g.tcp]), g.payload()) {
					s.owing = append(s.owing, owner.own)
				}
				continue
			}
			if g.header().Flags()&unusual == 0 && s.handOver(f, &g.key) {
				continue
			}
		}
		if !s.gather(f) {
			// gVisor queues what is for TCP.
			s.link.Deliver(f)
			s.own.Drain()
		}
	}
	s.own.Polled(false)
	s.own.Drain()
	bump(&s.shortcuts, short)
}

// acknowledge sends the acknowledgements that no reply has carried.
func (s *Shard) acknowledge() {
	for i, e := range s.owing {
		e.Acknowledge()
		s.owing[i] = nil
	}
	s.owing = s.owing[:0]
}

// resume lets connections go on that found the device full.
func (s *Shard) resume() {
	if s.own != nil {
		s.own.Retry()
	}
}

// start makes a packet of a segment, copying it out of the device's buffer.
func (s *Shard) start(t *train, owner *established, g *segment) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithView(buffer.NewViewWithData(g.packet)),
	})
	pkt.NetworkHeader().Consume(g.ip)
	tcp, _ := pkt.TransportHeader().Consume(g.tcp)
	pkt.NetworkProtocolNumber = g.proto
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NICID = nicID
	pkt.RXChecksumValidated = true
	h, size := header.TCP(tcp), len(g.payload())
	*t = train{
		flow: owner, pkt: pkt, head: h,
		next: h.SequenceNumber() + uint32(size), size: size,
		open: !s.tcp.NoCoalescing && size > 0 && h.Flags() == header.TCPFlagAck,
	}
}

// join appends a segment that continues the train: next in sequence, and alike
// in acknowledgement, window and options. A PSH ends the train; a FIN travels
// alone.
func (t *train) join(g *segment) bool {
	h, payload := g.header(), g.payload()
	if !t.open || len(payload) == 0 || h.SequenceNumber() != t.next || h.Flags()&^joinable != 0 ||
		h.Flags()&header.TCPFlagAck == 0 || g.tcp != len(t.head) || t.size+len(payload) > maxCoalesced ||
		string(h[8:12]) != string(t.head[8:12]) || string(h[14:16]) != string(t.head[14:16]) ||
		string(h[header.TCPMinimumSize:g.tcp]) != string(t.head[header.TCPMinimumSize:]) {
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

// depart hands the train's packet to TCP.
func (s *Shard) depart(t *train) {
	if t.flow == nil {
		return
	}
	s.queuer.QueuePacket(t.flow.endpoint, t.flow.id, t.pkt)
	t.pkt.DecRef()
	t.flow, t.pkt, t.head = nil, nil, nil
}
