package shard

import (
	"iter"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/slowpath"
	"github.com/gotpa/tpa/internal/syncookie"
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

	// The following methods belong to the poller, in this order in a poll that found
	// something; one that found nothing calls Resume alone.

	// Receive handles a burst, and returns how many segments took the fast path. What
	// it does not take goes to slowpath.Path.Take.
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

	slowpath.TCP
	// RoutesChanged says that addresses or routes of the stack have changed.
	RoutesChanged()

	// Of connections.

	Socket(v6, v6Only bool) (transport.Endpoint, error)
	// Key is the flow of an endpoint, false for one that is no connection.
	Key(transport.Endpoint) (flow.Key, bool)
	// Source is the local address of connections from local, which may be empty, to
	// remote, false where there is no route. From gives an endpoint that is about to
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
	// Conns yields their connections. It takes no lock.
	Conns() iter.Seq2[transport.User, transport.Endpoint]
	// Trace is what records a connection, nil for none.
	Trace(transport.Endpoint) *recorder.Trace
	// PassOn is Shard.PassOn.
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
