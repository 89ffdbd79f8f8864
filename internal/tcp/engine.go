package tcp

import (
	"iter"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/prefetch"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// Config is what an Engine needs of its shard.
type Config struct {
	Link *netif.Endpoint
	MAC  link.MAC
	// RxRing is link.Info's.
	RxRing int
	// Slow takes a frame that does not take the fast path. k is the key of a plain
	// segment of a flow that is not in the table, nil for all else.
	Slow func(f *link.Frame, k *flow.Key)
	// Record opens the trace of a connection, nil where there is no room; nil where
	// nothing is recorded.
	Record recorder.Opener
	// Departing is told of each flow whose SYN is about to leave, and Elsewhere tells
	// whether a flow is another shard's; nil where there is no other.
	Departing func(flow.Key)
	Elsewhere func(*flow.Key) bool
}

// An Engine is this TCP as a shard has it: shard.Engine. Receive, FinishPoll and
// Resume are the poller's, any goroutine may call the rest.
type Engine struct {
	c Config
	p *Protocol
	// users counts the connections that programs have.
	users atomic.Int64

	// owing are connections that have something to acknowledge at the end of the
	// poll.
	owing []*Endpoint
	// batch are the segments at hand: c.Slow makes them escape.
	batch [batchSize]looked
}

// batchSize is how many segments of a burst are looked up before the first of them
// is handled. What their endpoints have in memory comes meanwhile.
const batchSize = 16

// manyFlows is from how many connections on they do not all fit the processor's
// nearer caches: then asking ahead for what their endpoints point to pays, and timers
// stand in a wheel.
const manyFlows = 128

// looked is a frame that was looked up.
type looked struct {
	segment flow.Segment
	tcp     bool      // it is a plain segment
	ep      *Endpoint // whose segments take the fast path, nil for none
}

// NewEngine returns an engine, for the stack that NewProtocol is called with.
func NewEngine(c Config) *Engine { return &Engine{c: c} }

// MakeStack calls f, which makes the stack.
func (*Engine) MakeStack(f func()) error {
	f()
	return nil
}

// NewProtocol is the stack's factory of its TCP.
func (g *Engine) NewProtocol(s *stack.Stack) stack.TransportProtocol {
	g.p = New(g.c.Link)(s).(*Protocol)
	g.p.record, g.p.departing, g.p.ring.frames = g.c.Record, g.c.Departing, g.c.RxRing
	g.c.Link.CountSegments(s.Stats().TCP.SegmentsSent)
	return g.p
}

// Attach says who keeps the limits, before there is traffic.
func (g *Engine) Attach(a *limits.Account) { g.p.account = a }

// Options are settings besides those that every TCP has.
func (*Engine) Options() []tcpip.SettableTransportProtocolOption { return nil }

// FirstSend is the send buffer that a connection begins with, in bytes. What waits
// in it is what a write waits for, beside others: more does not make a short path
// faster, and moderateSend makes it larger on a long one.
func (*Engine) FirstSend() int { return 256 << 10 }

// Congestion is CUBIC where the settings leave it open.
func (*Engine) Congestion() string { return "cubic" }

// Receive handles a burst.
func (g *Engine) Receive(frames []link.Frame) (fast int) {
	polled := false
	for len(frames) > 0 {
		n := min(len(frames), batchSize)
		g.lookUp(g.batch[:n], frames[:n])
		for i := range n {
			f, x := &frames[i], &g.batch[i]
			s := &x.segment
			// The program may keep a connection that a reset has ended.
			if x.tcp && (x.ep == nil || x.ep.current().Over()) {
				// What came before it in the burst may have begun the connection.
				x.ep, _ = g.p.flows.Lookup(&s.Key)
			}
			var k *flow.Key
			if x.tcp {
				e, flags := x.ep, s.Header().Flags()
				first := e == nil && flags&(flow.Unusual|ack|fin) == syn
				ok := e != nil && !e.current().Over()
				waits := !ok && g.p.waits.has(&s.Key)
				if (ok || first || waits) && !f.Checksum.Right() && !s.ChecksumsRight() {
					g.c.Link.CountBadChecksum()
					continue
				}
				if ok {
					fast++
					if state := e.current(); state == transport.StateSynReceived || state == transport.StateTimeWait {
						g.p.goOn(e, s)
					} else if e.Input(s.Header()[:s.TCPLen], s.Payload()) {
						g.owing = append(g.owing, e)
					}
					continue
				}
				if waits && g.p.old(s) {
					fast++
					continue
				}
				if f.Checksum == link.Partial {
					offload.Complete(f.Data) // others check
					f.Checksum = link.Good
				}
				if g.p.passages.Load() != nil && (g.c.Elsewhere == nil || !g.c.Elsewhere(&s.Key)) && g.p.passOn(s) {
					continue
				}
				if first && (g.c.Elsewhere == nil || !g.c.Elsewhere(&s.Key)) && g.p.begin(s) {
					fast++
					continue
				}
				if flags&flow.Unusual == 0 {
					k = &s.Key
				}
			}
			if !polled {
				polled = true
				g.p.Polled(true)
			}
			// The stack queues what is for TCP.
			g.c.Slow(f, k)
			g.p.Drain()
		}
		frames = frames[n:]
	}
	if polled {
		g.p.Polled(false)
		g.p.Drain()
	}
	if fast > 0 {
		g.p.stats.ValidSegmentsReceived.IncrementBy(uint64(fast))
	}
	return fast
}

// lookUp finds the endpoints of frames, step by step for all of them: what one step
// asks for, the next one finds in the cache.
func (g *Engine) lookUp(batch []looked, frames []link.Frame) {
	many := len(batch) > 1 && g.p.flows.Len() >= manyFlows
	for i := range batch {
		x, f := &batch[i], &frames[i]
		x.ep = nil
		if x.tcp = f.Checksum != link.Bad && x.segment.Parse(f.Data, g.c.MAC); x.tcp && many {
			g.p.flows.Prefetch(&x.segment.Key, false)
		}
	}
	if many {
		for i := range batch {
			if x := &batch[i]; x.tcp {
				g.p.flows.Prefetch(&x.segment.Key, true)
			}
		}
	}
	for i := range batch {
		if x := &batch[i]; x.tcp {
			if x.ep, _ = g.p.flows.Lookup(&x.segment.Key); x.ep != nil && len(batch) > 1 {
				prefetch.Start(x.ep, hotPart)
			}
		}
	}
	if many {
		g.prefetch(batch, transport.Near)
		g.prefetch(batch, transport.Far)
	}
}

// prefetch asks for what the endpoints of a batch point to.
func (g *Engine) prefetch(batch []looked, d transport.Distance) {
	for i := range batch {
		if e := batch[i].ep; e != nil {
			e.prefetch(d)
		}
	}
}

// FinishPoll sends the acknowledgements that no reply has carried. It comes before
// the flush.
func (g *Engine) FinishPoll() {
	for i, e := range g.owing {
		e.Acknowledge()
		g.owing[i] = nil
	}
	g.owing = g.owing[:0]
}

// Resume lets connections go on that found the device full. It comes behind the
// flush.
func (g *Engine) Resume() { g.p.Retry() }

// Stalled tells whether there is something for Resume to do. A poller that sleeps
// must look again soon then.
func (g *Engine) Stalled() bool { return g.p.Stalled() }

// Deliver implements slowpath.TCP: connections look at each segment themselves.
func (*Engine) Deliver(demux stack.TransportDispatcher, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	return demux.DeliverTransportPacket(header.TCPProtocolNumber, pkt)
}

// DeliverError implements slowpath.TCP.
func (g *Engine) DeliverError(demux stack.TransportDispatcher, id stack.TransportEndpointID, _ header.TCP, err stack.TransportError, pkt *stack.PacketBuffer) {
	g.p.DeliverError(demux, id, err, pkt)
}

// WriteTCP implements slowpath.TCP.
func (g *Engine) WriteTCP(r *stack.Route, p *stack.NetworkHeaderParams, pkt *stack.PacketBuffer) (bool, tcpip.Error) {
	return g.c.Link.WriteTCP(r, p, pkt)
}

// Socket makes an endpoint.
func (g *Engine) Socket(v6, v6Only bool) (transport.Endpoint, error) {
	return g.p.Socket(v6, v6Only), nil
}

// Key is the flow of an endpoint, false for one that is no connection.
func (*Engine) Key(ep transport.Endpoint) (flow.Key, bool) {
	e, ok := ep.(*Endpoint)
	if !ok {
		return flow.Key{}, false
	}
	id := e.id()
	return netstack.Key(&id)
}

// From gives an endpoint that is about to connect a local address.
func (*Engine) From(ep transport.Endpoint, local netip.AddrPort) error {
	return ep.(*Endpoint).From(local)
}

// Source is the local address of connections from local, which may be empty, to
// remote, false where there is no route.
func (g *Engine) Source(local, remote tcpip.Address) (tcpip.Address, bool) {
	epoch := g.p.routes.Load()
	to, err := g.p.findDestination(epoch, 0, local, remote, netstack.Network(remote))
	if err != nil {
		return tcpip.Address{}, false
	}
	defer to.route.Release()
	return to.route.LocalAddress(), true
}

// Established says that a program has the connection now.
func (g *Engine) Established(_ flow.Key, ep transport.Endpoint, u transport.User) {
	e := ep.(*Endpoint)
	e.Trace() // where its handshake found no room for one
	e.setUser(u)
	g.users.Add(1)
}

// Closed says that it is done with it.
func (g *Engine) Closed(_ flow.Key, ep transport.Endpoint) {
	ep.(*Endpoint).setUser(nil)
	g.users.Add(-1)
}

// Owns tells whether a flow is of one of the connections.
func (g *Engine) Owns(k *flow.Key) bool {
	e, ok := g.p.flows.Lookup(k)
	return ok && !e.current().Over() || g.p.waits.has(k)
}

// Flows is the number of connections that programs have.
func (g *Engine) Flows() int { return int(g.users.Load()) }

// Conns yields them. Of those that come and go meanwhile it may miss some.
func (g *Engine) Conns() iter.Seq2[transport.User, transport.Endpoint] {
	return func(yield func(transport.User, transport.Endpoint) bool) {
		for e := range g.p.all() {
			if u := e.currentUser(); u != nil && !yield(u, e) {
				return
			}
		}
	}
}

// Trace is what records a connection, nil for none.
func (*Engine) Trace(ep transport.Endpoint) *recorder.Trace {
	if e, ok := ep.(*Endpoint); ok {
		return e.Trace()
	}
	return nil
}

// Endpoints yields all connections, in whatever state, and listeners.
func (g *Engine) Endpoints() iter.Seq[stack.TransportEndpoint] {
	return func(yield func(stack.TransportEndpoint) bool) {
		for _, ep := range g.p.stack.RegisteredEndpoints() {
			if !yield(ep) {
				return
			}
		}
		for e := range g.p.all() {
			if !yield(e) {
				return
			}
		}
	}
}

// Waiting yields the keys of connections in TIME-WAIT whose endpoints are gone.
func (g *Engine) Waiting() iter.Seq[flow.Key] { return g.p.waits.keys() }

// TimeWaits is how many there are.
func (g *Engine) TimeWaits() int { return int(g.p.waits.n.Load()) }

// Taken tells whether a new connection from here cannot have the addresses of id.
func (g *Engine) Taken(id stack.TransportEndpointID) bool {
	k, ok := netstack.Key(&id)
	return ok && (g.p.connection(&id) != nil || g.p.waits.taken(&k, g.p.now()))
}

// Conn is an endpoint that is registered with the stack, as the limits see it.
func (*Engine) Conn(ep stack.TransportEndpoint) (limits.Conn, bool) {
	e, ok := ep.(*Endpoint)
	return e, ok
}

// ID is what the stack knows an endpoint by.
func (*Engine) ID(ep stack.TransportEndpoint) (stack.TransportEndpointID, bool) {
	e, ok := ep.(*Endpoint)
	if !ok {
		return stack.TransportEndpointID{}, false
	}
	return e.id(), true
}

// RoutesChanged says that addresses or routes of the stack have changed.
func (g *Engine) RoutesChanged() { g.p.RoutesChanged() }

// Cookies are what SYN cookies are made with.
func (g *Engine) Cookies() *syncookie.Cookies { return g.p.Cookies() }

// ShareCookies replaces them by those of another shard, before there is traffic.
func (g *Engine) ShareCookies(c *syncookie.Cookies) { g.p.ShareCookies(c) }

// Refused counts what was not believed.
func (g *Engine) Refused() transport.Refused { return g.p.Refused() }

// Tidy has nothing to do.
func (*Engine) Tidy() {}
