package conformance

import (
	"cmp"
	"context"
	"net"
)

// Link-local addresses of IPv6, which mean something only with a zone. What is
// noted says whether an address has a zone; the names differ between hosts.

func lacksZone(t Transport) string {
	if t.ServerZone == "" || t.ClientZone == "" {
		return "link-local addresses"
	}
	return ""
}

// serverLocal is the address of the server host with a zone, "" for none, and a
// port.
func serverLocal(e *Env, zone, port string) string { return zoned(e.T.ServerLocal, zone, port) }

func zoned(ip, zone, port string) string {
	if zone != "" {
		ip += "%" + zone
	}
	return net.JoinHostPort(ip, port)
}

// listenZone listens on the server's link-local address.
func listenZone(e *Env) (ln net.Listener, port string) {
	// A listener of the kernel's that knows Multipath TCP forgets its zone.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := e.ListenConfig(lc, "tcp", serverLocal(e, e.T.ServerZone, "0"))
	e.Must(err)
	e.NamePort(ln.Addr(), "L")
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return ln, port
}

// from is a dialer with a local address.
func from(ip, zone string) net.Dialer {
	return net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip), Zone: zone}}
}

// unknownZones are zones in which there is no link-local address of anybody's.
var unknownZones = []string{"", "nosuch", "0", "424242", "424242x", "99999999999999999999", "lo"}

var zoneProbes = []Probe{
	{Name: "zone/of a connection", Lacks: lacksZone, Run: func(e *Env) {
		ln, port := listenZone(e)
		e.Note("listener", ln.Addr())
		server, client := e.PairTo(ln, "tcp", serverLocal(e, e.T.ClientZone, port))
		for _, c := range []net.Conn{server, client} {
			e.Note("addresses", c.LocalAddr(), c.RemoteAddr())
			e.Note("zones", c.LocalAddr().(*net.TCPAddr).Zone != "", c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Zone() != "")
		}
		e.Must(write(client, "hello"))
		e.Read("server", server, 10).Done()
		e.Must(write(server, "hello"))
		e.Read("client", client, 10).Done()
		e.Must(server.Close())
		e.Must(client.Close())
		e.Read("server after close", server, 1).Done()
		e.Read("client after close", client, 1).Done()
	}},
	{Name: "zone/to a listener on all addresses", Lacks: lacksZone, Run: func(e *Env) {
		for _, network := range []string{"tcp", "tcp6"} {
			ln, err := e.Listen(network, ":0")
			e.Must(err)
			e.NamePort(ln.Addr(), "L")
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			server, client := e.PairTo(ln, network, serverLocal(e, e.T.ClientZone, port))
			e.Note("server", server.LocalAddr(), server.RemoteAddr())
			e.Note("client", client.LocalAddr(), client.RemoteAddr())
			e.Must(write(client, "hello"))
			e.Must(tcp(client).CloseWrite())
			e.Read("data", server, 10).Done()
			e.Read("end", server, 10).Done()
		}
	}},
	{Name: "zone/unknown, dial", Lacks: lacksZone, Run: func(e *Env) {
		for _, zone := range unknownZones {
			_, err := e.Dial("tcp", serverLocal(e, zone, "80"))
			e.Note("dial to "+zone, err)
		}
	}},
	{Name: "zone/unknown, listen", Lacks: lacksZone, Run: func(e *Env) {
		for _, zone := range unknownZones {
			_, err := e.Listen("tcp", serverLocal(e, zone, "0"))
			e.Note("listen on "+zone, err)
		}
	}},
	{Name: "zone/unknown, dial from", Lacks: lacksZone, Run: func(e *Env) {
		_, port := listenZone(e)
		for _, zone := range unknownZones {
			_, err := e.DialWith(context.Background(), from(e.T.ClientLocal, zone), "tcp", serverLocal(e, e.T.ClientZone, port))
			e.Note("dial from "+zone, err)
		}
	}},
	{Name: "zone/of the own address serves for both", Lacks: lacksZone, Run: func(e *Env) {
		ln, port := listenZone(e)
		for _, zone := range unknownZones {
			c, err := e.DialWith(context.Background(), from(e.T.ClientLocal, e.T.ClientZone), "tcp", serverLocal(e, zone, port))
			e.Note("dial to "+zone, err)
			if err != nil {
				continue
			}
			e.Note("client", c.LocalAddr(), c.RemoteAddr())
			server, err := ln.Accept()
			e.Must(err)
			server.Close()
		}
	}},
	{Name: "zone/refused", Lacks: lacksZone, Run: func(e *Env) {
		ln, port := listenZone(e)
		e.Must(ln.Close())
		_, err := e.Dial("tcp", serverLocal(e, e.T.ClientZone, port))
		e.Note("dial", err)
	}},
	{Name: "zone/own address that is not ours", Lacks: lacksZone, Run: func(e *Env) {
		_, port := listenZone(e)
		_, err := e.Listen("tcp", zoned("fe80::77", e.T.ServerZone, "0"))
		e.Note("listen", err)
		_, err = e.DialWith(context.Background(), from("fe80::77", e.T.ClientZone), "tcp", serverLocal(e, e.T.ClientZone, port))
		e.Note("dial", err)
	}},
	{Name: "zone/from a global address", Lacks: lacksZone, Run: func(e *Env) {
		ln, port := listenZone(e)
		client, err := e.DialWith(context.Background(), from(e.T.Client6, ""), "tcp", serverLocal(e, e.T.ClientZone, port))
		e.Must(err)
		e.NamePort(client.LocalAddr(), "C")
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Note("client", client.LocalAddr(), client.RemoteAddr())
		e.Must(write(client, "hello"))
		e.Read("data", server, 10).Done()
	}},
	{Name: "zone/to a global address", Lacks: lacksZone, Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		client, err := e.DialWith(context.Background(), from(e.T.ClientLocal, e.T.ClientZone), "tcp", net.JoinHostPort(e.T.Server6, port))
		e.Must(err)
		e.NamePort(client.LocalAddr(), "C")
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Note("client", client.LocalAddr(), client.RemoteAddr())
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
		e.Must(write(client, "hello"))
		e.Read("data", server, 10).Done()
	}},
	{Name: "zone/of a global address does not matter", Lacks: lacksZone, Run: func(e *Env) {
		for _, zone := range []string{"nosuch", e.T.ServerZone, "424242"} {
			ln, err := e.Listen("tcp", zoned(e.T.Server6, zone, "0"))
			e.Must(err)
			e.NamePort(ln.Addr(), "L")
			e.Note("listener", ln.Addr())
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			server, client := e.PairTo(ln, "tcp", zoned(e.T.Server6, zone, port))
			e.Note("server", server.LocalAddr(), server.RemoteAddr())
			e.Note("client", client.LocalAddr(), client.RemoteAddr())
		}
		ln, err := e.Listen("tcp", zoned("::", "nosuch", "0"))
		e.Note("listen on all", ln != nil, err)
	}},
	{Name: "zone/address in use", Lacks: lacksZone, Run: func(e *Env) {
		_, port := listenZone(e)
		_, err := e.Listen("tcp", serverLocal(e, e.T.ServerZone, port))
		e.Note("again", err)
		_, err = e.Listen("tcp", ":"+port)
		e.Note("all addresses", err)
		_, err = e.Listen("tcp4", ":"+port)
		e.Note("IPv4", err)
		_, err = e.Listen("tcp", net.JoinHostPort(e.T.Server6, port))
		e.Note("another address", err)
	}},
	{Name: "zone/address in use by the kernel and for it", Lacks: func(t Transport) string { return cmp.Or(lacksZone(t), lacksKernel(t)) }, Run: func(e *Env) {
		// The kernel's zone for the interface may be another name: try all addresses.
		kernel, err := e.ListenKernel("tcp", ":0")
		e.Must(err)
		e.NamePort(kernel.Addr(), "K")
		_, port, _ := net.SplitHostPort(kernel.Addr().String())
		_, err = e.Listen("tcp", serverLocal(e, e.T.ServerZone, port))
		e.Note("ours", err)
		_, port = listenZone(e)
		_, err = e.ListenKernel("tcp", ":"+port)
		e.Note("kernel", err)
	}},
	{Name: "zone/over tcp4", Lacks: lacksZone, Run: func(e *Env) {
		_, err := e.Dial("tcp4", serverLocal(e, e.T.ClientZone, "80"))
		e.Note("dial", err)
		_, err = e.Listen("tcp4", serverLocal(e, e.T.ServerZone, "0"))
		e.Note("listen", err)
	}},
	{Name: "zone/own host", Lacks: func(t Transport) string { return cmp.Or(lacksZone(t), lacksSelf(t)) }, Run: func(e *Env) {
		ln, port := listenZone(e)
		c, err := e.DialSelf("tcp", serverLocal(e, e.T.ServerZone, port))
		e.Must(err)
		e.NamePort(c.LocalAddr(), "C")
		e.Note("client", c.LocalAddr(), c.RemoteAddr())
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
		e.Must(write(c, "hello"))
		e.Read("read", server, 10).Done()
		e.Must(ln.Close())
		_, err = e.DialSelf("tcp", serverLocal(e, e.T.ServerZone, port))
		e.Note("refused", err)
		for _, zone := range unknownZones {
			_, err = e.DialSelf("tcp", serverLocal(e, zone, port))
			e.Note("to "+zone, err)
		}
	}},
	{Name: "zone/multicast", Lacks: lacksZone, Run: func(e *Env) {
		for _, ip := range []string{zoned("ff02::1", e.T.ClientZone, "80"), "[ff0e::1]:80", "224.0.0.1:80", "255.255.255.255:80"} {
			_, err := e.Dial("tcp", ip)
			e.Note("dial", err)
		}
		for _, ip := range []string{zoned("ff02::1", e.T.ServerZone, "0"), "[ff0e::1]:0"} {
			_, err := e.Listen("tcp", ip)
			e.Note("listen", err)
		}
	}},
}
