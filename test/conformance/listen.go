package conformance

import (
	"errors"
	"io"
	"net"
	"time"
)

func lacksKernel(t Transport) string {
	if t.ListenKernel == nil {
		return "a kernel with the same addresses"
	}
	return ""
}

var listenProbes = []Probe{
	{Name: "listen/port 0", Run: func(e *Env) {
		ln, err := e.Listen("tcp", net.JoinHostPort(e.T.Server4, "0"))
		e.Must(err)
		e.Note("address", ln.Addr(), ln.Addr().(*net.TCPAddr).Port > 0)
		noteIP(e, ln)
	}},
	{Name: "listen/no host", Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/no host, tcp4", Run: func(e *Env) {
		ln, err := e.Listen("tcp4", ":0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/no host, tcp6", Run: func(e *Env) {
		ln, err := e.Listen("tcp6", ":0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/0.0.0.0", Run: func(e *Env) {
		ln, err := e.Listen("tcp", "0.0.0.0:0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/0.0.0.0, tcp4", Run: func(e *Env) {
		ln, err := e.Listen("tcp4", "0.0.0.0:0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/0.0.0.0, tcp6", Run: func(e *Env) {
		_, err := e.Listen("tcp6", "0.0.0.0:0")
		e.Note("listen", err)
	}},
	{Name: "listen/::", Run: func(e *Env) {
		ln, err := e.Listen("tcp", "[::]:0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/::, tcp4", Run: func(e *Env) {
		_, err := e.Listen("tcp4", "[::]:0")
		e.Note("listen", err)
	}},
	{Name: "listen/IPv6 address", Run: func(e *Env) {
		ln, err := e.Listen("tcp", net.JoinHostPort(e.T.Server6, "0"))
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/IPv4 address over tcp6", Run: func(e *Env) {
		_, err := e.Listen("tcp6", net.JoinHostPort(e.T.Server4, "0"))
		e.Note("listen", err)
	}},
	{Name: "listen/IPv6 address over tcp4", Run: func(e *Env) {
		_, err := e.Listen("tcp4", net.JoinHostPort(e.T.Server6, "0"))
		e.Note("listen", err)
	}},
	{Name: "listen/IPv4 address in IPv6 notation", Run: func(e *Env) {
		ln, err := e.Listen("tcp", "[::ffff:"+e.T.Server4+"]:0")
		e.Must(err)
		e.Note("address", ln.Addr())
		noteIP(e, ln)
	}},
	{Name: "listen/address of another host", Run: func(e *Env) {
		_, err := e.Listen("tcp", "203.0.113.9:0")
		e.Note("listen", err)
	}},
	{Name: "listen/unknown network", Run: func(e *Env) {
		_, err := e.Listen("tcp9", ":0")
		e.Note("listen", err)
	}},
	{Name: "listen/empty network", Run: func(e *Env) {
		_, err := e.Listen("", ":0")
		e.Note("listen", err)
	}},
	{Name: "listen/no port", Run: func(e *Env) {
		_, err := e.Listen("tcp", e.T.Server4)
		e.Note("listen", err)
	}},
	{Name: "listen/empty address", Run: func(e *Env) {
		ln, err := e.Listen("tcp", "")
		if err != nil {
			e.Note("listen", err)
			return
		}
		e.Note("address", ln.Addr())
	}},
	{Name: "listen/unknown port", Run: func(e *Env) {
		_, err := e.Listen("tcp", ":no-such-service")
		e.Note("listen", err)
	}},
	{Name: "listen/port too great", Run: func(e *Env) {
		_, err := e.Listen("tcp", ":65536")
		e.Note("listen", err)
	}},
	{Name: "listen/port below zero", Run: func(e *Env) {
		_, err := e.Listen("tcp", ":-1")
		e.Note("listen", err)
	}},
	{Name: "listen/address in use", Run: func(e *Env) {
		ln := e.Listener()
		_, err := e.Listen("tcp", ln.Addr().String())
		e.Note("listen", err)
	}},
	{Name: "listen/address in use by the kernel", Lacks: lacksKernel, Run: func(e *Env) {
		ln, err := e.ListenKernel("tcp", net.JoinHostPort(e.T.Server4, "0"))
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err = e.Listen("tcp", ln.Addr().String())
		e.Note("listen", err)
		_, err = e.Listen("tcp", ":"+port)
		e.Note("listen on all addresses", err)
		ln.Close()
		_, err = e.Listen("tcp", ":"+port)
		e.Note("listen after close", err)
	}},
	{Name: "listen/address in use, for the kernel", Lacks: lacksKernel, Run: func(e *Env) {
		ln := e.Listener()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err := e.ListenKernel("tcp", ln.Addr().String())
		e.Note("kernel", err)
		_, err = e.ListenKernel("tcp", ":"+port)
		e.Note("kernel on all addresses", err)
		_, err = e.ListenKernel("tcp", net.JoinHostPort("127.0.0.1", port))
		e.Note("kernel on another address", err)
		ln.Close()
		_, err = e.ListenKernel("tcp", ln.Addr().String())
		e.Note("kernel after close", err)
	}},
	{Name: "listen/all addresses in use, for the kernel", Lacks: lacksKernel, Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, host := range []string{"", e.T.Server4, e.T.Server6, "127.0.0.1"} {
			_, err = e.ListenKernel("tcp", net.JoinHostPort(host, port))
			e.Note("kernel", err)
		}
	}},
	{Name: "listen/address in use, all addresses", Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err = e.Listen("tcp", ":"+port)
		e.Note("listen", err)
	}},
	{Name: "listen/one address beside all", Run: func(e *Env) {
		ln, err := e.Listen("tcp4", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err = e.Listen("tcp4", net.JoinHostPort(e.T.Server4, port))
		e.Note("listen", err)
	}},
	{Name: "listen/all addresses beside one", Run: func(e *Env) {
		ln := e.Listener()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err := e.Listen("tcp4", ":"+port)
		e.Note("listen", err)
	}},
	{Name: "listen/tcp4 beside tcp6", Run: func(e *Env) {
		ln, err := e.Listen("tcp6", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err = e.Listen("tcp4", ":"+port)
		e.Note("tcp4", err)
		_, err = e.Listen("tcp", ":"+port)
		e.Note("tcp", err)
	}},
	{Name: "listen/tcp4 beside both", Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		_, err = e.Listen("tcp4", ":"+port)
		e.Note("tcp4", err)
		_, err = e.Listen("tcp6", ":"+port)
		e.Note("tcp6", err)
	}},
	{Name: "listen/again after close", Run: func(e *Env) {
		ln := e.Listener()
		e.Must(ln.Close())
		_, err := e.Listen("tcp", ln.Addr().String())
		e.Note("listen", err)
	}},
	{Name: "listen/again with connections open", Run: func(e *Env) {
		ln := e.Listener()
		server, client := e.PairTo(ln, "tcp", ln.Addr().String())
		e.Must(ln.Close())
		again, err := e.Listen("tcp", ln.Addr().String())
		e.Note("listen", err)
		e.Must(err)
		e.PairTo(again, "tcp", again.Addr().String())
		e.Must(write(client, "hello"))
		e.Read("old connection", server, 10).Done()
	}},
	{Name: "listen/again after connections were closed", Run: func(e *Env) {
		ln := e.Listener()
		server, client := e.PairTo(ln, "tcp", ln.Addr().String())
		e.Must(server.Close()) // this side has TIME_WAIT
		e.Read("end", client, 10).Done()
		e.Must(client.Close())
		e.Arrive()
		e.Must(ln.Close())
		_, err := e.Listen("tcp", ln.Addr().String())
		e.Note("listen", err)
	}},
	{Name: "listen/both families", Run: func(e *Env) {
		ln, err := e.Listen("tcp", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, host := range []string{e.T.Server4, e.T.Server6} {
			server, client := e.PairTo(ln, "tcp", net.JoinHostPort(host, port))
			e.Note("server", server.LocalAddr(), server.RemoteAddr())
			e.Note("client", client.LocalAddr(), client.RemoteAddr())
			e.Note("lengths", len(server.LocalAddr().(*net.TCPAddr).IP), len(client.LocalAddr().(*net.TCPAddr).IP))
			e.Must(write(client, "hello"))
			e.Read("read", server, 10).Done()
			e.Must(tcp(client).CloseWrite())
			e.Read("end", server, 10).Done()
		}
	}},
	{Name: "listen/tcp4 only", Run: func(e *Env) {
		ln, err := e.Listen("tcp4", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		server, _ := e.PairTo(ln, "tcp", net.JoinHostPort(e.T.Server4, port))
		e.Note("server", server.LocalAddr(), server.RemoteAddr(), len(server.LocalAddr().(*net.TCPAddr).IP))
		_, err = e.Dial("tcp", net.JoinHostPort(e.T.Server6, port))
		e.Note("IPv6", err)
	}},
	{Name: "listen/tcp6 only", Run: func(e *Env) {
		ln, err := e.Listen("tcp6", ":0")
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		server, client := e.PairTo(ln, "tcp", net.JoinHostPort(e.T.Server6, port))
		e.Note("server", server.LocalAddr(), server.RemoteAddr())
		_, err = e.Dial("tcp", net.JoinHostPort(e.T.Server4, port))
		e.Note("IPv4", err)
		e.Reset(client)
		e.Arrive()
		e.Read("read", server, 10).Done()
	}},
	{Name: "listen/accept waits", Run: func(e *Env) {
		ln := e.Listener()
		a := accept(e, "accept", ln)
		a.Waits()
		_, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		a.Done()
	}},
	{Name: "listen/accept in order", Run: func(e *Env) {
		ln := e.Listener()
		var clients []net.Conn
		for range 5 {
			c, err := e.Dial("tcp", ln.Addr().String())
			e.Must(err)
			e.Arrive()
			clients = append(clients, c)
		}
		for i, c := range clients {
			server, err := ln.Accept()
			e.Must(err)
			e.Cleanup(func() { abort(server) })
			e.Note("in order", i, server.RemoteAddr().String() == c.LocalAddr().String())
		}
	}},
	{Name: "listen/accept after the peer closed", Run: func(e *Env) {
		ln := e.Listener()
		client, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(client.LocalAddr(), "C")
		e.Must(write(client, "hello"))
		e.Must(client.Close())
		e.Arrive()
		server, err := ln.Accept()
		e.Must(err)
		e.Note("addresses", server.LocalAddr(), server.RemoteAddr())
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
		e.Must(server.Close())
	}},
	{Name: "listen/accept after the peer reset", Run: func(e *Env) {
		ln := e.Listener()
		client, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(client.LocalAddr(), "C")
		e.Reset(client)
		e.Arrive()
		server, err := ln.Accept()
		e.Must(err)
		e.Note("addresses", server.LocalAddr(), server.RemoteAddr())
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
		e.Note("close", server.Close())
	}},
	{Name: "listen/close", Run: func(e *Env) {
		ln := e.Listener()
		e.Note("first", ln.Close())
		e.Note("second", ln.Close())
		e.Note("address", ln.Addr())
		accept(e, "accept", ln).Done()
	}},
	{Name: "listen/close while accepting", Run: func(e *Env) {
		ln := e.Listener()
		calls := []*Call{accept(e, "accept", ln), accept(e, "accept", ln), accept(e, "accept", ln)}
		for _, c := range calls {
			c.Waits()
		}
		e.Note("close", ln.Close())
		for _, c := range calls {
			c.Done()
		}
	}},
	{Name: "listen/close with connections waiting", Run: func(e *Env) {
		ln := e.Listener()
		client, err := e.Dial("tcp", ln.Addr().String())
		e.Must(err)
		e.NamePort(client.LocalAddr(), "C")
		e.Arrive()
		e.Must(ln.Close())
		accept(e, "accept", ln).Done()
		e.Read("client reads", client, 10).Done()
		e.Write("client writes", client, 10).Done()
	}},
	{Name: "listen/close leaves connections alone", Run: func(e *Env) {
		ln := e.Listener()
		server, client := e.PairTo(ln, "tcp", ln.Addr().String())
		e.Must(ln.Close())
		_, err := e.Dial("tcp", ln.Addr().String())
		e.Note("dial", err)
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
	}},
	{Name: "listen/many accept", Run: func(e *Env) {
		ln := e.Listener()
		const n = 20
		done := make(chan error)
		for range n {
			go func() {
				c, err := ln.Accept()
				if err == nil {
					_, err = io.Copy(io.Discard, c)
					c.Close()
				}
				done <- err
			}()
		}
		for range n {
			c, err := e.Dial("tcp", ln.Addr().String())
			e.Must(err)
			e.Must(write(c, "hello"))
			e.Must(c.Close())
		}
		var all error
		for range n {
			all = errors.Join(all, <-done)
		}
		e.Note("served", all)
	}},
	{Name: "listen/keep-alive options", Run: func(e *Env) {
		for _, lc := range []net.ListenConfig{
			{KeepAlive: -1},
			{KeepAlive: time.Minute},
			{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: time.Second, Count: 3}},
		} {
			ln, err := e.ListenConfig(lc, "tcp", net.JoinHostPort(e.T.Server4, "0"))
			e.Must(err)
			server, client := e.PairTo(ln, "tcp", ln.Addr().String())
			e.Must(write(client, "hello"))
			e.Read("read", server, 10).Done()
		}
	}},
}

func noteIP(e *Env, ln net.Listener) {
	a := ln.Addr().(*net.TCPAddr)
	e.Note("IP", len(a.IP), a.IP.IsUnspecified(), a.Zone == "")
}
