package conformance

import (
	"context"
	"net"
	"strconv"
	"time"
)

func lacksIPv6(t Transport) string {
	if t.Server6 == "" {
		return "IPv6"
	}
	return ""
}

func lacksBlackhole(t Transport) string {
	if t.Blackhole == "" {
		return "an address that swallows everything"
	}
	return ""
}

func lacksSelf(t Transport) string {
	if t.DialSelf == nil {
		return "loopback addresses of its own"
	}
	return ""
}

var dialProbes = []Probe{
	{Name: "dial/connects", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("client", client.LocalAddr(), client.RemoteAddr())
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
	}},
	{Name: "dial/before accept", Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.Dial("tcp", ln.Addr().String())
		e.Note("dial", c != nil, err)
		e.Write("write", c, 10).Done()
	}},
	{Name: "dial/refused", Run: func(e *Env) {
		_, err := e.Dial("tcp", e.Refused(e.T.Server4))
		e.Note("dial", err)
	}},
	{Name: "dial/refused, tcp4", Run: func(e *Env) {
		_, err := e.Dial("tcp4", e.Refused(e.T.Server4))
		e.Note("dial", err)
	}},
	{Name: "dial/refused, tcp6", Lacks: lacksIPv6, Run: func(e *Env) {
		_, err := e.Dial("tcp6", e.Refused(e.T.Server6))
		e.Note("dial", err)
	}},
	{Name: "dial/refused, from an address", Run: func(e *Env) {
		_, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(e.T.Client4)}}, "tcp", e.Refused(e.T.Server4))
		e.Note("dial", err)
	}},
	{Name: "dial/unrouted", Lacks: func(t Transport) string {
		if t.Unrouted == "" {
			return "an address without a route"
		}
		return ""
	}, Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Unrouted, "80"))
		e.Note("dial", err)
	}},
	{Name: "dial/host that does not answer ARP or ND", Lacks: func(t Transport) string {
		if t.Silent == "" {
			return "a network of its own"
		}
		return ""
	}, Run: func(e *Env) {
		var dials []*Call
		for _, addr := range []string{net.JoinHostPort(e.T.Silent, "80"), net.JoinHostPort(e.T.Silent6, "80")} {
			dials = append(dials, e.Go("dial", func() []any {
				_, err := e.Dial("tcp", addr)
				return []any{err}
			}))
		}
		for _, d := range dials {
			d.Done()
		}
	}},
	{Name: "dial/context cancelled before", Run: func(e *Env) {
		ln := e.Listener()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := e.DialWith(ctx, net.Dialer{}, "tcp", ln.Addr().String())
		e.Note("dial", err)
	}},
	{Name: "dial/context cancelled while waiting", Lacks: lacksBlackhole, Run: func(e *Env) {
		ctx, cancel := context.WithCancel(context.Background())
		d := e.Go("dial", func() []any {
			_, err := e.DialWith(ctx, net.Dialer{}, "tcp", net.JoinHostPort(e.T.Blackhole, "80"))
			return []any{err}
		})
		d.Waits()
		cancel()
		d.Done()
	}},
	{Name: "dial/context cancelled after", Run: func(e *Env) {
		ln := e.Listener()
		ctx, cancel := context.WithCancel(context.Background())
		client, err := e.DialWith(ctx, net.Dialer{}, "tcp", ln.Addr().String())
		e.Must(err)
		cancel()
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
	}},
	{Name: "dial/context with a deadline in the past", Run: func(e *Env) {
		ln := e.Listener()
		ctx, cancel := context.WithDeadline(context.Background(), past)
		defer cancel()
		_, err := e.DialWith(ctx, net.Dialer{}, "tcp", ln.Addr().String())
		e.Note("dial", text(err))
		noteTimeout(e, err)
	}},
	{Name: "dial/context with a deadline that passes", Lacks: lacksBlackhole, Run: func(e *Env) {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_, err := e.DialWith(ctx, net.Dialer{}, "tcp", net.JoinHostPort(e.T.Blackhole, "80"))
		e.Note("dial", text(err))
		noteTimeout(e, err)
	}},
	{Name: "dial/timeout", Lacks: lacksBlackhole, Run: func(e *Env) {
		start := time.Now()
		_, err := e.DialWith(context.Background(), net.Dialer{Timeout: soon}, "tcp", net.JoinHostPort(e.T.Blackhole, "80"))
		e.Note("dial", text(err))
		noteTimeout(e, err)
		e.Note("waited", time.Since(start) >= soon, time.Since(start) < testTimeout)
	}},
	{Name: "dial/timeout not reached", Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.DialWith(context.Background(), net.Dialer{Timeout: time.Minute}, "tcp", ln.Addr().String())
		e.Note("dial", c != nil, err)
		e.Read("read", c, 10).Waits()
	}},
	{Name: "dial/deadline in the past", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.DialWith(context.Background(), net.Dialer{Deadline: past}, "tcp", ln.Addr().String())
		e.Note("dial", text(err))
		noteTimeout(e, err)
	}},
	{Name: "dial/timeout below zero", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.DialWith(context.Background(), net.Dialer{Timeout: -1}, "tcp", ln.Addr().String())
		e.Note("dial", text(err))
		noteTimeout(e, err)
	}},
	{Name: "dial/from an address", Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(e.T.Client4)}}, "tcp", ln.Addr().String())
		e.Must(err)
		e.Note("local", c.LocalAddr())
	}},
	{Name: "dial/from a port", Run: func(e *Env) {
		ln := e.Listener()
		free := freePort(e)
		c, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.TCPAddr{Port: free}}, "tcp", ln.Addr().String())
		e.Must(err)
		e.Note("local", c.LocalAddr().(*net.TCPAddr).Port == free)
	}},
	{Name: "dial/from a port in use", Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(c.LocalAddr(), "C")
		_, err = e.DialWith(context.Background(), net.Dialer{LocalAddr: c.LocalAddr()}, "tcp", ln.Addr().String())
		e.Note("dial", err)
	}},
	{Name: "dial/from an address that is not ours", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9)}}, "tcp", ln.Addr().String())
		e.Note("dial", err)
	}},
	{Name: "dial/from an address of the other family", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(e.T.Client6)}}, "tcp", ln.Addr().String())
		e.Note("dial", err)
	}},
	{Name: "dial/from an address of another network", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.DialWith(context.Background(), net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(e.T.Client4)}}, "tcp", ln.Addr().String())
		e.Note("dial", err)
	}},
	{Name: "dial/unknown network", Run: func(e *Env) {
		_, err := e.Dial("tcp9", net.JoinHostPort(e.T.Server4, "80"))
		e.Note("dial", err)
	}},
	{Name: "dial/empty network", Run: func(e *Env) {
		_, err := e.Dial("", net.JoinHostPort(e.T.Server4, "80"))
		e.Note("dial", err)
	}},
	{Name: "dial/no port", Run: func(e *Env) {
		_, err := e.Dial("tcp", e.T.Server4)
		e.Note("dial", err)
	}},
	{Name: "dial/unknown port", Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Server4, "no-such-service"))
		e.Note("dial", err)
	}},
	{Name: "dial/port too great", Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Server4, "65536"))
		e.Note("dial", err)
	}},
	{Name: "dial/port below zero", Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Server4, "-1"))
		e.Note("dial", err)
	}},
	{Name: "dial/port 0", Run: func(e *Env) {
		_, err := e.Dial("tcp", net.JoinHostPort(e.T.Server4, "0"))
		e.Note("dial", err)
	}},
	{Name: "dial/empty address", Run: func(e *Env) {
		_, err := e.Dial("tcp", "")
		e.Note("dial", err)
	}},
	{Name: "dial/too many colons", Run: func(e *Env) {
		_, err := e.Dial("tcp", e.T.Server6+":80")
		e.Note("dial", err)
	}},
	{Name: "dial/IPv6 address over tcp4", Run: func(e *Env) {
		_, err := e.Dial("tcp4", net.JoinHostPort(e.T.Server6, "80"))
		e.Note("dial", err)
	}},
	{Name: "dial/IPv4 address over tcp6", Run: func(e *Env) {
		_, err := e.Dial("tcp6", net.JoinHostPort(e.T.Server4, "80"))
		e.Note("dial", err)
	}},
	{Name: "dial/IPv4 address in IPv6 notation", Run: func(e *Env) {
		ln := e.Listener()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		c, err := e.Dial("tcp", "[::ffff:"+e.T.Server4+"]:"+port)
		e.Must(err)
		e.Note("addresses", c.LocalAddr(), c.RemoteAddr(), len(c.RemoteAddr().(*net.TCPAddr).IP))
	}},
	{Name: "dial/own host", Lacks: lacksSelf, Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.DialSelf("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(c.LocalAddr(), "C")
		e.Note("client", c.LocalAddr(), c.RemoteAddr())
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
		e.Must(write(c, "hello"))
		e.Read("read", server, 10).Done()
		e.Must(tcp(server).CloseWrite())
		e.Read("read at the end", c, 10).Done()
	}},
	{Name: "dial/own host, by the address listened on", Lacks: lacksSelf, Run: func(e *Env) {
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			ln, err := e.Listen(network, ":0")
			e.Must(err)
			c, err := e.DialSelf(network, ln.Addr().String())
			e.Must(err)
			server, err := ln.Accept()
			e.Must(err)
			e.Must(write(server, "hello"))
			e.Read("read over "+network, c, 10).Done()
			server.Close()
		}
	}},
	{Name: "dial/own host, localhost", Lacks: lacksSelf, Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, host := range []string{"", "127.0.0.1", "::1"} {
			c, err := e.DialSelf("tcp", net.JoinHostPort(host, port))
			e.Must(err)
			server, err := ln.Accept()
			e.Must(err)
			e.Must(write(server, "hello"))
			e.Read("read from "+host, c, 10).Done()
			server.Close()
		}
	}},
	{Name: "dial/own host, refused", Lacks: lacksSelf, Run: func(e *Env) {
		refused := e.Refused(e.T.Server4)
		_, port, _ := net.SplitHostPort(refused)
		_, err := e.DialSelf("tcp", refused)
		e.Note("dial", err)
		for _, host := range []string{"", "127.0.0.1", "::1"} {
			_, err = e.DialSelf("tcp", net.JoinHostPort(host, port))
			e.Note("dial "+host, err)
		}
	}},
	{Name: "dial/own host, served by the kernel", Lacks: lacksSelf, Run: func(e *Env) {
		ln, err := e.ListenKernel("tcp", ":0")
		e.Must(err)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, host := range []string{e.T.Server4, e.T.Server6, "127.0.0.1"} {
			c, err := e.DialSelf("tcp", net.JoinHostPort(host, port))
			e.Must(err)
			server, err := ln.Accept()
			e.Must(err)
			e.Must(write(server, "hello"))
			e.Read("read", c, 10).Done()
			server.Close()
		}
	}},
	{Name: "dial/many", Run: func(e *Env) {
		ln := e.Listener()
		const n = 50
		accepts := e.Go("accepted", func() []any {
			for i := range n {
				c, err := ln.Accept()
				if err != nil {
					return []any{i, err}
				}
				e.Cleanup(func() { abort(c) })
			}
			return []any{n}
		})
		ports := map[string]bool{}
		for range n {
			c, err := e.Dial("tcp", ln.Addr().String())
			e.Must(err)
			ports[c.LocalAddr().String()] = true
		}
		accepts.Done()
		e.Note("different addresses", len(ports))
	}},
	{Name: "dial/listener closed meanwhile", Run: func(e *Env) {
		ln := e.Listener()
		c, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(c.LocalAddr(), "C")
		e.Arrive()
		e.Must(ln.Close())
		e.Read("read", c, 10).Done()
	}},
}

// text is the words of an error that package net reports as one of two kinds,
// depending on which of its timers is first.
func text(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// noteTimeout notes what both kinds have in common.
func noteTimeout(e *Env, err error) {
	op, ok := err.(*net.OpError)
	if !ok {
		e.Note("no OpError", types(err))
		return
	}
	e.Note("OpError", op.Op, op.Net, e.address(op.Source), e.address(op.Addr), op.Timeout(), op.Temporary())
}

// freePort returns a port that nobody uses on the client host.
func freePort(e *Env) int {
	ln := e.Listener()
	c, err := e.Dial("tcp", ln.Addr().String())
	e.Must(err)
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	abort(c)
	n, err := strconv.Atoi(port)
	e.Must(err)
	return n
}
