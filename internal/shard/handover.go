package shard

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/link"
)

// Segments that arrive on the queue of another shard than their flow's are handed
// to it: when the device changed its RSS, when nobody knows its key, after
// reassembly. So are ICMP errors.
//
// A shard claims a flow from the moment that its SYN or SYN-ACK leaves, for
// nothing can arrive for it before. A segment that the short way does not know is
// looked up in one's own claims, then in those of the other shards, all without a
// lock; what nobody claims is one's own. So the data path pays nothing, a new flow
// pays one look at each other shard, and no segment goes round in circles.

const (
	// handoverSlots is the number of frames that may wait between two shards, and
	// maxHandoverSlot the greatest frame that room is kept for.
	handoverSlots   = 512
	maxHandoverSlot = 9216
	// openings is how many handshakes a shard remembers that it began: 256 KB.
	openings = 1 << 15
)

// peers is what a shard knows about the other shards of its device.
type peers struct {
	others []*Shard
	count  int
	spread *atomic.Pointer[rss.Spread] // nil inside while unknown

	// opening are flows whose SYN or SYN-ACK left, closing those that the program
	// has closed and TCP has not. Those in between are in Shard.flows.
	opening *flow.Recent
	closing flow.Table[*established]

	// mu makes those who push take turns: the ring has room for one.
	mu      sync.Mutex
	port    *handover.Port
	scratch []byte
	// pushed says that frames wait for the end of the poll. The poller owns it.
	pushed bool

	// parked is set while the poller sleeps. wakeup ends the sleep of one whose
	// queue cannot.
	parked atomic.Bool
	wakeup chan struct{}

	errors atomic.Uint64 // ICMP errors handed over
}

// Join makes the shards of one device hand each other what arrives on the wrong
// queue. It must be called before Start. A shard that is alone needs no Join.
func Join(shards []*Shard) error {
	if len(shards) < 2 {
		return nil
	}
	mesh, err := handover.New(len(shards), handoverSlots, min(shards[0].maxFrame, maxHandoverSlot), func(owner int) { shards[owner].wake() })
	if err != nil {
		return fmt.Errorf("shard: %w", err)
	}
	spread := new(atomic.Pointer[rss.Spread])
	for i, s := range shards {
		p := &peers{
			count: len(shards), spread: spread, opening: flow.NewRecent(openings),
			port: mesh.Port(i), wakeup: make(chan struct{}, 1),
		}
		for _, o := range shards {
			if o != s {
				p.others = append(p.others, o)
			}
		}
		s.peers = p
	}
	return nil
}

// SetSpread tells all shards that were joined with this one how the device
// spreads flows over its queues; nil says that nobody knows.
func (s *Shard) SetSpread(spread *rss.Spread) {
	if s.peers != nil {
		s.peers.spread.Store(spread)
	}
}

// wake ends the poller's sleep.
func (s *Shard) wake() {
	if !s.peers.parked.Load() {
		return
	}
	if w, ok := s.queue.(link.Waiter); ok {
		w.Wake()
		return
	}
	select {
	case s.peers.wakeup <- struct{}{}:
	default:
	}
}

// claims tells whether a flow is this shard's.
func (s *Shard) claims(k *flow.Key) bool {
	if _, ok := s.flows.Lookup(k); ok {
		return true
	}
	if s.peers.opening.Has(k) {
		return true
	}
	_, ok := s.peers.closing.Lookup(k)
	return ok
}

// ownerOf returns the shard that claims a flow, nil when this one does or none.
func (s *Shard) ownerOf(k *flow.Key) *Shard {
	if s.claims(k) {
		return nil
	}
	for _, o := range s.peers.others {
		if o.claims(k) {
			return o
		}
	}
	return nil
}

// handOver gives a segment that arrived on the queue to the shard that owns its
// flow, at the end of the poll. It returns false when that is nobody else. Only
// the poller calls it.
func (s *Shard) handOver(f *link.Frame, k *flow.Key) bool {
	p := s.peers
	if p == nil {
		return false
	}
	owner := s.ownerOf(k)
	if owner == nil {
		return false
	}
	p.mu.Lock()
	p.port.Push(owner.index, *f) // what does not fit is counted
	p.mu.Unlock()
	p.pushed = true
	return true
}

// gather gives a fragment to the shard that puts it together with the rest. It
// returns false when that is this one, and for what is no fragment. Only the
// poller calls it.
func (s *Shard) gather(f *link.Frame) bool {
	p := s.peers
	if p == nil {
		return false
	}
	packet, ok := offload.Parse(f.Data)
	if !ok || !packet.Fragment || link.MAC(f.Data) != s.mac {
		return false
	}
	addrs := packet.Addrs(f.Data)
	// Where the device puts it, if that is known: most then need not move.
	var home int
	if spread := p.spread.Load(); spread != nil {
		home = spread.Queue(spread.Hash(addrs, nil))
	} else {
		for _, b := range addrs {
			home = home*31 + int(b)
		}
	}
	if home %= p.count; home == s.index {
		return false
	}
	p.mu.Lock()
	p.port.Push(home, *f)
	p.mu.Unlock()
	p.pushed = true
	return true
}

// flushPeers shows the other shards what this poll has for them.
func (s *Shard) flushPeers() {
	p := s.peers
	if p == nil || !p.pushed {
		return
	}
	p.pushed = false
	p.mu.Lock()
	p.port.Flush()
	p.mu.Unlock()
}

// fromPeers fills frames with what other shards handed over.
func (s *Shard) fromPeers(frames []link.Frame) int {
	if s.peers == nil {
		return 0
	}
	return s.peers.port.Receive(frames)
}

// Tidy forgets flows that have ended since the program closed them. Somebody has
// to call it now and then.
func (s *Shard) Tidy() {
	if s.conntrack != nil {
		s.conntrack.tidy()
	}
	if s.peers == nil {
		return
	}
	for k, f := range s.peers.closing.All() {
		e, ok := f.endpoint.(interface{ EndpointState() tcp.EndpointState })
		if !ok {
			s.peers.closing.Delete(k)
			continue
		}
		switch e.EndpointState() {
		case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
			// A late FIN of a flow in TIME-WAIT may be answered by any shard.
			s.peers.closing.Delete(k)
		}
	}
}

// departing sees each TCP segment that the stack sends, before it leaves.
func (s *Shard) departing(r *stack.Route, pkt *stack.PacketBuffer) {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags()&header.TCPFlagSyn == 0 {
		return
	}
	k, ok := keyOf(r.RemoteAddress(), h.DestinationPort(), r.LocalAddress(), h.SourcePort())
	if !ok {
		return
	}
	s.peers.opening.Add(&k)
	// The same addresses and ports may have had a connection on another shard
	// before. Whatever that still claims is over.
	for _, o := range s.peers.others {
		o.peers.opening.Forget(&k)
		if _, ok := o.peers.closing.Lookup(&k); ok {
			o.peers.closing.Delete(k)
		}
	}
}

// networkOf is the network protocol of an address on the wire.
func networkOf(a tcpip.Address) tcpip.NetworkProtocolNumber {
	if a.Len() == header.IPv6AddressSize {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// keyOf is the key of segments from remote to local.
func keyOf(remote tcpip.Address, remotePort uint16, local tcpip.Address, localPort uint16) (k flow.Key, ok bool) {
	if remote.Len() != local.Len() {
		return k, false
	}
	var addrs [2 * header.IPv6AddressSize]byte
	n := copy(addrs[:], remote.AsSlice())
	n += copy(addrs[n:], local.AsSlice())
	ports := [4]byte{byte(remotePort >> 8), byte(remotePort), byte(localPort >> 8), byte(localPort)}
	switch n {
	case 2 * header.IPv4AddressSize:
		return flow.Key4(addrs[:n], ports[:]), true
	case 2 * header.IPv6AddressSize:
		return flow.Key6(addrs[:n], ports[:]), true
	}
	return k, false
}

// dispatcher stands between the stack's IP layers and TCP.
type dispatcher struct {
	stack.TransportDispatcher
	shard *Shard
}

// DeliverTransportPacket implements stack.TransportDispatcher: segments that took
// the long way through IP, with options, or put together from fragments.
func (d *dispatcher) DeliverTransportPacket(proto tcpip.TransportProtocolNumber, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	if proto != header.TCPProtocolNumber {
		return d.TransportDispatcher.DeliverTransportPacket(proto, pkt)
	}
	if d.shard.peers != nil && d.shard.passOn(pkt) {
		return stack.TransportPacketHandled
	}
	if d.shard.conntrack != nil {
		return d.shard.conntrack.deliver(d.TransportDispatcher, pkt)
	}
	return d.TransportDispatcher.DeliverTransportPacket(proto, pkt)
}

// DeliverTransportError implements stack.TransportDispatcher: an ICMP error goes
// to the shard whose flow it is about.
func (d *dispatcher) DeliverTransportError(local, remote tcpip.Address, net tcpip.NetworkProtocolNumber, proto tcpip.TransportProtocolNumber, err stack.TransportError, pkt *stack.PacketBuffer) {
	to, owner := d.TransportDispatcher, d.shard
	if proto == header.TCPProtocolNumber && (owner.peers != nil || owner.conntrack != nil) {
		quoted, ok := pkt.Data().PullUp(quotedBytes)
		if !ok {
			return // nobody can tell what it is about
		}
		h := header.TCP(quoted)
		k, ok := keyOf(remote, h.DestinationPort(), local, h.SourcePort())
		if ok && owner.peers != nil {
			if other := owner.ownerOf(&k); other != nil {
				owner.peers.errors.Add(1)
				// The stack may be called from anywhere.
				to, owner = other.transport, other
			}
		}
		if ok && owner.conntrack != nil {
			if !owner.conntrack.believable(&k, h) {
				return
			}
			err = bounded(net, err)
		}
	}
	to.DeliverTransportError(local, remote, net, proto, err, pkt)
}

// passOn hands a segment that the IP layer has looked at to the shard that owns
// its flow, and returns false when that is nobody else. It arrives there as a
// plain segment, without IP options or extension headers.
func (s *Shard) passOn(pkt *stack.PacketBuffer) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize {
		return false
	}
	ip := pkt.Network()
	k, ok := keyOf(ip.SourceAddress(), tcp.SourcePort(), ip.DestinationAddress(), tcp.DestinationPort())
	if !ok {
		return false
	}
	owner := s.ownerOf(&k)
	if owner == nil {
		return false
	}
	p := s.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	b := append(p.scratch[:0], s.mac[:]...)
	b = append(b, s.mac[:]...)
	tos, _ := ip.TOS()
	length := len(tcp) + pkt.Data().Size()
	switch pkt.NetworkProtocolNumber {
	case header.IPv4ProtocolNumber:
		b = append(b, 0x08, 0x00)
		at := len(b)
		b = append(b, make([]byte, header.IPv4MinimumSize)...)
		h := header.IPv4(b[at:])
		h.Encode(&header.IPv4Fields{
			TOS: tos, TotalLength: uint16(header.IPv4MinimumSize + length), TTL: header.IPv4(pkt.NetworkHeader().Slice()).TTL(),
			Protocol: uint8(header.TCPProtocolNumber), SrcAddr: ip.SourceAddress(), DstAddr: ip.DestinationAddress(),
		})
		h.SetChecksum(^h.CalculateChecksum())
	default:
		b = append(b, 0x86, 0xdd)
		at := len(b)
		b = append(b, make([]byte, header.IPv6MinimumSize)...)
		header.IPv6(b[at:]).Encode(&header.IPv6Fields{
			TrafficClass: tos, PayloadLength: uint16(length), TransportProtocol: header.TCPProtocolNumber,
			HopLimit: header.IPv6(pkt.NetworkHeader().Slice()).HopLimit(), SrcAddr: ip.SourceAddress(), DstAddr: ip.DestinationAddress(),
		})
	}
	b = append(b, tcp...)
	b = slices.Grow(b, pkt.Data().Size())
	data := tcpip.SliceWriter(b[len(b) : len(b)+pkt.Data().Size()])
	n, _ := pkt.Data().ReadTo(&data, true /* peek */)
	b = b[:len(b)+n]
	p.scratch = b
	p.port.Push(owner.index, link.Frame{Data: b})
	// Not only the poller comes here, and nobody else flushes.
	p.port.Flush()
	return true
}

// HandoverStats count what arrived on the queue of one shard and belonged to
// another.
type HandoverStats struct {
	// Sent counts segments and fragments that arrived here and were handed over,
	// Dropped those that found the ring to their owner full: TCP sends them again.
	Sent, Dropped uint64
	// Received counts those that other shards handed to this one.
	Received uint64
	// Errors counts ICMP errors that arrived here and were about a flow of another
	// shard, which was told.
	Errors uint64
}

func (s *Shard) handoverStats() HandoverStats {
	if s.peers == nil {
		return HandoverStats{}
	}
	st := s.peers.port.Stats()
	return HandoverStats{Sent: st.Sent, Dropped: st.Full, Received: st.Received, Errors: s.peers.errors.Load()}
}
