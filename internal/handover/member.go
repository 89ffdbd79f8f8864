package handover

import (
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// Segments that arrive on the queue of another shard than their flow's are handed
// to it: when the device changed its RSS, when nobody knows its key, after
// reassembly. So are ICMP errors.
//
// A shard claims a flow from the moment that its SYN or SYN-ACK leaves, for
// nothing can arrive for it before. A segment that the fast path does not know is
// looked up in one's own claims, then in those of the other shards, all without a
// lock; what nobody claims is one's own. So the data path pays nothing, a new flow
// pays one look at each other shard, and no segment goes round in circles.

const (
	// slots is the number of frames that may wait between two shards, and maxSlot
	// the greatest frame that room is kept for.
	slots   = 512
	maxSlot = 9216
	// openings is how many handshakes a shard remembers that it began: 256 KB.
	openings = 1 << 15
)

// A Shard is what a Member has to know of its shard.
type Shard struct {
	MAC link.MAC
	// Owns tells whether a flow is in the shard's table.
	Owns func(*flow.Key) bool
	// Wake ends the poller's sleep. It must not block.
	Wake func()
}

// A Member is what a shard knows about the other shards of its device.
type Member struct {
	index  int
	shard  Shard
	others []*Member
	spread *atomic.Pointer[rss.Spread] // nil inside while unknown

	// opening are flows whose SYN or SYN-ACK left, closing those that the program
	// has closed and TCP has not. Those in between are in the shard's table.
	opening *flow.Recent
	closing flow.Table[transport.Endpoint]

	// mu makes those who push take turns: the ring has room for one.
	mu      sync.Mutex
	port    *Port
	scratch []byte
	// pushed says that frames wait for the end of the poll. The poller owns it.
	pushed bool

	errors atomic.Uint64 // ICMP errors handed over
}

// Join makes the shards of one device, at least two, hand each other what arrives
// on the wrong queue. maxFrame is the device's, in bytes.
func Join(shards []Shard, maxFrame int) ([]*Member, error) {
	mesh, err := New(len(shards), slots, min(maxFrame, maxSlot), func(owner int) { shards[owner].Wake() })
	if err != nil {
		return nil, err
	}
	spread := new(atomic.Pointer[rss.Spread])
	members := make([]*Member, len(shards))
	for i, s := range shards {
		members[i] = &Member{index: i, shard: s, spread: spread, opening: flow.NewRecent(openings), port: mesh.Port(i)}
	}
	for i, m := range members {
		m.others = slices.Concat(members[:i:i], members[i+1:])
	}
	return members, nil
}

// SetSpread tells all shards that were joined with this one how the device
// spreads flows over its queues; nil says that nobody knows.
func (m *Member) SetSpread(spread *rss.Spread) { m.spread.Store(spread) }

// Spread is what SetSpread said.
func (m *Member) Spread() *rss.Spread { return m.spread.Load() }

// Shards is the number of shards.
func (m *Member) Shards() int { return len(m.others) + 1 }

// claims tells whether a flow is this shard's.
func (m *Member) claims(k *flow.Key) bool {
	if m.shard.Owns(k) || m.opening.Has(k) {
		return true
	}
	_, ok := m.closing.Lookup(k)
	return ok
}

// Owner returns the number of the shard that claims a flow, false when this one
// does or none.
func (m *Member) Owner(k *flow.Key) (index int, ok bool) {
	if m.claims(k) {
		return 0, false
	}
	for _, o := range m.others {
		if o.claims(k) {
			return o.index, true
		}
	}
	return 0, false
}

// Taken tells whether another shard has a flow, though it may not have had it
// recently: from before the device changed its RSS.
func (m *Member) Taken(k *flow.Key) bool {
	for _, o := range m.others {
		if o.shard.Owns(k) {
			return true
		}
		if _, ok := o.closing.Lookup(k); ok {
			return true
		}
	}
	return false
}

// HandOver gives a segment that arrived on the queue to the shard that owns its
// flow, at the end of the poll. It returns false when that is nobody else. Only
// the poller calls it.
func (m *Member) HandOver(f *link.Frame, k *flow.Key) bool {
	owner, ok := m.Owner(k)
	if ok {
		m.push(owner, f)
	}
	return ok
}

// push pushes a frame until the end of the poll. What does not fit is counted.
func (m *Member) push(owner int, f *link.Frame) {
	m.mu.Lock()
	m.port.Push(owner, *f)
	m.mu.Unlock()
	m.pushed = true
}

// Gather gives a fragment to the shard that puts it together with the rest. It
// returns false when that is this one, and for what is no fragment. Only the
// poller calls it.
func (m *Member) Gather(f *link.Frame) bool {
	packet, ok := offload.Parse(f.Data)
	if !ok || !packet.Fragment || link.MAC(f.Data) != m.shard.MAC {
		return false
	}
	addrs := packet.Addrs(f.Data)
	// Where the device puts it, if that is known: most then need not move.
	var home int
	if spread := m.spread.Load(); spread != nil {
		home = spread.Queue(spread.Hash(addrs, nil))
	} else {
		for _, b := range addrs {
			home = home*31 + int(b)
		}
	}
	if home %= m.Shards(); home == m.index {
		return false
	}
	m.push(home, f)
	return true
}

// Flush shows the other shards what this poll has for them. Only the poller calls
// it.
func (m *Member) Flush() {
	if !m.pushed {
		return
	}
	m.pushed = false
	m.mu.Lock()
	m.port.Flush()
	m.mu.Unlock()
}

// Receive fills frames with what other shards handed over: see Port.Receive. Only
// the poller calls it.
func (m *Member) Receive(frames []link.Frame) int { return m.port.Receive(frames) }

// Waiting tells whether there may be frames for Receive: see Port.Waiting.
func (m *Member) Waiting() bool { return m.port.Waiting() }

// Opened says that the shard's table has the flow from now on.
func (m *Member) Opened(k *flow.Key) { m.opening.Forget(k) }

// Closing says that the shard's table is about to lose a flow whose endpoint TCP
// is not done with.
func (m *Member) Closing(k flow.Key, ep transport.Endpoint) { m.closing.Insert(k, ep) }

// Tidy forgets flows that have ended since the program closed them. Somebody has
// to call it now and then.
func (m *Member) Tidy() {
	for k, ep := range m.closing.All() {
		// A late FIN of a flow in TIME-WAIT may be answered by any shard.
		if s := ep.State(); s == transport.StateTimeWait || s.Over() {
			m.closing.Delete(k)
		}
	}
}

// Sent sees each TCP segment that the stack sends, before it leaves.
func (m *Member) Sent(r *stack.Route, pkt *stack.PacketBuffer) {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags()&header.TCPFlagSyn == 0 {
		return
	}
	if k, ok := netstack.KeyOf(r.RemoteAddress(), h.DestinationPort(), r.LocalAddress(), h.SourcePort()); ok {
		m.Departing(&k)
	}
}

// Departing says that a SYN or SYN-ACK of a flow is about to leave.
func (m *Member) Departing(k *flow.Key) {
	m.opening.Add(k)
	// The same addresses and ports may have had a connection on another shard
	// before. Whatever that still claims is over.
	for _, o := range m.others {
		o.opening.Forget(k)
		if _, ok := o.closing.Lookup(k); ok {
			o.closing.Delete(*k)
		}
	}
}

// PassError tells which shard an ICMP error is to be told to, by the flow that it
// is about: false for this one.
func (m *Member) PassError(k *flow.Key) (index int, ok bool) {
	if index, ok = m.Owner(k); ok {
		m.errors.Add(1)
	}
	return index, ok
}

// PassOn hands a segment that the IP layer has looked at to the shard that owns
// its flow, and returns false when that is nobody else. It arrives there as a
// plain segment, without IP options or extension headers.
func (m *Member) PassOn(pkt *stack.PacketBuffer) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize {
		return false
	}
	ip := pkt.Network()
	k, ok := netstack.KeyOf(ip.SourceAddress(), tcp.SourcePort(), ip.DestinationAddress(), tcp.DestinationPort())
	if !ok {
		return false
	}
	owner, ok := m.Owner(&k)
	if !ok {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := append(m.scratch[:0], m.shard.MAC[:]...)
	b = append(b, m.shard.MAC[:]...)
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
	m.scratch = b
	m.port.Push(owner, link.Frame{Data: b})
	// Not only the poller comes here, and nobody else flushes.
	m.port.Flush()
	return true
}

// MemberStats count what arrived on the queue of one shard and belonged to
// another.
type MemberStats struct {
	// Sent counts segments and fragments that arrived here and were handed over,
	// Dropped those that found the ring to their owner full: TCP sends them again.
	Sent, Dropped uint64
	// Received counts those that other shards handed to this one.
	Received uint64
	// Errors counts ICMP errors that arrived here and were about a flow of another
	// shard, which was told.
	Errors uint64
}

// Stats returns the counters. Anyone may call it.
func (m *Member) Stats() MemberStats {
	st := m.port.Stats()
	return MemberStats{Sent: st.Sent, Dropped: st.Full, Received: st.Received, Errors: m.errors.Load()}
}
