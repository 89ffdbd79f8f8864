package tcp

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"

	gbuffer "gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
)

// Output is the fast path out of a shard: netif.Endpoint.
type Output interface {
	// WakePoller ends the poller's sleep, so that it calls Retry.
	WakePoller()
	// SendTCP is netif.Endpoint's, which counts the segments.
	SendTCP(p *netif.TCPPath, tcp []byte, payload netif.TCPPayload, at uint64, n, mss int) (int, netif.TCPSent)
	// DoubtTCP is netif.Endpoint's.
	DoubtTCP(p *netif.TCPPath)
	// Route and Source are netif.Endpoint's.
	Route(local, remote, routed tcpip.Address) netif.Route
	Source(remote tcpip.Address) tcpip.Address
}

// settings are the options of the protocol.
type settings struct {
	sack, moderate       bool
	send                 tcpip.TCPSendBufferSizeRangeOption
	receive              tcpip.TCPReceiveBufferSizeRangeOption
	congestion           string
	timeWait, linger     time.Duration
	minRTO, maxRTO       time.Duration
	retries              uint32
	synRetries           uint8
	alwaysCookies, delay bool
}

// Protocol is the stack.TransportProtocol of one shard.
type Protocol struct {
	stack *stack.Stack
	clock tcpip.Clock
	// cached is clock, if it is a shard's: its nanoseconds cost less.
	cached *clock.Clock
	out    Output
	stats  tcpip.TCPStats // the stack's counters: the pointers to them
	// secret keys initial sequence numbers and timestamps.
	secret  [32]byte
	cookies *syncookie.Cookies
	// routes counts changes of addresses and routes: who finds it changed looks for
	// its route anew.
	routes atomic.Uint64

	// record opens the trace of a connection, nil where there is no room; it is nil
	// where nothing is recorded.
	record recorder.Opener

	account *limits.Account // keeps the limits; nil in tests

	// flows has all connections, in whatever state: see connections.go.
	flows        flow.Table[*Endpoint]
	wheel        wheel
	waits        timeWaits // those whose endpoints are gone
	destinations destinations
	ring         ring
	// departing, if any, is told of each flow whose SYN is about to leave.
	departing func(flow.Key)

	refused struct{ acks, timestamps, errors atomic.Uint64 }

	// passages are the ports that were handed over, nil for none. mu is held while they
	// change.
	passages atomic.Pointer[[]passage]

	mu  sync.RWMutex
	set settings

	// draining makes those who drain take turns.
	draining sync.Mutex
	// polled says that the poller will drain soon.
	polled atomic.Bool
	wake   chan struct{}
	closed chan struct{}
	done   chan struct{}
	close  sync.Once

	// stalled are connections that wait for room in the device, from stalledHead
	// on. stalledMu guards both; anyStalled tells without it that there are some.
	stalledMu   sync.Mutex
	stalled     []*Endpoint
	stalledHead int
	anyStalled  atomic.Bool

	// queueMu guards the following fields.
	queueMu       sync.Mutex
	queued, spare []arrival
	ended         bool
	pending       atomic.Int32 // len(queued)
}

// An arrival is a segment that came through gVisor, in pkt, or past it.
type arrival struct {
	ep     *Endpoint // nil for a connection of which there is a record only
	id     stack.TransportEndpointID
	pkt    *stack.PacketBuffer
	proto  tcpip.NetworkProtocolNumber
	header header.TCP // read makes it out of pkt
	// beyond is where the numbers of a connection in TIME-WAIT end, of whose
	// addresses this is a new SYN. 0: there is none.
	beyond uint32
}

var _ stack.TransportProtocol = (*Protocol)(nil)

// New returns the factory of a protocol that sends through out.
func New(out Output) stack.TransportProtocolFactory {
	return func(s *stack.Stack) stack.TransportProtocol {
		p := &Protocol{
			stack: s, clock: s.Clock(), out: out, stats: s.Stats().TCP,
			wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
			set: settings{
				sack: true, moderate: true, congestion: "reno",
				send:     tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20},
				receive:  tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 6 << 20},
				timeWait: time.Minute, linger: time.Minute,
				minRTO: 200 * time.Millisecond, maxRTO: 120 * time.Second,
				retries: 15, synRetries: 6,
			},
		}
		p.cached, _ = p.clock.(*clock.Clock)
		p.wheel.clock, p.wheel.now = p.clock, p.now
		if _, err := io.ReadFull(s.SecureRNG().Reader, p.secret[:]); err != nil {
			panic("tcp: the source of random numbers failed: " + err.Error())
		}
		key := sha256.Sum256(append(p.secret[:], 'c'))
		p.cookies = &syncookie.Cookies{Key: syncookie.Key{binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])}, Now: p.now}
		go p.work()
		return p
	}
}

func (p *Protocol) options() settings {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.set
}

// now is the time in nanoseconds since some fixed moment.
func (p *Protocol) now() int64 {
	if p.cached != nil {
		return p.cached.Nanos()
	}
	return int64(p.clock.NowMonotonic().Sub(tcpip.MonotonicTime{}))
}

// Refused returns the counters.
func (p *Protocol) Refused() transport.Refused {
	r := &p.refused
	return transport.Refused{Acks: r.acks.Load(), Timestamps: r.timestamps.Load(), Errors: r.errors.Load()}
}

// RoutesChanged says that addresses or routes of the stack have changed.
func (p *Protocol) RoutesChanged() {
	p.routes.Add(1)
	p.destinations.drop()
}

// hash is a keyed hash of a flow, for purpose.
func (p *Protocol) hash(purpose byte, id *stack.TransportEndpointID, extra uint32) uint64 {
	var b [32 + 1 + 32 + 8]byte
	n := copy(b[:], p.secret[:])
	b[n] = purpose
	n++
	n += copy(b[n:], id.LocalAddress.AsSlice())
	n += copy(b[n:], id.RemoteAddress.AsSlice())
	binary.BigEndian.PutUint16(b[n:], id.LocalPort)
	binary.BigEndian.PutUint16(b[n+2:], id.RemotePort)
	binary.BigEndian.PutUint32(b[n+4:], extra)
	sum := sha256.Sum256(b[:n+8])
	return binary.BigEndian.Uint64(sum[:])
}

// initialSequence is RFC 6528's: a clock of 4 µs ticks and a keyed hash.
func (p *Protocol) initialSequence(id *stack.TransportEndpointID) uint32 {
	return uint32(p.hash('i', id, 0)) + uint32(p.now()/4000)
}

// sequenceBeyond is an initial sequence number beyond those of a connection before
// with the same addresses, which end at last (RFC 9293 section 3.6.1): it may have
// used them up faster than the clock ticks.
func (p *Protocol) sequenceBeyond(id *stack.TransportEndpointID, last uint32) uint32 {
	if iss := p.initialSequence(id); after(iss, last) {
		return iss
	}
	return last + 1
}

// QueuePacket is how gVisor's demultiplexer hands over a segment. It holds locks
// meanwhile that what the segment causes may need: Drain does the work.
func (p *Protocol) QueuePacket(ep stack.TransportEndpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	e, ok := ep.(*Endpoint)
	if !ok {
		return // a raw endpoint
	}
	p.queueMu.Lock()
	if p.ended {
		p.queueMu.Unlock()
		return
	}
	pkt.IncRef()
	p.queued = append(p.queued, arrival{ep: e, id: id, pkt: pkt, proto: pkt.NetworkProtocolNumber})
	p.pending.Store(int32(len(p.queued)))
	p.queueMu.Unlock()
	if !p.polled.Load() {
		p.signal()
	}
}

func (p *Protocol) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Polled announces whether the caller, the poller, is about to call Drain.
func (p *Protocol) Polled(soon bool) { p.polled.Store(soon) }

// Drain handles the segments that QueuePacket queued.
func (p *Protocol) Drain() {
	if p.pending.Load() == 0 {
		return
	}
	p.draining.Lock()
	defer p.draining.Unlock()
	for {
		p.queueMu.Lock()
		batch := p.queued
		p.queued = p.spare[:0]
		p.pending.Store(0)
		p.queueMu.Unlock()
		if len(batch) == 0 {
			p.spare = batch
			return
		}
		for i := range batch {
			a := &batch[i]
			p.arrived(a)
			a.pkt.DecRef()
			*a = arrival{}
		}
		p.queueMu.Lock()
		p.spare = batch
		p.queueMu.Unlock()
	}
}

// stallLocked has a connection try again after the next poll. e.mu is held.
func (p *Protocol) stallLocked(e *Endpoint) {
	if e.stalled {
		return
	}
	e.stalled = true
	p.stalledMu.Lock()
	p.stalled = append(p.stalled, e)
	p.anyStalled.Store(true)
	p.stalledMu.Unlock()
	p.out.WakePoller()
}

// Stalled tells whether there is something for Retry to do. A poller that sleeps
// must look again soon then.
func (p *Protocol) Stalled() bool { return p.anyStalled.Load() }

// Retry lets connections go on that found the device full, in the order in which
// they did. It ends at the first that finds it full again: what a poll costs does
// not grow with the number of those that wait. The poller calls it when it has
// flushed.
func (p *Protocol) Retry() {
	if !p.anyStalled.Load() {
		return
	}
	for left := p.stalledLen(); left > 0; left-- {
		e := p.nextStalled()
		if e == nil {
			return
		}
		e.mu.Lock()
		e.stalled = false
		if connecting(e.current()) {
			e.sendSyn()
		} else if e.ackOwed.Load() && open(e.current()) {
			e.sendAck()
		}
		e.output()
		e.leaveLocked()
		again := e.stalled
		e.unlock()
		if again {
			return
		}
	}
}

// stalledLen is how many connections wait for room in the device.
func (p *Protocol) stalledLen() int {
	p.stalledMu.Lock()
	defer p.stalledMu.Unlock()
	return len(p.stalled) - p.stalledHead
}

// nextStalled takes the connection that has waited longest, nil when none does.
func (p *Protocol) nextStalled() *Endpoint {
	p.stalledMu.Lock()
	defer p.stalledMu.Unlock()
	if p.stalledHead == len(p.stalled) {
		p.anyStalled.Store(false)
		return nil
	}
	e := p.stalled[p.stalledHead]
	p.stalled[p.stalledHead] = nil
	p.stalledHead++
	switch {
	case p.stalledHead == len(p.stalled):
		p.stalled, p.stalledHead = p.stalled[:0], 0
		p.anyStalled.Store(false)
	case p.stalledHead > len(p.stalled)/2:
		// Half of the list is free: moving the rest costs each connection one step.
		n := copy(p.stalled, p.stalled[p.stalledHead:])
		clear(p.stalled[n:])
		p.stalled, p.stalledHead = p.stalled[:n], 0
	}
	return e
}

// work drains what comes while no poller is about to: segments that this host
// sends to itself.
func (p *Protocol) work() {
	defer close(p.done)
	for {
		select {
		case <-p.wake:
			p.Drain()
		case <-p.closed:
			p.queueMu.Lock()
			p.ended = true
			p.queueMu.Unlock()
			p.Drain()
			return
		}
	}
}

// arrived hands a segment to its endpoint, if it is sound.
func (p *Protocol) arrived(a *arrival) {
	var s segment
	if !p.read(a.pkt, &s) {
		return
	}
	a.header = a.pkt.TransportHeader().Slice()
	if e := p.connection(&a.id); e != nil {
		a.ep = e // gVisor knows listeners only
	} else if k, ok := netstack.Key(&a.id); ok && p.waited(&k, &s, a) {
		return
	}
	if a.ep == nil { // what it was for has ended meanwhile
		p.anew(&s, a)
		return
	}
	a.ep.arrived(&s, a)
}

// read checks and parses the segment in a packet from gVisor.
func (p *Protocol) read(pkt *stack.PacketBuffer, s *segment) bool {
	stats := &p.stats
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || int(h.DataOffset()) != len(h) {
		stats.InvalidSegmentsReceived.Increment()
		return false
	}
	payload := pkt.Data().AsRange().ToSlice()
	if !pkt.RXChecksumValidated {
		net := pkt.Network()
		if !h.IsChecksumValid(net.SourceAddress(), net.DestinationAddress(), checksum.Checksum(payload, 0), uint16(len(payload))) {
			stats.ChecksumErrors.Increment()
			return false
		}
	}
	s.parse(h, payload)
	return true
}

// HandleUnknownDestinationPacket takes segments that no listener is there for. What
// belongs to no connection either is answered with a reset (RFC 9293 section
// 3.10.7.1).
func (p *Protocol) HandleUnknownDestinationPacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) stack.UnknownDestinationPacketDisposition {
	var s segment
	if !p.read(pkt, &s) {
		return stack.UnknownDestinationPacketMalformed
	}
	e := p.connection(&id)
	if k, ok := netstack.Key(&id); e != nil || ok && p.waits.has(&k) {
		p.QueuePacket(e, id, pkt)
		return stack.UnknownDestinationPacketHandled
	}
	if s.flags&rst == 0 && (p.account == nil || p.account.MayReset()) {
		p.refuse(&s, id, pkt.NetworkProtocolNumber)
	}
	return stack.UnknownDestinationPacketHandled
}

// refuse answers a segment with a reset, unless its port is another process's. No lock
// must be held.
func (p *Protocol) refuse(s *segment, id stack.TransportEndpointID, proto tcpip.NetworkProtocolNumber) {
	if p.passage(&id) != nil {
		return
	}
	r, err := p.stack.FindRoute(0, id.LocalAddress, id.RemoteAddress, proto, false)
	if err != nil {
		return
	}
	defer r.Release()
	h := header.TCPFields{SrcPort: id.LocalPort, DstPort: id.RemotePort, DataOffset: header.TCPMinimumSize, Flags: rst}
	if s.flags&ack != 0 {
		h.SeqNum = s.ack
	} else {
		h.Flags |= ack
		h.AckNum = s.seq + s.length()
	}
	var b [header.TCPMinimumSize]byte
	header.TCP(b[:]).Encode(&h)
	p.stats.ResetsSent.Increment()
	p.sendSlow(r, b[:], nil, uint32(p.hash('h', &id, 0)))
}

// sendSlow sends a segment through gVisor's IP layer.
func (p *Protocol) sendSlow(r *stack.Route, tcp, payload []byte, hash uint32) tcpip.Error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()) + len(tcp),
		Payload:            gbuffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	h := header.TCP(pkt.TransportHeader().Push(len(tcp)))
	copy(h, tcp)
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.Hash = hash
	h.SetChecksum(0)
	if r.RequiresTXTransportChecksum() {
		sum := r.PseudoHeaderChecksum(header.TCPProtocolNumber, uint16(len(tcp)+len(payload)))
		if len(payload) > 0 {
			sum = checksum.Combine(sum, pkt.Data().Checksum())
		}
		h.SetChecksum(^h.CalculateChecksum(sum))
	}
	stats := &p.stats
	err := r.WritePacket(stack.NetworkHeaderParams{Protocol: header.TCPProtocolNumber, TTL: r.DefaultTTL(), DF: true}, pkt)
	if err != nil {
		stats.SegmentSendErrors.Increment()
		return err
	}
	stats.SegmentsSent.Increment()
	return nil
}

// SendBufferSize implements stack.SendBufSizeProto.
func (p *Protocol) SendBufferSize() tcpip.TCPSendBufferSizeRangeOption { return p.options().send }

// Number implements stack.TransportProtocol.
func (*Protocol) Number() tcpip.TransportProtocolNumber { return header.TCPProtocolNumber }

// NewEndpoint implements stack.TransportProtocol.
//
// Socket is what makes endpoints: they are none of gVisor's.
func (*Protocol) NewEndpoint(tcpip.NetworkProtocolNumber, *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	return nil, &tcpip.ErrNotSupported{}
}

// Socket makes an endpoint, as transport.Stack does.
func (p *Protocol) Socket(v6, v6Only bool) *Endpoint {
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	e := newEndpoint(p, proto)
	e.v6Only = v6Only
	return e
}

// NewRawEndpoint implements stack.TransportProtocol.
func (p *Protocol) NewRawEndpoint(proto tcpip.NetworkProtocolNumber, queue *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	return raw.NewEndpoint(p.stack, proto, header.TCPProtocolNumber, queue)
}

// MinimumPacketSize implements stack.TransportProtocol.
func (*Protocol) MinimumPacketSize() int { return header.TCPMinimumSize }

// ParsePorts implements stack.TransportProtocol.
func (*Protocol) ParsePorts(b []byte) (src, dst uint16, err tcpip.Error) {
	h := header.TCP(b)
	return h.SourcePort(), h.DestinationPort(), nil
}

// Parse implements stack.TransportProtocol.
func (*Protocol) Parse(pkt *stack.PacketBuffer) bool {
	b, ok := pkt.Data().PullUp(header.TCPMinimumSize)
	if !ok {
		return false
	}
	n := int(header.TCP(b).DataOffset())
	if n < header.TCPMinimumSize || n > pkt.Data().Size() {
		n = header.TCPMinimumSize // read will refuse it
	}
	_, ok = pkt.TransportHeader().Consume(n)
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	return ok
}

// Close implements stack.TransportProtocol.
func (p *Protocol) Close() {
	p.close.Do(func() {
		p.waits.end()
		p.destinations.end()
		close(p.closed)
	})
}

// Wait implements stack.TransportProtocol.
func (p *Protocol) Wait() { <-p.done }

// Pause implements stack.TransportProtocol. Nothing here can be saved.
func (*Protocol) Pause() {}

// Resume implements stack.TransportProtocol.
func (*Protocol) Resume() {}

// Restore implements stack.TransportProtocol.
func (*Protocol) Restore() {}

// SetOption implements stack.TransportProtocol.
func (p *Protocol) SetOption(option tcpip.SettableTransportProtocolOption) tcpip.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.set
	switch v := option.(type) {
	case *tcpip.TCPSACKEnabled:
		s.sack = bool(*v)
	case *tcpip.TCPModerateReceiveBufferOption:
		s.moderate = bool(*v)
	case *tcpip.TCPDelayEnabled:
		s.delay = bool(*v)
	case *tcpip.TCPSendBufferSizeRangeOption:
		if v.Min <= 0 || v.Default < v.Min || v.Default > v.Max {
			return &tcpip.ErrInvalidOptionValue{}
		}
		s.send = *v
	case *tcpip.TCPReceiveBufferSizeRangeOption:
		if v.Min <= 0 || v.Default < v.Min || v.Default > v.Max {
			return &tcpip.ErrInvalidOptionValue{}
		}
		s.receive = *v
	case *tcpip.CongestionControlOption:
		if *v != "reno" && *v != "cubic" {
			return &tcpip.ErrNoSuchFile{}
		}
		s.congestion = string(*v)
	case *tcpip.TCPLingerTimeoutOption:
		s.linger = max(time.Duration(*v), 0)
	case *tcpip.TCPTimeWaitTimeoutOption:
		s.timeWait = max(time.Duration(*v), 0)
	case *tcpip.TCPMinRTOOption:
		s.minRTO = max(time.Duration(*v), time.Millisecond)
	case *tcpip.TCPMaxRTOOption:
		s.maxRTO = max(time.Duration(*v), s.minRTO)
	case *tcpip.TCPMaxRetriesOption:
		s.retries = uint32(*v)
	case *tcpip.TCPSynRetriesOption:
		if *v < 1 {
			return &tcpip.ErrInvalidOptionValue{}
		}
		s.synRetries = uint8(*v)
	case *tcpip.TCPAlwaysUseSynCookies:
		s.alwaysCookies = bool(*v)
	default:
		return &tcpip.ErrUnknownProtocolOption{}
	}
	return nil
}

// Option implements stack.TransportProtocol.
func (p *Protocol) Option(option tcpip.GettableTransportProtocolOption) tcpip.Error {
	s := p.options()
	switch v := option.(type) {
	case *tcpip.TCPSACKEnabled:
		*v = tcpip.TCPSACKEnabled(s.sack)
	case *tcpip.TCPModerateReceiveBufferOption:
		*v = tcpip.TCPModerateReceiveBufferOption(s.moderate)
	case *tcpip.TCPDelayEnabled:
		*v = tcpip.TCPDelayEnabled(s.delay)
	case *tcpip.TCPSendBufferSizeRangeOption:
		*v = s.send
	case *tcpip.TCPReceiveBufferSizeRangeOption:
		*v = s.receive
	case *tcpip.CongestionControlOption:
		*v = tcpip.CongestionControlOption(s.congestion)
	case *tcpip.TCPAvailableCongestionControlOption:
		*v = "reno cubic"
	case *tcpip.TCPLingerTimeoutOption:
		*v = tcpip.TCPLingerTimeoutOption(s.linger)
	case *tcpip.TCPTimeWaitTimeoutOption:
		*v = tcpip.TCPTimeWaitTimeoutOption(s.timeWait)
	case *tcpip.TCPMinRTOOption:
		*v = tcpip.TCPMinRTOOption(s.minRTO)
	case *tcpip.TCPMaxRTOOption:
		*v = tcpip.TCPMaxRTOOption(s.maxRTO)
	case *tcpip.TCPMaxRetriesOption:
		*v = tcpip.TCPMaxRetriesOption(s.retries)
	case *tcpip.TCPSynRetriesOption:
		*v = tcpip.TCPSynRetriesOption(s.synRetries)
	case *tcpip.TCPAlwaysUseSynCookies:
		*v = tcpip.TCPAlwaysUseSynCookies(s.alwaysCookies)
	default:
		return &tcpip.ErrUnknownProtocolOption{}
	}
	return nil
}
