package conformance

import (
	"io"
	"net"
	"syscall"
	"time"
)

// options are all calls that change a connection.
var options = []struct {
	name string
	call func(tcpConn) error
}{
	{"SetNoDelay(true)", func(c tcpConn) error { return c.SetNoDelay(true) }},
	{"SetNoDelay(false)", func(c tcpConn) error { return c.SetNoDelay(false) }},
	{"SetLinger(-1)", func(c tcpConn) error { return c.SetLinger(-1) }},
	{"SetLinger(10)", func(c tcpConn) error { return c.SetLinger(10) }},
	{"SetLinger(0)", func(c tcpConn) error { return c.SetLinger(0) }},
	{"SetKeepAlive(true)", func(c tcpConn) error { return c.SetKeepAlive(true) }},
	{"SetKeepAlive(false)", func(c tcpConn) error { return c.SetKeepAlive(false) }},
	{"SetKeepAlivePeriod(30s)", func(c tcpConn) error { return c.SetKeepAlivePeriod(30 * time.Second) }},
	{"SetKeepAlivePeriod(1ms)", func(c tcpConn) error { return c.SetKeepAlivePeriod(time.Millisecond) }},
	{"SetKeepAlivePeriod(0)", func(c tcpConn) error { return c.SetKeepAlivePeriod(0) }},
	{"SetKeepAlivePeriod(-1)", func(c tcpConn) error { return c.SetKeepAlivePeriod(-1) }},
	{"SetKeepAlivePeriod(32767s)", func(c tcpConn) error { return c.SetKeepAlivePeriod(32767 * time.Second) }},
	{"SetKeepAlivePeriod(32768s)", func(c tcpConn) error { return c.SetKeepAlivePeriod(32768 * time.Second) }},
	{"SetKeepAliveConfig(off)", func(c tcpConn) error { return c.SetKeepAliveConfig(net.KeepAliveConfig{}) }},
	{"SetKeepAliveConfig(on)", func(c tcpConn) error { return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) }},
	{"SetKeepAliveConfig(leave)", func(c tcpConn) error {
		return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1})
	}},
	{"SetKeepAliveConfig(all)", func(c tcpConn) error {
		return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 10 * time.Second, Count: 127})
	}},
	{"SetKeepAliveConfig(count 128)", func(c tcpConn) error {
		return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Count: 128})
	}},
	{"SetKeepAliveConfig(interval 10h)", func(c tcpConn) error {
		return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Interval: 10 * time.Hour})
	}},
	{"SetReadBuffer(100000)", func(c tcpConn) error { return c.SetReadBuffer(100_000) }},
	{"SetReadBuffer(0)", func(c tcpConn) error { return c.SetReadBuffer(0) }},
	{"SetReadBuffer(-1)", func(c tcpConn) error { return c.SetReadBuffer(-1) }},
	{"SetReadBuffer(1<<30)", func(c tcpConn) error { return c.SetReadBuffer(1 << 30) }},
	{"SetWriteBuffer(100000)", func(c tcpConn) error { return c.SetWriteBuffer(100_000) }},
	{"SetWriteBuffer(0)", func(c tcpConn) error { return c.SetWriteBuffer(0) }},
	{"SetWriteBuffer(-1)", func(c tcpConn) error { return c.SetWriteBuffer(-1) }},
	{"SetWriteBuffer(1<<30)", func(c tcpConn) error { return c.SetWriteBuffer(1 << 30) }},
	{"SetDeadline", func(c tcpConn) error { return c.SetDeadline(time.Now().Add(time.Hour)) }},
	{"MultipathTCP", func(c tcpConn) error { _, err := c.MultipathTCP(); return err }},
}

var optionProbes = []Probe{
	{Name: "option/all, open", Run: func(e *Env) {
		_, client := e.Pair()
		for _, o := range options {
			e.Note(o.name, o.call(tcp(client)))
		}
	}},
	{Name: "option/all, accepted", Run: func(e *Env) {
		server, _ := e.Pair()
		for _, o := range options {
			e.Note(o.name, o.call(tcp(server)))
		}
	}},
	{Name: "option/all, closed", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		for _, o := range options {
			e.Note(o.name, o.call(tcp(client)))
		}
	}},
	{Name: "option/all, half closed", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		for _, o := range options {
			e.Note(o.name, o.call(tcp(client)))
		}
	}},
	{Name: "option/all, reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		for _, o := range options {
			e.Note(o.name, o.call(tcp(client)))
		}
		e.Read("read", client, 10).Done()
	}},
	{Name: "option/all, ended by both", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		e.Must(tcp(server).CloseWrite())
		e.Read("client reads", client, 10).Done()
		e.Read("server reads", server, 10).Done()
		e.Arrive()
		for _, o := range options {
			e.Note(o.name, o.call(tcp(client)))
		}
	}},
	{Name: "option/multipath", Run: func(e *Env) {
		server, client := e.Pair()
		for _, c := range []net.Conn{server, client} {
			on, err := tcp(c).MultipathTCP()
			e.Note("MultipathTCP", on, err)
		}
	}},
	{Name: "option/multipath after close", Differs: "Package net says that a closed connection uses Multipath TCP.", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		on, err := tcp(client).MultipathTCP()
		e.Note("MultipathTCP", on, err)
	}},
	{Name: "option/small buffers", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(server).SetReadBuffer(4096))
		e.Must(tcp(client).SetWriteBuffer(4096))
		const size = 200_000
		w := e.Write("write", client, size)
		w.Waits()
		n, err := io.CopyN(io.Discard, server, size)
		e.Note("read", n, err)
		w.Done()
	}},
	{Name: "option/great write buffer", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).SetWriteBuffer(1 << 20))
		e.Write("write", client, 300_000).Done()
		n, err := io.CopyN(io.Discard, server, 300_000)
		e.Note("read", n, err)
	}},
	{Name: "option/delay", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).SetNoDelay(false))
		for range 10 {
			e.Must(write(client, "x"))
		}
		b := make([]byte, 10)
		n, err := io.ReadFull(server, b)
		e.Note("read", n, string(b), err)
	}},
	{Name: "option/delay turned off sends", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).SetNoDelay(false))
		e.Must(write(client, "one"))
		e.Must(write(client, "two"))
		e.Must(tcp(client).SetNoDelay(true))
		b := make([]byte, 6)
		_, err := io.ReadFull(server, b)
		e.Note("read", string(b), err)
	}},
	{Name: "option/keep-alive leaves an idle connection open", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}))
		time.Sleep(2500 * time.Millisecond)
		e.Must(write(server, "hello"))
		e.Read("read", client, 10).Done()
	}},
	{Name: "option/interfaces", Run: func(e *Env) {
		server, client := e.Pair()
		for _, c := range []net.Conn{server, client} {
			_, tc := c.(tcpConn)
			_, sw := c.(io.StringWriter)
			e.Note("conn", tc, sw)
		}
		_, dl := e.Listener().(deadliner)
		e.Note("listener", dl)
	}},
	{Name: "option/file descriptor", Differs: "There is no file descriptor: Conn and Listener have neither SyscallConn nor File. A false descriptor would be worse.", Run: func(e *Env) {
		_, client := e.Pair()
		_, sc := client.(syscall.Conn)
		_, lsc := e.Listener().(syscall.Conn)
		e.Note("syscall.Conn", sc, lsc)
	}},
}
