package tcp

import (
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
)

// An Endpoint is a listener or one end of a connection.
//
// Read RFC 9293 first: section 3.3.1 has the variables of the connection, which
// sender and receiver have under names of their own, and section 3.10.7 what each
// state does with a segment, in which order receive.go follows it. Then RFC 7323
// for window scales and timestamps, RFC 5681 and 6298 for windows and timers, RFC
// 2018, 6675 and 8985 for loss with SACK, and RFC 5961 for what is not believed.
//
// With thousands of connections each segment finds its endpoint out of the caches.
// So what every segment needs lies together, in some 14 cache lines, and the rest
// behind it.
type Endpoint struct {
	p *Protocol

	// state is written under mu and read by anyone.
	state atomic.Uint32

	mu sync.Mutex

	// sink is told of events, which are those to be announced when mu is free.
	sink   transport.Sink
	events transport.Events
	// closed: the program is done with the endpoint.
	closed   bool
	untraced bool // there was no room for a trace when the handshake began
	trace    *recorder.Trace

	receiver
	sender
	timers

	route      *stack.Route
	routeEpoch uint64
	path       netif.TCPPath
	stack.TransportEndpointInfo
	shared shared // with the device's ring

	// From here on is what few segments need.

	options
	moderation
	posting
	lossState
	retryLimits

	entry wheelEntry // guarded by wheel.mu

	// failure is why the connection ended; the program is told once.
	failure tcpip.Error
	// soft is what ICMP said, for those who ask (SO_ERROR) and for a time-out.
	soft tcpip.Error

	// What gVisor knows of the endpoint.
	protocols         *[]tcpip.NetworkProtocolNumber // one of bind.go's
	flags, boundFlags ports.Flags
	// registered: gVisor delivers to this listener; reserved: its port is held there;
	// added: the connection is in Protocol.flows.
	registered, reserved, added bool

	user atomic.Pointer[transport.User] // nil before Engine.Established and after Engine.Closed

	destination *destination // of path
	// challenged is when the last acknowledgement of an unacceptable segment left.
	challenged int64

	listen *listener // of an endpoint that listens
	parent *Endpoint // of one that was not accepted yet

	// What is counted of the connection. timeouts is read by the recorder.
	retransmits, fastRetransmits uint64
	timeouts                     tcpip.StatCounter
}

var (
	_ transport.Endpoint      = (*Endpoint)(nil)
	_ stack.TransportEndpoint = (*Endpoint)(nil)
)

func newEndpoint(p *Protocol, proto tcpip.NetworkProtocolNumber) *Endpoint {
	e := &Endpoint{p: p}
	e.NetProto, e.TransProto = proto, header.TCPProtocolNumber
	e.setState(transport.StateInitial)
	set := p.options()
	e.linger = -1
	e.sendSize, e.receiveSize = set.send.Default, set.receive.Default
	e.nagle = set.delay
	e.retryLimits.init(&set)
	e.minRTO, e.maxRTO = set.minRTO, set.maxRTO
	e.congestion = set.congestion
	e.sackOK = set.sack
	e.moderate, e.tuned = set.moderate, set.moderate
	e.receiveMax = set.receive.Max
	return e
}

// State implements transport.Endpoint.
func (e *Endpoint) State() transport.State { return e.current() }

// stateNumber is State for the recorder.
func (e *Endpoint) stateNumber() uint32 { return e.state.Load() }

func (e *Endpoint) current() transport.State { return transport.State(e.state.Load()) }

func open(s transport.State) bool { return s.Open() }

func connecting(s transport.State) bool { return s.Opening() }

// unlock lets go of mu and announces what has happened meanwhile.
func (e *Endpoint) unlock() {
	events, sink := e.events, e.sink
	e.events = 0
	e.mu.Unlock()
	if events != 0 && sink != nil {
		sink.Notify(events)
	}
}

// Held returns how many bytes the connection keeps in memory: received ones that
// were not read, with the overhead of those out of order, and written ones that
// were not acknowledged.
func (e *Endpoint) Held() (received, sent int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.in.len() + e.outOfOrderBytes, e.out.len()
}

// SetSink implements transport.Endpoint.
func (e *Endpoint) SetSink(s transport.Sink) {
	e.mu.Lock()
	e.sink = s
	e.mu.Unlock()
}

func (e *Endpoint) setUser(u transport.User) {
	if u == nil {
		e.user.Store(nil)
		return
	}
	e.user.Store(&u)
}

// currentUser takes no lock: those who count ask each connection.
func (e *Endpoint) currentUser() transport.User {
	if u := e.user.Load(); u != nil {
		return *u
	}
	return nil
}

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

// LastError implements transport.Endpoint.
func (e *Endpoint) LastError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.takeFailure()
	if err == nil {
		err = e.soft
	}
	e.soft = nil
	return netstack.Error(err)
}

// Lend implements transport.Endpoint.
func (e *Endpoint) Lend() (transport.Loan, error) {
	e.mu.Lock()
	defer e.unlock()
	if err := e.readableLocked(); err != nil {
		return nil, err
	}
	c := e.in.lend()
	if c == nil {
		return nil, nil
	}
	e.consumed(len(c.Bytes()))
	return c, nil
}

// Read implements transport.Endpoint.
func (e *Endpoint) Read(b []byte) (n int, more bool, err error) {
	e.mu.Lock()
	if n = e.withdrawLocked(); n == 0 {
		if err := e.readableLocked(); err != nil {
			e.unlock()
			return 0, false, err
		}
	}
	if len(b) > 0 {
		n += e.in.read(b[n:])
		e.consumed(n)
	}
	more = e.in.len() > 0 || e.finReceived || !open(e.current())
	e.unlock()
	return n, more, nil
}

// Post implements transport.Endpoint.
func (e *Endpoint) Post(b []byte) {
	e.mu.Lock()
	e.posted, e.filled, e.awaited = b, 0, true
	e.mu.Unlock()
}

// Withdraw implements transport.Endpoint.
func (e *Endpoint) Withdraw() int {
	e.mu.Lock()
	n := e.withdrawLocked()
	e.consumed(n)
	e.unlock()
	return n
}

func (e *Endpoint) withdrawLocked() (filled int) {
	if !e.awaited {
		return 0
	}
	filled = e.filled
	e.posted, e.filled, e.awaited = nil, 0, false
	return filled
}

// readableLocked tells why there is nothing to read, nil when there is.
func (e *Endpoint) readableLocked() error {
	if e.in.len() > 0 && !e.closed {
		return nil
	}
	switch s := e.current(); {
	case connecting(s):
		return transport.ErrWouldBlock
	case s == transport.StateError:
		if err := e.takeFailure(); err != nil {
			return netstack.Error(err)
		}
		return io.EOF
	case s == transport.StateClosed || e.finReceived:
		return io.EOF
	case !open(s):
		return syscall.ENOTCONN
	}
	return transport.ErrWouldBlock
}

// maxWrite is the most that one call takes, in bytes: it copies under the lock, and
// 64 KB is the largest piece that a device cuts into segments.
const maxWrite = 64 << 10

// Write implements transport.Endpoint.
func (e *Endpoint) Write(b []byte) (int, error) {
	e.mu.Lock()
	room, err := e.writableLocked()
	if err != nil || len(b) == 0 {
		e.unlock()
		return 0, err
	}
	n := min(len(b), room, maxWrite)
	e.out.write(b[:n])
	if n < len(b) && n == room {
		e.blocked = true
	}
	e.writtenLocked(n)
	e.unlock()
	return n, nil
}

// Writev implements transport.Endpoint.
func (e *Endpoint) Writev(bufs [][]byte) (int, error) {
	e.mu.Lock()
	defer e.unlock()
	room, err := e.writableLocked()
	if err != nil {
		return 0, err
	}
	n, most := 0, min(room, maxWrite)
	for _, b := range bufs {
		k := min(len(b), most-n)
		e.out.write(b[:k])
		if n += k; k < len(b) {
			e.blocked = e.blocked || n == room
			break
		}
	}
	if n > 0 {
		e.writtenLocked(n)
	}
	return n, nil
}

// Draft implements transport.Endpoint.
func (e *Endpoint) Draft() transport.Draft { return draft() }

// WriteDraft implements transport.Endpoint.
func (e *Endpoint) WriteDraft(d transport.Draft, n int) error {
	e.mu.Lock()
	defer e.unlock()
	if _, err := e.writableLocked(); err != nil {
		return err
	}
	e.out.attach(d.(*chunk), n)
	e.writtenLocked(n)
	return nil
}

// writtenLocked sends what the program has written, n bytes just now.
func (e *Endpoint) writtenLocked(n int) {
	if e.trace != nil {
		e.trace.Write(n)
	}
	e.output()
}

// writableLocked returns the room in the send buffer, or why nothing can be
// written.
func (e *Endpoint) writableLocked() (int, error) {
	switch s := e.current(); {
	case s == transport.StateError:
		if err := e.takeFailure(); err != nil {
			return 0, netstack.Error(err)
		}
		return 0, syscall.EPIPE
	case connecting(s):
		return 0, transport.ErrWouldBlock
	case !open(s) || s == transport.StateTimeWait || e.finQueued:
		return 0, syscall.EPIPE
	}
	room := e.sendSize - e.out.len()
	if room <= 0 {
		e.blocked = true
		return 0, transport.ErrWouldBlock
	}
	return room, nil
}

// CloseWrite implements transport.Endpoint.
func (e *Endpoint) CloseWrite() error {
	e.mu.Lock()
	defer e.unlock()
	s := e.current()
	if !open(s) && s != transport.StateSynReceived || s == transport.StateTimeWait {
		return syscall.ENOTCONN
	}
	if !e.finQueued {
		e.shutWrite()
		e.events |= transport.Writable
	}
	return nil
}

// Close implements transport.Endpoint.
func (e *Endpoint) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.closed, e.sink = true, nil
	s := e.current()
	if s == transport.StateListen {
		e.closeListenerLocked()
		return
	}
	defer e.unlock()
	e.recordEnd()
	switch {
	case !open(s):
		e.finish(transport.StateClosed, nil)
	case s == transport.StateTimeWait:
		e.in.drop()
		e.leaveLocked()
	case e.in.len() > 0, e.linger == 0 && s != transport.StateClosing && s != transport.StateLastAck:
		// RFC 1122 section 4.2.2.13: data that nobody will read is no clean end.
		e.reset(&tcpip.ErrConnectionAborted{})
	case e.linger == 0:
		e.finish(transport.StateClosed, nil) // both ends have closed: RFC 9293 section 3.10.5
	default:
		e.in.drop()
		if !e.finQueued {
			e.shutWrite()
		}
		if e.current() == transport.StateFinWait2 {
			e.startFinWait2()
		}
	}
}

// Abort implements transport.Endpoint and stack.TransportEndpoint.
func (e *Endpoint) Abort() {
	e.mu.Lock()
	e.closed = true
	if e.current() == transport.StateListen {
		e.closeListenerLocked()
		return
	}
	defer e.unlock()
	e.recordEnd()
	// Who reads must not take what was cut off for the end of the stream.
	switch e.current() {
	case transport.StateTimeWait, transport.StateClosed:
		if e.in.len() > 0 {
			e.finish(transport.StateError, &tcpip.ErrConnectionAborted{})
		} else {
			e.finish(transport.StateClosed, nil)
		}
		return
	case transport.StateError:
		e.in.drop()
		return
	}
	e.reset(&tcpip.ErrConnectionAborted{})
}

// Wait implements stack.TransportEndpoint. An endpoint has no goroutines.
func (*Endpoint) Wait() {}

// LocalAddr implements transport.Endpoint.
func (e *Endpoint) LocalAddr() netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	return netstack.AddrPort(e.ID.LocalAddress, e.ID.LocalPort)
}

// RemoteAddr implements transport.Endpoint.
func (e *Endpoint) RemoteAddr() (netip.AddrPort, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return netstack.AddrPort(e.ID.RemoteAddress, e.ID.RemotePort), open(e.current())
}

// id is what gVisor knows the endpoint by.
func (e *Endpoint) id() stack.TransportEndpointID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ID
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
