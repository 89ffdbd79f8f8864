package accel

import (
	"net"

	tpanet "github.com/gotpa/tpa/net"
)

// Serve accepts connections and runs handler for each, in the poller of the
// connection's shard, until ln is closed: it then returns Accept's error. What
// would wait for the connection lets the poller go on, which saves the wake-up of a
// goroutine for each request; all else that waits must go through Detach. See
// tpanet.Conn.Go for the rules, docs/programming.md for when it pays, and
// tpanet.Server for callbacks and for a graceful stop.
//
// Connections that the kernel accepted, and those of other listeners, have a
// goroutine each.
func Serve(ln net.Listener, handler func(net.Conn)) error {
	s := tpanet.Server{Handler: handler}
	return s.Serve(ln)
}

// Go runs handler with a connection as Serve does. It does not wait.
func Go(c net.Conn, handler func(net.Conn)) {
	if own, ok := c.(*tpanet.Conn); ok {
		own.Go(handler)
		return
	}
	go handler(c)
}

// Detach runs f in a goroutine and waits for it, while the poller goes on: a handler
// of Serve calls by it what waits for something else than its connection, or
// computes for long. Anywhere else it just calls f.
func Detach(f func()) { tpanet.Detach(f) }
