package transport

import (
	"context"
	"net"
	"time"
)

// ListenOptions are what a listener needs besides its address.
type ListenOptions struct {
	// Backlog is how many established connections may wait for Accept on each
	// shard, 1 to 65535. Default: DefaultBacklog.
	Backlog int
	// KeepAlive is the keep-alive of accepted connections. The zero value turns it
	// off; package net's default is Enable alone.
	KeepAlive net.KeepAliveConfig
}

// DefaultBacklog is how many connections wait for Accept on each shard unless
// ListenOptions says otherwise: the limit that Linux has by default.
const DefaultBacklog = 4096

// DialOptions are what a dial needs besides addresses.
type DialOptions struct {
	// KeepAlive is the keep-alive of the connection. The zero value turns it off;
	// package net's default is Enable alone.
	KeepAlive net.KeepAliveConfig
	// Deadline ends the dial, as that of its context would, which takes more memory. The
	// zero time is none.
	Deadline time.Time
}

// Dial and Listen are how package accel makes a *tpanet.Conn and a
// *tpanet.Listener. They are variables, which that package sets when it is loaded,
// because its exported functions must not show the types of this one.
var (
	// Dial connects to raddr from laddr, which may be nil, on one shard. network is
	// "tcp", "tcp4" or "tcp6". Errors are those of net.Dialer.
	Dial func(ctx context.Context, stack Stack, laddr, raddr *net.TCPAddr, network string, o DialOptions) (net.Conn, error)
	// Listen listens on laddr on every stack, of which there is at least one: at the
	// same port on all of them, which is chosen when laddr's is 0. laddr may be nil.
	// network is "tcp", which on no or an unspecified address serves IPv4 and IPv6,
	// "tcp4" or "tcp6". Errors are those of package net.
	Listen func(stacks []Stack, laddr *net.TCPAddr, network string, o ListenOptions) (net.Listener, error)
	// Pending is how many connections a listener made by Listen has that nobody has
	// accepted, those in their handshake among them, as far as its TCP tells.
	Pending func(net.Listener) int
)
