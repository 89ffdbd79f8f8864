package gvisortcp

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// A conntrack stands before gVisor's TCP, which takes data, windows and ICMP
// errors from whoever knows the addresses and ports. It follows the sequence
// numbers of each connection in both directions, as a stateful firewall does, and
// keeps back what neither the peer nor a router on the way can have sent. internal/tcp does all this itself.
//
// Sequence numbers out of our window, resets and SYNs are left to gVisor's TCP,
// which knows what to do with them (RFC 5961 sections 3 and 4).
//
// What leaves is seen before the device has it, so that no answer can come
// earlier; what arrives is judged before it is queued for TCP. Segments that are
// as they should be stay on the fast path, the others take the slow path, and
// are judged there once more. Each connection has a lock of its own, which is held
// for some compares only.
type conntrack struct {
	stack *stack.Stack
	nic   tcpip.NICID
	flows flow.Table[*tracked]
	// most is how many flows are followed. Limits.Connections may change it any time.
	most func() int
	now  func() int64 // monotonic, in nanoseconds
	// unclaimed answers a segment as one that belongs to no connection.
	unclaimed func(stack.TransportEndpointID, *stack.PacketBuffer) stack.UnknownDestinationPacketDisposition

	acks, timestamps, errors atomic.Uint64
}

// tracked is what is known about a connection.
type tracked struct {
	id    stack.TransportEndpointID
	proto tcpip.NetworkProtocolNumber
	// gone says that there was no such endpoint when tidy last looked, to which it
	// belongs.
	gone bool

	mu    sync.Mutex
	phase phase

	// Our direction, in the terms of RFC 9293 section 3.3.1: ISS, SND.UNA, the
	// highest SND.NXT ever, and of the newest segment received the window, as it is
	// in the header, and its sequence number, SND.WL1. SND.WL2 is at most SND.UNA.
	iss, unacknowledged, sent uint32
	window                    uint16
	windowSeq                 uint32
	maxWindow                 uint32 // in bytes
	sendShift                 uint8

	// The peer's direction: what we acknowledged last, which RCV.NXT may be
	// ahead of, and the right edge of the widest window that the peer was told.
	acked, edge  uint32
	hearing      bool   // acked and edge are known
	synWindow    uint16 // of our SYN
	receiveShift uint8
	// crossed: both ends opened at once.
	crossed bool
	// synSeq and synShift are of the last SYN that came, whatever became of it.
	synSeq   uint32
	synShift int

	// useTimestamps: RFC 7323's were agreed on. recent is TS.Recent, taken at
	// recentAt, 0 when it was not.
	useTimestamps bool
	recent        uint32
	recentAt      int64

	challenged int64 // when something was last refused with an acknowledgement
}

// phase is how far the handshake is.
type phase uint8

const (
	unknown     phase = iota // nothing of ours has been seen
	synSent                  // our SYN has left
	synReceived              // so has our acknowledgement of the peer's
	opened                   // it is over
)

// action is what is to become of a segment.
type action uint8

const (
	pass         action = iota
	wrongAck            // refuse it: it acknowledges what cannot be
	oldTimestamp        // refuse it: it is from an earlier round of sequence numbers
	oldSYN              // refuse it if the connection is in TIME-WAIT
	unsolicited         // answer with a reset: the peer never heard our SYN
	oldWindow           // its window is not the newest
	crossedSYN          // the SYN on it has come before
)

const (
	challengeEvery  = int64(transport.ChallengeInterval)
	timestampsStale = int64(transport.TimestampsStale)
)

func before(a, b uint32) bool { return int32(a-b) < 0 }

// track begins to follow a connection that TCP has or is about to have, unless
// there are too many.
func (c *conntrack) track(k flow.Key, id stack.TransportEndpointID, proto tcpip.NetworkProtocolNumber) *tracked {
	if t, ok := c.flows.Lookup(&k); ok {
		return t
	}
	// Some may have ended since the last call of tidy.
	if c.flows.Len() >= c.most() {
		return nil
	}
	t := &tracked{id: id, proto: proto, synShift: -1}
	c.flows.Insert(k, t)
	return t
}

// answered follows a connection from its SYN on, which will be answered from
// memory, not with a cookie.
func (c *conntrack) answered(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	h := header.TCP(pkt.TransportHeader().Slice())
	k, ok := netstack.KeyOf(id.RemoteAddress, id.RemotePort, id.LocalAddress, id.LocalPort)
	if !ok || int(h.DataOffset()) != len(h) {
		return
	}
	if t := c.track(k, id, pkt.NetworkProtocolNumber); t != nil {
		t.mu.Lock()
		t.hearSYN(h)
		t.mu.Unlock()
	}
}

// tidy forgets connections that have ended. One goroutine calls it at a time.
func (c *conntrack) tidy() {
	for k, t := range c.flows.All() {
		ep, ok := c.endpoint(t)
		switch ended := !ok || ep.EndpointState() == tcp.StateListen; {
		case !ended:
			t.gone = false
		case t.gone:
			c.flows.Delete(k)
		default:
			t.gone = true // or not there yet
		}
	}
}

// endpoint is the endpoint that a connection's segments are for, if any.
func (c *conntrack) endpoint(t *tracked) (*tcp.Endpoint, bool) {
	ep, ok := c.stack.FindTransportEndpoint(t.proto, tcp.ProtocolNumber, t.id, c.nic).(*tcp.Endpoint)
	return ep, ok
}

// departing sees each segment of ours before it leaves.
func (c *conntrack) departing(r *stack.Route, pkt *stack.PacketBuffer) {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || r.Loop() != stack.PacketOut || h.Flags()&header.TCPFlagRst != 0 {
		return
	}
	k, ok := netstack.KeyOf(r.RemoteAddress(), h.DestinationPort(), r.LocalAddress(), h.SourcePort())
	if !ok {
		return
	}
	t, ok := c.flows.Lookup(&k)
	if !ok {
		if h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
			return // a cookie, or there are too many
		}
		t = c.track(k, stack.TransportEndpointID{
			LocalAddress: r.LocalAddress(), LocalPort: h.SourcePort(), RemoteAddress: r.RemoteAddress(), RemotePort: h.DestinationPort(),
		}, r.NetProto())
		if t == nil {
			return
		}
	}
	t.mu.Lock()
	t.send(h, uint32(pkt.Data().Size()))
	t.mu.Unlock()
}

// begin starts over with our initial sequence number.
func (t *tracked) begin(iss uint32, p phase) {
	t.phase, t.iss, t.unacknowledged, t.sent = p, iss, iss, iss
	t.window, t.maxWindow, t.sendShift, t.receiveShift = 0, 0, 0, 0
	t.hearing, t.crossed, t.useTimestamps, t.recentAt = false, false, false, 0
}

// send learns from a segment of ours with n bytes of data, no reset.
func (t *tracked) send(h header.TCP, n uint32) {
	const syn, fin, ack = header.TCPFlagSyn, header.TCPFlagFin, header.TCPFlagAck
	flags, seq := h.Flags(), h.SequenceNumber()
	end := seq + n
	if flags&(syn|fin) != 0 {
		end++
	}
	switch {
	case flags&syn != 0:
		t.sendSYN(h)
	case t.phase == unknown, t.phase == synReceived && (end != seq || seq != t.iss+1):
		// The handshake was kept in a cookie. Nothing has left before.
		t.begin(seq-1, opened)
		t.unacknowledged, t.sent = seq, seq
		t.windowSeq = h.AckNumber() - transport.MaxCoalesced // nothing that comes is older
	}
	if before(t.sent, end) {
		t.sent = end
	}
	if flags&ack == 0 {
		return
	}
	acked, edge := h.AckNumber(), uint32(h.WindowSize())
	if flags&syn == 0 {
		edge <<= t.receiveShift
	}
	edge += acked
	if !t.hearing || before(t.acked, acked) {
		t.acked = acked
	}
	if !t.hearing || before(t.edge, edge) {
		t.edge = edge
	}
	t.hearing = true
	_, t.useTimestamps = timestamp(h.Options())
}

// sendSYN learns from a SYN of ours.
func (t *tracked) sendSYN(h header.TCP) {
	seq, acking := h.SequenceNumber(), h.Flags()&header.TCPFlagAck != 0
	switch again := t.phase != unknown && t.iss == seq; {
	case again && acking != (t.phase == synSent):
		return
	case again && acking:
		t.phase, t.crossed = synReceived, true
	case acking:
		t.begin(seq, synReceived)
	default:
		t.begin(seq, synSent)
	}
	o := header.ParseSynOptions(h.Options(), acking)
	t.receiveShift, t.synWindow = uint8(max(o.WS, 0)), h.WindowSize()
	// Shifts count if both ends have sent one (RFC 7323 section 2.2).
	if acking && o.WS >= 0 && t.synSeq+1 == h.AckNumber() {
		t.sendShift = uint8(max(t.synShift, 0))
	}
}

// hearSYN takes note of the peer's SYN.
func (t *tracked) hearSYN(h header.TCP) {
	t.synSeq = h.SequenceNumber()
	t.synShift = header.ParseSynOptions(h.Options(), h.Flags()&header.TCPFlagAck != 0).WS
}

// near tells whether TCP may take a segment with n bytes: whether it overlaps the
// window, which Linux and gVisor think one larger than RFC 9293 section 3.4.
func (t *tracked) near(seq, n uint32) bool {
	if n == 0 {
		return seq-t.acked <= t.edge-t.acked
	}
	return before(t.acked, seq+n) && !before(t.edge, seq)
}

// judge decides about a segment of the peer with n bytes of data, and learns from
// it if it is to pass. now is the time in nanoseconds, which is seldom asked for.
func (t *tracked) judge(h header.TCP, n uint32, now func() int64) action {
	const syn, rst, ack = header.TCPFlagSyn, header.TCPFlagRst, header.TCPFlagAck
	flags, seq, acks := h.Flags(), h.SequenceNumber(), h.AckNumber()
	switch {
	case flags&rst != 0:
		return pass
	case flags&syn != 0:
		return t.judgeSYN(h)
	case t.phase == unknown, flags&ack == 0:
		return pass
	case t.phase == synSent:
		if acks != t.iss+1 {
			return unsolicited
		}
		return pass
	case t.phase == synReceived:
		// A wrong one may be that of a cookie: TCP can tell.
		if acks != t.iss+1 || !t.near(seq, n) {
			return pass
		}
		t.open(h, t.sendShift)
		return pass
	}

	value, stamped := uint32(0), false
	if t.useTimestamps {
		// RFC 7323 section 5.3 (PAWS); all segments must have one (section 3.2).
		value, stamped = timestamp(h.Options())
		if !stamped || t.recentAt != 0 && before(value, t.recent) && now()-t.recentAt < timestampsStale {
			return oldTimestamp
		}
	}
	// RFC 5961 section 5.2.
	if before(t.sent, acks) || before(acks, t.unacknowledged-t.maxWindow) {
		return wrongAck
	}
	if !t.near(seq, n) {
		return pass // and TCP refuses it, or it is a probe
	}
	if stamped && !before(t.acked, seq) && (t.recentAt == 0 || value != t.recent) {
		t.recent, t.recentAt = value, now()
	}
	// RFC 9293 section 3.10.7.4: the window counts if none that was sent later has
	// come. Who acknowledges more than all before has sent it later.
	newest := before(t.unacknowledged, acks) || acks == t.unacknowledged && !before(seq, t.windowSeq)
	if !newest {
		if h.WindowSize() != t.window {
			return oldWindow
		}
		return pass
	}
	t.unacknowledged, t.windowSeq, t.window = acks, seq, h.WindowSize()
	t.maxWindow = max(t.maxWindow, uint32(t.window)<<t.sendShift)
	return pass
}

// older tells whether a segment has a timestamp older than the newest.
func (t *tracked) older(h header.TCP) bool {
	value, ok := timestamp(h.Options())
	return ok && t.recentAt != 0 && before(value, t.recent)
}

// judgeSYN decides about a segment with SYN, which is no reset.
func (t *tracked) judgeSYN(h header.TCP) action {
	seq, acks, acking := h.SequenceNumber(), h.AckNumber(), h.Flags()&header.TCPFlagAck != 0
	switch {
	case t.phase == synSent && acking && acks != t.iss+1:
		return unsolicited
	case t.phase == synSent && acking:
		t.hearSYN(h)
		// Shifts count if both ends have sent one.
		t.sendShift = uint8(max(t.synShift, 0))
		if t.synShift < 0 {
			t.receiveShift = 0
		}
		t.acked, t.edge, t.hearing = seq+1, seq+1+uint32(t.synWindow), true
		t.open(h, 0)
	case t.phase == synReceived && t.crossed && acking && acks == t.iss+1 && seq == t.synSeq:
		t.open(h, 0)
		return crossedSYN
	case t.phase == opened && !acking && (!before(t.acked, seq) || t.older(h)):
		return oldSYN // RFC 9293 section 3.6.1, RFC 6191
	case !acking:
		t.hearSYN(h)
	}
	return pass
}

// open ends the handshake with the peer's acknowledgement of our SYN.
func (t *tracked) open(h header.TCP, shift uint8) {
	t.phase = opened
	window := uint32(h.WindowSize()) << shift
	t.unacknowledged, t.windowSeq, t.window = t.iss+1, h.SequenceNumber(), uint16(window>>t.sendShift)
	t.maxWindow = max(t.maxWindow, window)
}

// timestamp finds the value of RFC 7323's option.
func timestamp(options []byte) (value uint32, ok bool) {
	for len(options) > 0 {
		switch options[0] {
		case header.TCPOptionEOL:
			return 0, false
		case header.TCPOptionNOP:
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0, false
		}
		if options[0] == header.TCPOptionTS && options[1] == header.TCPOptionTSLength {
			return binary.BigEndian.Uint32(options[2:]), true
		}
		options = options[options[1]:]
	}
	return 0, false
}

// passes tells whether a segment on the fast path may stay there.
func (c *conntrack) passes(t *tracked, g *flow.Segment) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.judge(g.Header()[:g.TCPLen], uint32(len(g.Payload())), c.now) == pass
}

// deliver hands on a segment that came on the slow path, as far as it is to be
// believed.
func (c *conntrack) deliver(to stack.TransportDispatcher, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	const proto = tcp.ProtocolNumber
	h, ip := header.TCP(pkt.TransportHeader().Slice()), pkt.Network()
	if len(h) < header.TCPMinimumSize || int(h.DataOffset()) != len(h) {
		return to.DeliverTransportPacket(proto, pkt)
	}
	source, destination := ip.SourceAddress(), ip.DestinationAddress()
	k, ok := netstack.KeyOf(source, h.SourcePort(), destination, h.DestinationPort())
	if !ok {
		return to.DeliverTransportPacket(proto, pkt)
	}
	t, ok := c.flows.Lookup(&k)
	if !ok {
		return to.DeliverTransportPacket(proto, pkt)
	}
	n := pkt.Data().Size()
	if !pkt.RXChecksumValidated {
		if !h.IsChecksumValid(source, destination, pkt.Data().Checksum(), uint16(n)) {
			return to.DeliverTransportPacket(proto, pkt) // TCP counts it
		}
		pkt.RXChecksumValidated = true
	}
	t.mu.Lock()
	v := t.judge(h, uint32(n), c.now)
	window, shift, below := t.window, t.sendShift, t.acked-1
	t.mu.Unlock()

	switch v {
	case wrongAck:
		c.acks.Add(1)
	case oldTimestamp:
		c.timestamps.Add(1)
	case oldSYN:
		if ep, ok := c.endpoint(t); ok && ep.EndpointState() == tcp.StateTimeWait {
			break
		}
		return to.DeliverTransportPacket(proto, pkt)
	case unsolicited:
		c.acks.Add(1)
		c.unclaimed(t.id, pkt)
		return stack.TransportPacketHandled
	case oldWindow:
		return c.amended(to, pkt, n, func(h header.TCP) { h.SetWindowSize(window) })
	case crossedSYN:
		return c.amended(to, pkt, n, func(h header.TCP) {
			h.SetSequenceNumber(h.SequenceNumber() + 1)
			h.SetFlags(uint8(h.Flags() &^ header.TCPFlagSyn))
			h.SetWindowSize(h.WindowSize() >> shift)
		})
	default:
		return to.DeliverTransportPacket(proto, pkt)
	}

	// Refused. TCP answers an empty segment that lies below its window with the
	// acknowledgement that we want, if it has sent no other lately, and looks at
	// nothing else of it.
	t.mu.Lock()
	now := c.now()
	due := t.challenged == 0 || now-t.challenged >= challengeEvery
	if due {
		t.challenged = now
	}
	t.mu.Unlock()
	if !due {
		return stack.TransportPacketHandled
	}
	return c.amended(to, pkt, 0, func(h header.TCP) {
		h.SetSequenceNumber(below)
		h.SetFlags(uint8(header.TCPFlagAck))
		for i := range h.Options() {
			h.Options()[i] = header.TCPOptionNOP
		}
	})
}

// amended hands on a copy of a packet, with the first n bytes of its data and
// another TCP header. The packet itself may be shared.
func (c *conntrack) amended(to stack.TransportDispatcher, pkt *stack.PacketBuffer, n int, change func(header.TCP)) stack.TransportPacketDisposition {
	ip, tcp := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	b := make([]byte, 0, len(ip)+len(tcp)+n)
	b = append(append(b, ip...), tcp...)
	b = append(b, pkt.Data().AsRange().ToSlice()[:n]...)
	amended := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer amended.DecRef()
	amended.NetworkHeader().Consume(len(ip))
	h, _ := amended.TransportHeader().Consume(len(tcp))
	change(header.TCP(h))
	amended.NetworkProtocolNumber, amended.TransportProtocolNumber = pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber
	amended.NICID, amended.RXChecksumValidated = pkt.NICID, true
	return to.DeliverTransportPacket(pkt.TransportProtocolNumber, amended)
}

// believable tells whether an ICMP error is about a segment in flight (RFC 5927
// section 4.1).
func (c *conntrack) believable(k *flow.Key, quoted header.TCP) bool {
	t, ok := c.flows.Lookup(k)
	if !ok {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == unknown || quoted.SequenceNumber()-t.unacknowledged < t.sent-t.unacknowledged {
		return true
	}
	c.errors.Add(1)
	return false
}

// bounded is an ICMP error with an MTU that is none too small.
func bounded(proto tcpip.NetworkProtocolNumber, err stack.TransportError) stack.TransportError {
	if err.Kind() != stack.PacketTooBigTransportError {
		return err
	}
	least := netstack.PacketTooBig(transport.MinMTU4 - header.IPv4MinimumSize)
	if proto == header.IPv6ProtocolNumber {
		least = transport.MinMTU6 - header.IPv6MinimumSize
	}
	if err.Info() < uint32(least) {
		return least
	}
	return err
}

// refused returns the counters.
func (c *conntrack) refused() transport.Refused {
	return transport.Refused{Acks: c.acks.Load(), Timestamps: c.timestamps.Load(), Errors: c.errors.Load()}
}
