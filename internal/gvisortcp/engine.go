package gvisortcp

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"

	gsync "gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// Config is what an Engine needs of its shard.
type Config struct {
	Link *netif.Endpoint
	MAC  link.MAC
	NIC  tcpip.NICID
	// Slow takes a frame that does not take the fast path. k is the key of a plain
	// segment of a flow that is not in the table, nil for all else.
	Slow func(f *link.Frame, k *flow.Key)
	// Record opens the trace of a connection, nil where there is no room; nil where
	// nothing is recorded.
	Record recorder.Opener
	// Now is monotonic, in nanoseconds.
	Now func() int64
	// NoCoalescing delivers each received segment by itself.
	NoCoalescing bool
	// Pinned says that the poller has a processor for itself.
	Pinned bool
}

// An Engine is gVisor's TCP as a shard has it: shard.Engine. Receive, FinishPoll
// and Resume are the poller's, any goroutine may call the rest.
type Engine struct {
	c         Config
	stack     *stack.Stack
	guard     *guard
	conntrack *conntrack
	account   *limits.Account
	flows     flow.Table[*established]
	// listeners has the endpoint of each *tcp.Endpoint that listens.
	listeners sync.Map
	// segment is the one at hand: c.Slow makes it escape. The poller owns it.
	segment flow.Segment
}

// established is a flow whose segments take the fast path.
type established struct {
	ep   *endpoint
	id   stack.TransportEndpointID
	user transport.User
	// tracked is what conntrack knows of it; nil when it follows too many.
	tracked *tracked
	trace   *trace // nil: not recorded
}

// NewEngine returns an engine, for the stack that NewProtocol is called with. It
// fails with a version of gVisor that lacks what it needs.
func NewEngine(c Config) (*Engine, error) {
	if errHeld != nil {
		return nil, errHeld
	}
	c.Link.SetHolder(new(ackHold))
	return &Engine{c: c}, nil
}

// errQueuer is why there is no engine with some version of gVisor.
var errQueuer = errors.New("gvisortcp: gVisor's TCP does not export QueuePacket and SendBufferSize any more; pin the version in go.mod")

// NewProtocol is the stack's factory of its TCP.
func (g *Engine) NewProtocol(s *stack.Stack) stack.TransportProtocol {
	p := tcp.NewProtocolCUBIC(s)
	t, ok := p.(queuer)
	if !ok {
		return p // MakeStack tells
	}
	g.stack, g.guard = s, &guard{p, t, g}
	g.conntrack = &conntrack{
		stack: s, nic: g.c.NIC, now: g.c.Now, most: func() int { return 2 * g.account.MaxConnections() },
		unclaimed: g.guard.HandleUnknownDestinationPacket,
	}
	return g.guard
}

// MakeStack calls f, which makes the stack.
func (g *Engine) MakeStack(f func()) error {
	OneProcessor(f)
	if g.guard == nil {
		return errQueuer
	}
	return nil
}

// Attach says who keeps the limits, before there is traffic.
func (g *Engine) Attach(a *limits.Account) { g.account = a }

// Options are settings besides those that every TCP has.
//
// Without RACK-TLP (RFC 8985): as gVisor has it, it takes segments for lost
// that are not, on a link that loses none (149 MB/s with it, 2,143 MB/s
// without, one connection over link/memory), and a flow that did lose the tail
// of a burst sends two segments per retransmission timeout from then on, for
// good. Tailscale has it off as well (tailscale/tailscale#9707). A loss at the
// end of a flight costs a retransmission timeout then.
// It also stops the retransmission timer on each write, sent or not: a program
// that keeps writing into a full window never gets its losses sent again.
func (*Engine) Options() []tcpip.SettableTransportProtocolOption {
	recovery := tcpip.TCPRecovery(0)
	return []tcpip.SettableTransportProtocolOption{&recovery}
}

// FirstSend is the send buffer that a connection begins with, in bytes.
func (*Engine) FirstSend() int { return 1 << 20 }

// Congestion is NewReno: the window arithmetic of gVisor's CUBIC can overflow
// (gvisor.dev/issue/11632).
func (*Engine) Congestion() string { return "reno" }

// Receive handles a burst.
func (g *Engine) Receive(frames []link.Frame) (fast int) {
	s := &g.segment
	var t gro
	for i := range frames {
		f := &frames[i]
		plain := f.Checksum != link.Bad && s.Parse(f.Data, g.c.MAC)
		if !plain || s.Header().Flags()&flow.Unusual != 0 {
			g.flush(&t)
			if plain && s.Header().Flags()&header.TCPFlagRst != 0 {
				g.recordReset(s)
			}
			g.c.Slow(f, nil)
			continue
		}
		owner, ok := g.flows.Lookup(&s.Key)
		if !ok {
			g.flush(&t)
			g.c.Slow(f, &s.Key)
			continue
		}
		if !f.Checksum.Right() && !s.ChecksumsRight() {
			g.c.Link.CountBadChecksum()
			continue
		}
		if owner.trace != nil {
			owner.trace.Received(s.Header(), len(s.Payload()))
		}
		if owner.tracked != nil && !g.conntrack.passes(owner.tracked, s) {
			g.flush(&t)
			g.c.Link.Deliver(f)
			continue
		}
		fast++
		if t.flow == owner && t.join(s) {
			continue
		}
		g.flush(&t)
		g.start(&t, owner, s)
	}
	g.flush(&t)
	return fast
}

// recordReset records a reset, which takes the slow path. Whether TCP believes it
// is seen by what follows.
func (g *Engine) recordReset(s *flow.Segment) {
	if f, ok := g.flows.Lookup(&s.Key); ok && f.trace != nil {
		f.trace.Received(s.Header(), len(s.Payload()))
	}
}

// FinishPoll lets readers run once more: TCP wakes them from a goroutine of its
// own. A pinned poller has a processor for itself, and they have others.
func (g *Engine) FinishPoll() {
	if !g.c.Pinned {
		gsync.Goyield()
	}
}

// Resume has nothing to do: TCP waits for a full device by itself.
func (*Engine) Resume() {}

// Stalled is never.
func (*Engine) Stalled() bool { return false }

// Socket makes an endpoint.
func (g *Engine) Socket(v6, v6Only bool) (transport.Endpoint, error) {
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	queue := new(waiter.Queue)
	ep, err := g.stack.NewEndpoint(tcp.ProtocolNumber, proto, queue)
	if err != nil {
		return nil, netstack.Error(err)
	}
	if v6 {
		ep.SocketOptions().SetV6Only(v6Only)
	}
	return &endpoint{ep: ep.(*tcp.Endpoint), queue: queue, engine: g}, nil
}

// Key is the flow of an endpoint, false for one that is no connection.
func (g *Engine) Key(ep transport.Endpoint) (flow.Key, bool) {
	e, ok := ep.(*endpoint)
	if !ok {
		return flow.Key{}, false
	}
	id, _ := g.ID(e.ep)
	return netstack.Key(&id)
}

// Established puts a connection on the fast path.
func (g *Engine) Established(k flow.Key, ep transport.Endpoint, u transport.User) {
	e := ep.(*endpoint)
	f := &established{ep: e, user: u}
	f.id, _ = g.ID(e.ep)
	f.tracked = g.conntrack.track(k, f.id, netstack.Network(f.id.LocalAddress))
	if g.c.Record != nil && u != nil {
		g.record(e, f)
	}
	g.flows.Insert(k, f)
}

// record begins to record a connection.
func (g *Engine) record(e *endpoint, f *established) {
	known := &recorder.Endpoint{State: e.ep.State}
	if stats, ok := e.ep.Stats().(*tcp.Stats); ok {
		known.Timeouts = &stats.SendErrors.Timeouts
	} else {
		known = nil
	}
	local, remote := netstack.Ends(&f.id)
	t := g.c.Record(local, remote, known)
	if t == nil {
		return
	}
	f.trace = &trace{Trace: t}
	e.trace = f.trace
	// gVisor marks packets with their owner, by which the way out finds the trace. It
	// may be sending already.
	e.ep.LockUser()
	e.ep.SetOwner(f.trace)
	e.ep.UnlockUser()
}

// Closed takes it off again. Its FIN and what follows it take the slow path.
func (g *Engine) Closed(k flow.Key, ep transport.Endpoint) {
	g.flows.Delete(k)
	if e, ok := ep.(*endpoint); ok && e.trace != nil {
		e.trace.Close()
	}
}

// Owns tells whether a flow is on the fast path.
func (g *Engine) Owns(k *flow.Key) bool {
	_, ok := g.flows.Lookup(k)
	return ok
}

// Flows is the number of flows on the fast path.
func (g *Engine) Flows() int { return g.flows.Len() }

// Conns yields their connections. It takes no lock: of those that come and go
// meanwhile it may miss some.
func (g *Engine) Conns() iter.Seq2[transport.User, transport.Endpoint] {
	return func(yield func(transport.User, transport.Endpoint) bool) {
		for _, f := range g.flows.All() {
			if f.user != nil && !yield(f.user, f.ep) {
				return
			}
		}
	}
}

// Trace is what records a connection, nil for none.
func (*Engine) Trace(ep transport.Endpoint) *recorder.Trace {
	if e, ok := ep.(*endpoint); ok && e.trace != nil {
		return e.trace.Trace
	}
	return nil
}

// PassOn is more than this engine can: the port of a connection cannot be another
// process's.
func (*Engine) PassOn(netip.AddrPort, func(packet []byte)) bool { return false }

// registered is an endpoint as the limits see it.
type registered struct{ *tcp.Endpoint }

// State implements limits.Conn.
func (r registered) State() transport.State { return transport.State(r.EndpointState()) }

// Held implements limits.Conn.
func (r registered) Held() (received, sent int) { return held(r.Endpoint) }

// Buffers implements limits.Conn.
func (r registered) Buffers() (receive, send int) {
	o := r.SocketOptions()
	return int(o.GetReceiveBufferSize()), int(o.GetSendBufferSize())
}

// SetBuffers implements limits.Conn.
func (r registered) SetBuffers(receive, send int) {
	o := r.SocketOptions()
	o.SetReceiveBufferSize(int64(receive), false)
	more := int64(send) > o.GetSendBufferSize()
	o.SetSendBufferSize(int64(send), false)
	if more {
		r.WakeupWriters()
	}
}

// From gives an endpoint that is about to connect a local address, which others may
// have, too, to other ends.
func (*Engine) From(ep transport.Endpoint, local netip.AddrPort) error { return ep.Bind(local, true) }

// Source is the local address of connections from local, which may be empty, to
// remote, false where there is no route.
func (g *Engine) Source(local, remote tcpip.Address) (tcpip.Address, bool) {
	if local.Len() == 0 {
		local = g.c.Link.Source(remote)
	}
	r, err := g.stack.FindRoute(0, local, remote, netstack.Network(remote), false)
	if err != nil {
		return tcpip.Address{}, false
	}
	defer r.Release()
	return r.LocalAddress(), true
}

// Endpoints yields all connections, in whatever state, and listeners.
func (g *Engine) Endpoints() iter.Seq[stack.TransportEndpoint] {
	return slices.Values(g.stack.RegisteredEndpoints())
}

// Waiting yields none: gVisor has an endpoint for each connection in TIME-WAIT.
func (*Engine) Waiting() iter.Seq[flow.Key] { return func(func(flow.Key) bool) {} }

// TimeWaits is none.
func (*Engine) TimeWaits() int { return 0 }

// Taken tells whether a new connection from here cannot have the addresses of id.
// gVisor's Connect does not take the place of a connection in TIME-WAIT.
func (g *Engine) Taken(id stack.TransportEndpointID) bool {
	ep := g.stack.FindTransportEndpoint(netstack.Network(id.LocalAddress), tcp.ProtocolNumber, id, g.c.NIC)
	found, ok := g.ID(ep)
	return ok && found.RemotePort != 0 // a listener is found, too
}

// Conn is an endpoint that is registered with the stack, as the limits see it.
func (*Engine) Conn(ep stack.TransportEndpoint) (limits.Conn, bool) {
	e, ok := ep.(*tcp.Endpoint)
	return registered{e}, ok
}

// ID is what the stack knows an endpoint by.
func (*Engine) ID(ep stack.TransportEndpoint) (stack.TransportEndpointID, bool) {
	if e, ok := ep.(*tcp.Endpoint); ok {
		if info, ok := e.Info().(*stack.TransportEndpointInfo); ok {
			return info.ID, true
		}
	}
	return stack.TransportEndpointID{}, false
}

// RoutesChanged has nothing to do: netif.Endpoint.SetRoutes has the new routes.
func (*Engine) RoutesChanged() {}

// Cookies are none: nobody else knows how gVisor makes its own.
func (*Engine) Cookies() *syncookie.Cookies { return nil }

// ShareCookies has nothing to do.
func (*Engine) ShareCookies(*syncookie.Cookies) {}

// Refused counts what was not believed.
func (g *Engine) Refused() transport.Refused { return g.conntrack.refused() }

// Tidy forgets connections that have ended. One goroutine calls it now and then.
func (g *Engine) Tidy() { g.conntrack.tidy() }
