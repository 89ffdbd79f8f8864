package tcp

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/recorder"
)

// What everybody who waits is told when a connection ends.
const ended = waiter.EventHUp | waiter.EventErr | waiter.ReadableEvents | waiter.WritableEvents

// An Endpoint is a listener or one end of a connection.
type Endpoint struct {
	stack.TransportEndpointInfo
	tcpip.DefaultSocketOptionsHandler

	p     *Protocol
	queue *waiter.Queue
	ops   tcpip.SocketOptions
	stats gtcp.Stats

	// state is written under mu and read by anyone.
	state atomic.Uint32

	mu sync.Mutex

	// events are to be announced when mu is free.
	events waiter.EventMask
	// closed: the program is done with the endpoint.
	closed bool
	// failure is why the connection ended; the program is told once.
	failure tcpip.Error
	// soft is what ICMP said, for those who ask (SO_ERROR) and for a time-out.
	soft tcpip.Error

	// What gVisor knows of the endpoint.
	protocols            []tcpip.NetworkProtocolNumber
	flags, boundFlags    ports.Flags
	destination          tcpip.FullAddress
	registered, reserved bool

	route      *stack.Route
	routeEpoch uint64
	path       netif.TCPPath
	trace      *recorder.Trace
	untraced   bool // there was no room for a trace when the handshake began

	listen *listener // of an endpoint that listens
	parent *Endpoint // of one that was not accepted yet

	receiver
	sender
	timers
}

var (
	_ tcpip.Endpoint          = (*Endpoint)(nil)
	_ stack.TransportEndpoint = (*Endpoint)(nil)
)

func newEndpoint(p *Protocol, proto tcpip.NetworkProtocolNumber, queue *waiter.Queue) *Endpoint {
	e := &Endpoint{p: p, queue: queue}
	e.NetProto, e.TransProto = proto, header.TCPProtocolNumber
	e.setState(gtcp.StateInitial)
	e.ops.InitHandler(e, p.stack, gtcp.GetTCPSendBufferLimits, gtcp.GetTCPReceiveBufferLimits)
	e.ops.SetQuickAck(true)
	set := p.options()
	e.ops.SetSendBufferSize(int64(set.send.Default), false)
	e.ops.SetReceiveBufferSize(int64(set.receive.Default), false)
	if set.delay {
		e.ops.SetDelayOption(true)
	}
	e.timers.init(&set)
	e.minRTO, e.maxRTO = set.minRTO, set.maxRTO
	e.congestion = set.congestion
	e.sackOK = set.sack
	e.moderate, e.tuned = set.moderate, set.moderate
	e.receiveMax = set.receive.Max
	return e
}

// State implements tcpip.Endpoint.
func (e *Endpoint) State() uint32 { return e.state.Load() }

// Ended tells whether nothing is left of the connection, whatever the program
// still has of it: its segments are strangers'.
func (e *Endpoint) Ended() bool {
	s := e.current()
	return s == gtcp.StateClose || s == gtcp.StateError
}

// EndpointState is State in gVisor's words.
func (e *Endpoint) EndpointState() gtcp.EndpointState { return e.current() }

func (e *Endpoint) current() gtcp.EndpointState { return gtcp.EndpointState(e.state.Load()) }

func (e *Endpoint) setState(s gtcp.EndpointState) {
	old := e.current()
	e.state.Store(uint32(s))
	if e.p == nil || old == s {
		return
	}
	if e.trace != nil {
		e.trace.NoticeState()
	}
	stats := e.p.stack.Stats().TCP
	if s == gtcp.StateEstablished {
		stats.CurrentEstablished.Increment()
	}
	if !open(old) && open(s) {
		stats.CurrentConnected.Increment()
	}
	if open(old) && !open(s) {
		stats.CurrentConnected.Decrement()
	}
	if old == gtcp.StateEstablished {
		stats.CurrentEstablished.Decrement()
	}
}

// open tells whether the connection stands, at least in one direction.
func open(s gtcp.EndpointState) bool {
	switch s {
	case gtcp.StateEstablished, gtcp.StateFinWait1, gtcp.StateFinWait2, gtcp.StateTimeWait,
		gtcp.StateCloseWait, gtcp.StateLastAck, gtcp.StateClosing:
		return true
	}
	return false
}

func connecting(s gtcp.EndpointState) bool {
	return s == gtcp.StateSynSent || s == gtcp.StateSynRecv || s == gtcp.StateConnecting
}

// unlock lets go of mu and announces what has happened meanwhile.
func (e *Endpoint) unlock() {
	events := e.events
	e.events = 0
	e.mu.Unlock()
	if events != 0 {
		e.queue.Notify(events)
	}
}

// Held returns how many bytes the connection keeps in memory: received ones that
// were not read, with the overhead of those out of order, and written ones that
// were not acknowledged.
func (e *Endpoint) Held() (received, sent int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.in.len() + e.earlyBytes, e.out.len()
}

// SetOwner implements tcpip.Endpoint. Nobody looks.
func (*Endpoint) SetOwner(tcpip.PacketOwner) {}

// Trace returns what records the connection, nil when there is no room. It asks
// again where a handshake found none.
func (e *Endpoint) Trace() *recorder.Trace {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.untraced {
		e.untraced = false
		e.record(false)
	}
	return e.trace
}

// record begins to record a connection whose addresses are known. mu is held, or
// nobody else knows the endpoint.
func (e *Endpoint) record(halfOpen bool) {
	if open := e.p.record; open != nil {
		e.trace = open(e.ID, &recorder.Endpoint{State: e.State, Timeouts: &e.stats.SendErrors.Timeouts, HalfOpen: halfOpen})
		e.untraced = halfOpen && e.trace == nil
	}
}

// recordEnd says that nobody will use the connection any more. mu is held.
func (e *Endpoint) recordEnd() {
	if e.trace != nil {
		e.trace.Close()
	}
}

// takeFailure returns why the connection ended, the first time.
func (e *Endpoint) takeFailure() tcpip.Error {
	err := e.failure
	e.failure = nil
	return err
}

// LastError implements tcpip.Endpoint.
func (e *Endpoint) LastError() tcpip.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.takeFailure(); err != nil {
		e.soft = nil
		return err
	}
	err := e.soft
	e.soft = nil
	return err
}

// Lend reads without a copy: it takes received bytes out of the connection, in
// the memory where they are. The caller reads them, with no lock of ours held,
// and returns them. nil without an error means that Read has to copy them: there
// are few.
func (e *Endpoint) Lend() (interface {
	Bytes() []byte
	Return()
}, tcpip.Error) {
	e.mu.Lock()
	defer e.unlock()
	if err := e.readable(); err != nil {
		return nil, err
	}
	c := e.in.lend()
	if c == nil {
		return nil, nil
	}
	e.consumed(len(c.Bytes()))
	return c, nil
}

// Read implements tcpip.Endpoint.
func (e *Endpoint) Read(w io.Writer, o tcpip.ReadOptions) (tcpip.ReadResult, tcpip.Error) {
	e.mu.Lock()
	defer e.unlock()
	if err := e.readable(); err != nil {
		return tcpip.ReadResult{}, err
	}
	n, err := e.in.writeTo(w, o.Peek)
	if n == 0 && err != nil {
		return tcpip.ReadResult{}, &tcpip.ErrBadBuffer{}
	}
	if !o.Peek {
		e.consumed(n)
	}
	return tcpip.ReadResult{Count: n, Total: n}, nil
}

// readable tells why there is nothing to read, nil when there is. mu is held.
func (e *Endpoint) readable() tcpip.Error {
	if e.in.len() > 0 && !e.closed {
		return nil
	}
	switch s := e.current(); {
	case connecting(s):
		return &tcpip.ErrWouldBlock{}
	case s == gtcp.StateError:
		if err := e.takeFailure(); err != nil {
			return err
		}
		return &tcpip.ErrClosedForReceive{}
	case s == gtcp.StateClose:
		return &tcpip.ErrClosedForReceive{}
	case !open(s):
		return &tcpip.ErrNotConnected{}
	case e.finReceived || e.readShut:
		return &tcpip.ErrClosedForReceive{}
	}
	return &tcpip.ErrWouldBlock{}
}

// Write implements tcpip.Endpoint. Unless it is atomic, the payload is read
// without the lock, so that reading may block or lock other endpoints.
func (e *Endpoint) Write(src tcpip.Payloader, o tcpip.WriteOptions) (int64, tcpip.Error) {
	e.mu.Lock()
	defer e.unlock()
	room, err := e.writable()
	if err != nil {
		return 0, err
	}
	want := src.Len()
	n := min(want, room)
	if n == 0 {
		return 0, nil
	}
	if o.Atomic {
		for left := n; left > 0; {
			b := e.out.room(left)
			k, err := src.Read(b)
			e.out.grow(k)
			left -= k
			if err != nil || k == 0 {
				n -= left
				break
			}
		}
	} else {
		e.mu.Unlock()
		c := draft()
		n = min(n, len(c.b))
		rerr := fill(src, c.b[:n])
		e.mu.Lock()
		if rerr != nil {
			c.Return()
			return 0, &tcpip.ErrBadBuffer{}
		}
		if err := e.writeChunk(c, n); err != nil {
			return 0, err
		}
		return int64(n), nil
	}
	if n < want {
		e.blocked = true
	}
	e.written(n)
	return int64(n), nil
}

// Draft returns memory for data that WriteDraft is to send without a copy.
func (e *Endpoint) Draft() interface {
	Space() []byte
	Return()
} {
	return draft()
}

// WriteDraft writes the first n bytes of a draft, n > 0, and takes it over. After
// an error the draft is still the caller's.
func (e *Endpoint) WriteDraft(d interface {
	Space() []byte
	Return()
}, n int) tcpip.Error {
	e.mu.Lock()
	defer e.unlock()
	if _, err := e.writable(); err != nil {
		return err
	}
	e.out.attach(d.(*chunk), n)
	e.written(n)
	return nil
}

// written sends what the program has written, n bytes just now. mu is held.
func (e *Endpoint) written(n int) {
	if n > 0 && e.trace != nil {
		e.trace.Write(n)
	}
	e.output()
}

// writeChunk sends the first n bytes of a chunk, for which there need not be room
// any more: what was read from its source has to go somewhere. mu is held.
func (e *Endpoint) writeChunk(c *chunk, n int) tcpip.Error {
	if _, err := e.writable(); err != nil {
		if _, full := err.(*tcpip.ErrWouldBlock); !full {
			c.Return()
			return err
		}
	}
	e.out.attach(c, n)
	e.written(n)
	return nil
}

// fill reads until b is full.
func fill(src tcpip.Payloader, b []byte) error {
	for n := 0; n < len(b); {
		k, err := src.Read(b[n:])
		n += k
		if err != nil && n < len(b) {
			return err
		}
		if k == 0 && err == nil {
			return io.ErrNoProgress
		}
	}
	return nil
}

// writable returns the room in the send buffer, or why nothing can be written.
// mu is held.
func (e *Endpoint) writable() (int, tcpip.Error) {
	switch s := e.current(); {
	case s == gtcp.StateError:
		if err := e.takeFailure(); err != nil {
			return 0, err
		}
		return 0, &tcpip.ErrClosedForSend{}
	case connecting(s):
		return 0, &tcpip.ErrWouldBlock{}
	case !open(s) || s == gtcp.StateTimeWait || e.finQueued:
		return 0, &tcpip.ErrClosedForSend{}
	}
	room := int(e.ops.GetSendBufferSize()) - e.out.len()
	if room <= 0 {
		e.blocked = true
		return 0, &tcpip.ErrWouldBlock{}
	}
	return room, nil
}

// Readiness implements tcpip.Endpoint.
func (e *Endpoint) Readiness(mask waiter.EventMask) waiter.EventMask {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ready waiter.EventMask
	switch s := e.current(); {
	case s == gtcp.StateInitial || s == gtcp.StateBound:
		ready = waiter.EventHUp
	case connecting(s):
	case s == gtcp.StateListen:
		if len(e.listen.accepted) > 0 {
			ready = waiter.ReadableEvents
		}
	case s == gtcp.StateClose || s == gtcp.StateError || s == gtcp.StateTimeWait:
		return mask
	default:
		if e.finQueued || e.out.len() < int(e.ops.GetSendBufferSize()) {
			ready |= waiter.WritableEvents
		}
		if e.in.len() > 0 || e.finReceived || e.readShut {
			ready |= waiter.ReadableEvents
		}
		if e.finReceived {
			ready |= waiter.EventRdHUp
		}
	}
	return ready & mask
}

// Shutdown implements tcpip.Endpoint.
func (e *Endpoint) Shutdown(flags tcpip.ShutdownFlags) tcpip.Error {
	e.mu.Lock()
	defer e.unlock()
	s := e.current()
	if s == gtcp.StateListen {
		if flags&tcpip.ShutdownRead != 0 {
			e.events |= ended
		}
		return nil
	}
	if !open(s) && s != gtcp.StateSynRecv || s == gtcp.StateTimeWait {
		return &tcpip.ErrNotConnected{}
	}
	if flags&tcpip.ShutdownRead != 0 && !e.readShut {
		e.readShut = true
		e.events |= waiter.ReadableEvents
	}
	if flags&tcpip.ShutdownWrite != 0 && !e.finQueued {
		e.shutWrite()
		e.events |= waiter.WritableEvents
	}
	return nil
}

// shutWrite queues our FIN. mu is held.
func (e *Endpoint) shutWrite() {
	e.finQueued = true
	switch e.current() {
	case gtcp.StateEstablished:
		e.setState(gtcp.StateFinWait1)
	case gtcp.StateCloseWait:
		e.setState(gtcp.StateLastAck)
	}
	e.output()
}

// Close implements tcpip.Endpoint.
func (e *Endpoint) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.closed = true
	s := e.current()
	if s == gtcp.StateListen {
		e.closeListener()
		return
	}
	defer e.unlock()
	e.recordEnd()
	linger := e.ops.GetLinger()
	switch {
	case !open(s):
		e.finish(gtcp.StateClose, nil)
	case s == gtcp.StateTimeWait:
	case linger.Enabled && linger.Timeout == 0, e.in.len() > 0:
		// RFC 1122 section 4.2.2.13: data that nobody will read is no clean end.
		e.reset(&tcpip.ErrConnectionAborted{})
	default:
		e.in.drop()
		if !e.finQueued {
			e.shutWrite()
		}
		if e.current() == gtcp.StateFinWait2 {
			e.startFinWait2()
		}
	}
}

// Abort implements tcpip.Endpoint.
func (e *Endpoint) Abort() {
	e.mu.Lock()
	e.closed = true
	if e.current() == gtcp.StateListen {
		e.closeListener()
		return
	}
	defer e.unlock()
	e.recordEnd()
	if s := e.current(); s == gtcp.StateTimeWait || s == gtcp.StateClose || s == gtcp.StateError {
		e.finish(gtcp.StateClose, nil)
		return
	}
	e.reset(&tcpip.ErrConnectionAborted{})
}

// reset ends the connection with a reset for the peer. mu is held.
func (e *Endpoint) reset(err tcpip.Error) {
	if s := e.current(); open(s) || s == gtcp.StateSynRecv {
		e.sendControl(e.bareSeq(), rst|ack)
		e.p.stack.Stats().TCP.ResetsSent.Increment()
	}
	e.fail(err)
}

// fail ends the connection and keeps why. mu is held.
func (e *Endpoint) fail(err tcpip.Error) {
	s := e.current()
	if s == gtcp.StateClose || s == gtcp.StateError {
		return
	}
	if open(s) {
		e.p.stack.Stats().TCP.EstablishedResets.Increment()
	} else {
		e.p.stack.Stats().TCP.FailedConnectionAttempts.Increment()
		e.stats.FailedConnectionAttempts.Increment()
	}
	e.finish(gtcp.StateError, err)
}

// finish gives back all that the endpoint has outside itself. mu is held.
func (e *Endpoint) finish(s gtcp.EndpointState, err tcpip.Error) {
	e.failure = err
	if e.current() == gtcp.StateSynRecv {
		e.recordEnd() // no program knows of it
	}
	e.setState(s)
	e.events |= ended
	e.stopTimer()
	if e.parent != nil {
		e.parent.forget(e)
		e.parent = nil
	}
	if e.registered {
		e.p.stack.UnregisterTransportEndpoint(e.protocols, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0)
		e.registered = false
	}
	if e.reserved {
		e.p.stack.ReleasePort(e.reservation(e.ID.LocalPort))
		e.reserved = false
	}
	if e.route != nil {
		e.route.Release()
		e.route = nil
	}
	e.out.drop()
	e.flights = flights{}
	e.dropOutOfOrder()
	if e.closed {
		e.in.drop()
	}
}

// Wait implements stack.TransportEndpoint. An endpoint has no goroutines.
func (*Endpoint) Wait() {}

// Disconnect implements tcpip.Endpoint.
func (*Endpoint) Disconnect() tcpip.Error { return &tcpip.ErrNotSupported{} }

// Info implements tcpip.Endpoint.
func (e *Endpoint) Info() tcpip.EndpointInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	info := e.TransportEndpointInfo
	return &info
}

// Stats implements tcpip.Endpoint.
func (e *Endpoint) Stats() tcpip.EndpointStats { return &e.stats }

// SocketOptions implements tcpip.Endpoint.
func (e *Endpoint) SocketOptions() *tcpip.SocketOptions { return &e.ops }

// GetLocalAddress implements tcpip.Endpoint.
func (e *Endpoint) GetLocalAddress() (tcpip.FullAddress, tcpip.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return tcpip.FullAddress{Addr: e.ID.LocalAddress, Port: e.ID.LocalPort}, nil
}

// GetRemoteAddress implements tcpip.Endpoint.
func (e *Endpoint) GetRemoteAddress() (tcpip.FullAddress, tcpip.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !open(e.current()) {
		return tcpip.FullAddress{}, &tcpip.ErrNotConnected{}
	}
	return tcpip.FullAddress{Addr: e.ID.RemoteAddress, Port: e.ID.RemotePort}, nil
}

// HandlePacket implements stack.TransportEndpoint. gVisor calls QueuePacket
// instead.
func (e *Endpoint) HandlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	e.p.QueuePacket(e, id, pkt)
}

// HandleError implements stack.TransportEndpoint: an ICMP error, with the start
// of our segment in pkt. Only one that quotes a segment in flight is believed
// (RFC 5927 section 4.1), and none but "too big" hurts an established connection
// (RFC 1122 section 4.2.3.9, RFC 5461).
func (e *Endpoint) HandleError(terr stack.TransportError, pkt *stack.PacketBuffer) {
	e.mu.Lock()
	defer e.unlock()
	s := e.current()
	if !open(s) && !connecting(s) {
		return
	}
	if pkt != nil { // nil: news from this host
		// Eight bytes of our header are all that is certain to be there (RFC 792).
		b, ok := pkt.Data().PullUp(8)
		if !ok {
			return
		}
		if seq := binary.BigEndian.Uint32(b[header.TCPSeqNumOffset:]); seq-e.unacknowledged >= e.sendMax-e.unacknowledged {
			e.p.refused.errors.Add(1)
			return
		}
	}
	var err tcpip.Error
	switch terr.Kind() {
	case stack.PacketTooBigTransportError:
		e.tooBig(int(terr.Info()))
		return
	case stack.DestinationHostUnreachableTransportError:
		err = &tcpip.ErrHostUnreachable{}
	case stack.DestinationNetworkUnreachableTransportError:
		err = &tcpip.ErrNetworkUnreachable{}
	case stack.DestinationPortUnreachableTransportError:
		err = &tcpip.ErrConnectionRefused{}
	case stack.DestinationProtoUnreachableTransportError:
		err = &tcpip.ErrUnknownProtocolOption{}
	case stack.DestinationHostDownTransportError:
		err = &tcpip.ErrHostDown{}
	default:
		return
	}
	if connecting(s) {
		e.fail(err)
		return
	}
	e.soft = err
}
