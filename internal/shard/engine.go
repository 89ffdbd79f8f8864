package shard

import (
	"iter"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/gvisortcp"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/tcp"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// An Engine is the TCP of a shard. Package transport has what a connection needs of
// it, this is what the poller, the stack and the limits need.
type Engine interface {
	// MakeStack calls f, which makes the stack, and tells why the stack's TCP is none
	// that this engine can use.
	MakeStack(f func()) error
	// NewProtocol is the stack's factory of its TCP.
	NewProtocol(*stack.Stack) stack.TransportProtocol
	// Options are settings besides those that every TCP has.
	Options() []tcpip.SettableTransportProtocolOption
	// FirstSend is the send buffer that a connection begins with, in bytes.
	FirstSend() int
	// Congestion is the congestion control where the settings leave it open.
	Congestion() string
	// Attach says who keeps the limits, before there is traffic.
	Attach(*limits.Account)

	// The following methods belong to the poller, in this order in each poll.

	// Receive handles a burst, and returns how many segments took the fast path. What
	// it does not take goes to Shard.slow.
	Receive([]link.Frame) (fast int)
	// FinishPoll is called when the goroutines that were woken have run, before the
	// flush.
	FinishPoll()
	// Resume is called behind the flush: connections go on that found the device full.
	Resume()
	// Stalled tells whether there is something for Resume to do. A poller that sleeps
	// must look again soon then.
	Stalled() bool

	// Of the slow path.

	// Dispatcher stands between the stack's IP layers and its demultiplexer.
	Dispatcher(stack.TransportDispatcher) stack.TransportDispatcher
	// WriteTCP sends a segment past the stack's IP layer, if that can be.
	WriteTCP(*stack.Route, *stack.NetworkHeaderParams, *stack.PacketBuffer) (sent bool, err tcpip.Error)
	// RoutesChanged says that addresses or routes of the stack have changed.
	RoutesChanged()

	// Of connections.

	Socket(v6, v6Only bool) (transport.Endpoint, error)
	// Key is the flow of an endpoint, false for one that is no connection.
	Key(transport.Endpoint) (flow.Key, bool)
	// Source is the local address of connections from local, which may be empty, to
	// remote, false where there is no way. From gives an endpoint that is about to
	// connect a local address, which others may have, too, to other ends.
	Source(local, remote tcpip.Address) (tcpip.Address, bool)
	From(ep transport.Endpoint, local netip.AddrPort) error
	// Established says that a program has a connection, whose segments take the fast
	// path from now on at the latest, and Closed that it is done with it.
	Established(flow.Key, transport.Endpoint, transport.User)
	Closed(flow.Key, transport.Endpoint)
	// Owns tells whether a flow is on the fast path, Flows how many programs have.
	Owns(*flow.Key) bool
	Flows() int
	// Conns yields their connections. It may lock each of them for a moment.
	Conns() iter.Seq2[transport.User, transport.Endpoint]
	// Trace is what records a connection, nil for none.
	Trace(transport.Endpoint) *recorder.Trace
	// PassOn is Shard.PassOn, and reports false where the engine cannot.
	PassOn(local netip.AddrPort, pass func(packet []byte)) bool

	// Of endpoints as the stack knows them.

	// Endpoints yields all connections, in whatever state, and listeners. Waiting has
	// the keys of those in TIME-WAIT that have no endpoint any more, and TimeWaits their
	// number.
	Endpoints() iter.Seq[stack.TransportEndpoint]
	Waiting() iter.Seq[flow.Key]
	TimeWaits() int
	// Taken tells whether a new connection from here cannot have the addresses of an ID.
	// It may take the place of one in TIME-WAIT.
	Taken(stack.TransportEndpointID) bool
	Conn(stack.TransportEndpoint) (limits.Conn, bool)
	ID(stack.TransportEndpoint) (stack.TransportEndpointID, bool)

	// Cookies and ShareCookies are limits.Shard's.
	Cookies() *syncookie.Cookies
	ShareCookies(*syncookie.Cookies)
	// Refused counts what was not believed.
	Refused() transport.Refused
	// Tidy forgets what has ended. One goroutine calls it now and then.
	Tidy()
}

// newEngine makes the TCP that the shard is to have.
func (s *Shard) newEngine(l limits.Limits) (Engine, error) {
	var record func(stack.TransportEndpointID, *recorder.Endpoint) *recorder.Trace
	if s.recorder != nil {
		record = s.openTrace
	}
	if s.tcp.Engine == "tpa" {
		return tcp.NewEngine(tcp.Config{
			Link: s.link, MAC: s.mac, RxRing: s.rxRing, Slow: s.slow, Record: record,
			Departing: func(k flow.Key) {
				if m := s.handover; m != nil {
					m.Departing(&k)
				}
			},
			Elsewhere: func(k *flow.Key) bool {
				if s.handover == nil {
					return false
				}
				_, elsewhere := s.handover.Owner(k)
				return elsewhere
			},
		}), nil
	}
	return gvisortcp.NewEngine(gvisortcp.Config{
		Link: s.link, MAC: s.mac, NIC: nicID, Slow: s.slow, Record: record, Now: s.clock.Nanos,
		NoCoalescing: s.tcp.NoCoalescing, Pinned: s.cpu >= 0, MaxConnections: l.Connections,
	})
}

// openTrace starts to record a connection, where the recorder has room.
func (s *Shard) openTrace(id stack.TransportEndpointID, ep *recorder.Endpoint) *recorder.Trace {
	local, remote := netstack.Ends(&id)
	return s.recorder.Open(s.clock, s.index, local, remote, ep)
}
