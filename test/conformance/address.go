package conformance

import (
	"net"
)

var addressProbes = []Probe{
	{Name: "address/of a connection", Run: func(e *Env) {
		server, client := e.Pair()
		for _, c := range []net.Conn{server, client} {
			e.Note("local", c.LocalAddr())
			e.Note("remote", c.RemoteAddr())
			e.Note("lengths", len(c.LocalAddr().(*net.TCPAddr).IP), len(c.RemoteAddr().(*net.TCPAddr).IP))
		}
		e.Note("agree", server.LocalAddr().String() == client.RemoteAddr().String(), server.RemoteAddr().String() == client.LocalAddr().String())
	}},
	{Name: "address/of a connection over tcp4", Run: func(e *Env) {
		ln, err := e.Listen("tcp4", net.JoinHostPort(e.T.Server4, "0"))
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		server, client := e.PairTo(ln, "tcp4", ln.Addr().String())
		for _, c := range []net.Conn{server, client} {
			e.Note("addresses", c.LocalAddr(), c.RemoteAddr())
		}
		e.Must(server.Close())
		e.Must(client.Close())
		e.Read("server", server, 1).Done()
		e.Read("client", client, 1).Done()
	}},
	{Name: "address/of a connection over tcp6", Run: func(e *Env) {
		ln, err := e.Listen("tcp6", net.JoinHostPort(e.T.Server6, "0"))
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		server, client := e.PairTo(ln, "tcp6", ln.Addr().String())
		for _, c := range []net.Conn{server, client} {
			e.Note("addresses", c.LocalAddr(), c.RemoteAddr(), len(c.LocalAddr().(*net.TCPAddr).IP))
		}
		e.Must(server.Close())
		e.Must(client.Close())
		e.Read("server", server, 1).Done()
		e.Read("client", client, 1).Done()
	}},
	{Name: "address/after close", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(server.Close())
		e.Must(client.Close())
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
		e.Note("client", client.LocalAddr(), client.RemoteAddr())
	}},
	{Name: "address/after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(client)
		e.Arrive()
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
	}},
	{Name: "address/the same each time", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Note("local", server.LocalAddr() == server.LocalAddr())
		e.Note("remote", server.RemoteAddr() == server.RemoteAddr())
		ln := e.Listener()
		e.Note("listener", ln.Addr() == ln.Addr())
	}},
	{Name: "address/as netip.AddrPort", Run: func(e *Env) {
		server, client := e.Pair()
		for _, c := range []net.Conn{server, client} {
			a := c.LocalAddr().(*net.TCPAddr).AddrPort()
			e.Note("local", a.IsValid(), a.Addr().Is4(), a.Addr().Is4In6())
		}
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		both, _ := e.PairTo(ln, "tcp", net.JoinHostPort(e.T.Server4, port))
		a := both.RemoteAddr().(*net.TCPAddr).AddrPort()
		e.Note("both families", a.IsValid(), a.Addr().Is4(), a.Addr().Is4In6())
	}},
}
