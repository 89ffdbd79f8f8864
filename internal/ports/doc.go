// Package ports reserves TCP ports with the kernel for another stack on the same
// addresses.
//
// A reserved port is held by a socket that is bound and neither listens nor
// connects. The kernel then gives the port to nobody else, refuses to bind it
// with EADDRINUSE, and leaves it out when it picks ports for connections. The
// other way round, reserving a port that a kernel socket listens on fails with
// EADDRINUSE. Segments that reach the kernel all the same are answered with a
// reset: that is what peers hear once the process that held the port is dead,
// and its port with it.
//
// Connections that the kernel has had on the port before do not stand in the way,
// just as they do not when a server of package net is restarted: Connections
// lists them.
package ports

import "net/netip"

// A Connection is a TCP connection that the kernel has.
type Connection struct{ Local, Remote netip.AddrPort }
