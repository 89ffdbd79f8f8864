package shard

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	owntcp "github.com/gotpa/tpa/internal/tcp"
	tpanet "github.com/gotpa/tpa/net"
)

// endpoint is what a shard asks of a connection or listener, whichever TCP it is
// of.
type endpoint interface {
	stack.TransportEndpoint
	EndpointState() tcp.EndpointState
	SocketOptions() *tcpip.SocketOptions
	WakeupWriters()
}

var (
	_ endpoint = (*tcp.Endpoint)(nil)
	_ endpoint = (*owntcp.Endpoint)(nil)
)

// A guard stands in front of the stack's TCP for what takes the long way, and
// keeps the limits of those segments that begin a connection or belong to none.
type guard struct {
	stack.TransportProtocol
	tcp   transport
	shard *Shard
}

// transport is what the stack and the shard look for in a TCP besides
// stack.TransportProtocol.
type transport interface {
	queuer
	stack.SendBufSizeProto
}

// guarded makes TCP with a guard, unless TCP is not what this was written for:
// New finds that out.
func (s *Shard) guarded(factory stack.TransportProtocolFactory) stack.TransportProtocolFactory {
	return func(st *stack.Stack) stack.TransportProtocol {
		p := factory(st)
		t, ok := p.(transport)
		if !ok {
			return p
		}
		s.queuer = t
		s.own, _ = p.(*owntcp.Protocol)
		g := &guard{p, t, s}
		switch {
		case s.own == nil:
			s.conntrack = &conntrack{shard: s}
			s.unclaimed = g.HandleUnknownDestinationPacket
		case s.recorder != nil:
			s.own.Record(s.openTrace)
		}
		return g
	}
}

// SendBufferSize implements stack.SendBufSizeProto.
func (g *guard) SendBufferSize() tcpip.TCPSendBufferSizeRangeOption { return g.tcp.SendBufferSize() }

// QueuePacket hands a segment to its endpoint. The poller calls it, and whoever
// sends to an address of this stack itself.
func (g *guard) QueuePacket(ep stack.TransportEndpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	if l, ok := ep.(endpoint); ok && l.EndpointState() == tcp.StateListen {
		h := header.TCP(pkt.TransportHeader().Slice())
		if !g.shard.admission.admit(l, h) {
			return
		}
		if g.shard.conntrack != nil && h.Flags()&header.TCPFlagSyn != 0 && !g.shard.admission.cookies.Load() {
			g.shard.conntrack.answered(id, pkt)
		}
	}
	g.tcp.QueuePacket(ep, id, pkt)
}

// HandleUnknownDestinationPacket answers a segment that belongs to no endpoint
// with a reset, as often as Limits.Resets allows.
func (g *guard) HandleUnknownDestinationPacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) stack.UnknownDestinationPacketDisposition {
	a := &g.shard.admission
	if header.TCP(pkt.TransportHeader().Slice()).Flags()&header.TCPFlagRst == 0 && !a.resets.take(a.now()) {
		a.unanswered.Add(1)
		return stack.UnknownDestinationPacketHandled
	}
	return g.TransportProtocol.HandleUnknownDestinationPacket(id, pkt)
}

// admission decides about segments to listening endpoints.
type admission struct {
	shard  *Shard
	limits Limits
	budget *Budget

	// listeners has an accept queue for each listening endpoint.
	listeners sync.Map // endpoint to acceptQueue

	// begun counts handshakes let through to be kept in memory, and correction is
	// what the last census made of the difference to those that ended.
	begun, correction atomic.Int64
	// cookies tells whether handshakes are kept in cookies now; cookieAt when a
	// cookie was last asked for, in nanoseconds.
	cookies  atomic.Bool
	cookieAt atomic.Int64

	resets bucket

	refusedConnections, refusedMemory, refusedBacklog atomic.Uint64
	resetMemory, resetClosing, cut, unanswered        atomic.Uint64
}

type acceptQueue struct {
	port    uint16
	backlog int
	waiting func() int
}

func (q acceptQueue) full() bool { return q.waiting() >= q.backlog }

// cookieLife is how long the stack takes a cookie at most.
const cookieLife = 4 * time.Minute

// now is monotonic, in nanoseconds.
func (a *admission) now() int64 {
	return int64(a.shard.clock.NowMonotonic().Sub(tcpip.MonotonicTime{}))
}

// admit tells whether a segment to a listening endpoint may go on.
func (a *admission) admit(l endpoint, h header.TCP) bool {
	switch flags := h.Flags(); {
	case flags&header.TCPFlagRst != 0:
		return true // the stack drops and counts it
	case flags&header.TCPFlagSyn == 0, flags&header.TCPFlagAck != 0:
		// It finishes a handshake kept in a cookie, or is a stray. As long as no
		// cookie can be on its way it is a stray.
		now := a.now()
		if at := a.cookieAt.Load(); at != 0 && now-at < int64(cookieLife) {
			return a.room()
		}
		if a.resets.take(now) {
			return true
		}
		a.unanswered.Add(1)
		return false
	}
	if !a.room() {
		return false
	}
	if q, ok := a.listeners.Load(l); ok && q.(acceptQueue).full() {
		a.refusedBacklog.Add(1)
		return false
	}
	a.tend()
	if a.cookies.Load() {
		a.cookieAt.Store(a.now())
		a.budget.raise()
	} else {
		a.begun.Add(1)
	}
	return true
}

// room tells whether the runtime may have another connection.
func (a *admission) room() bool {
	switch {
	case a.budget.closed.Load():
		a.refusedMemory.Add(1)
	case a.budget.Full():
		a.refusedConnections.Add(1)
	default:
		return true
	}
	return false
}

// halfOpen is the number of handshakes in memory: exact at each census, and
// until the next one too high by those that failed.
func (a *admission) halfOpen() int {
	return int(max(0, a.begun.Load()-a.completed()+a.correction.Load()))
}

// completed counts handshakes that were in memory and came to their end.
func (a *admission) completed() int64 {
	t := &a.shard.stackStats.TCP
	return int64(t.PassiveConnectionOpenings.Value()) - int64(t.ListenOverflowSynCookieRcvd.Value())
}

// correct takes over what a census counted.
func (a *admission) correct(halfOpen int) {
	a.correction.Store(int64(halfOpen) - a.begun.Load() + a.completed())
	a.tend()
}

// tend turns cookies on and off.
func (a *admission) tend() {
	n, on := a.halfOpen(), a.cookies.Load()
	if want := n >= a.limits.HalfOpen || on && n > a.limits.HalfOpen*3/4; want != on && a.cookies.CompareAndSwap(on, want) {
		if want {
			a.cookieAt.Store(a.now())
		}
		option := tcpip.TCPAlwaysUseSynCookies(want)
		a.shard.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &option)
	}
}

// Listening implements tpanet.Stack. The backlog is kept when the SYN comes, and
// not once more at the end of the handshake, as the stack would: a client whose
// last segment of a handshake in a cookie is dropped is lost if the server is to
// speak first, because it has nothing to send again.
func (s *Shard) Listening(ep tpanet.Endpoint, backlog int, waiting func() int) int {
	q := acceptQueue{backlog: backlog, waiting: waiting}
	if at, err := ep.GetLocalAddress(); err == nil {
		q.port = at.Port
	}
	s.admission.listeners.Store(ep, q)
	return maxConnections
}

// NotListening implements tpanet.Stack.
func (s *Shard) NotListening(ep tpanet.Endpoint) { s.admission.listeners.Delete(ep) }

// bucket is a token bucket that holds the tokens of one second.
type bucket struct {
	mu     sync.Mutex
	rate   int64 // tokens per second
	tokens int64
	filled int64 // when, in nanoseconds
}

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now - b.filled; passed >= int64(time.Second) || b.filled == 0 {
		b.tokens, b.filled = b.rate, now
	} else if fresh := passed * b.rate / int64(time.Second); fresh > 0 {
		b.tokens = min(b.tokens+fresh, b.rate)
		b.filled += fresh * int64(time.Second) / b.rate
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}
