package conformance

import (
	"context"
	"io"
	"net"
	"time"
)

// What programs see when the other side cannot keep up, or is gone.

func lacksBacklog(t Transport) string {
	if t.ListenBacklog == nil {
		return "a way to choose the backlog"
	}
	return ""
}

func lacksMortal(t Transport) string {
	if t.Mortal == nil {
		return "an address that can vanish"
	}
	return ""
}

// listenBacklog listens with room for n connections.
func listenBacklog(e *Env, n int) net.Listener {
	ln, err := e.closing(e.T.ListenBacklog(context.Background(), n, "tcp", net.JoinHostPort(e.T.Server4, "0")))
	e.Must(err)
	e.NamePort(ln.Addr(), "L")
	return ln
}

// mortalPair connects to an address that vanish makes vanish.
func mortalPair(e *Env, d net.Dialer) (server, client net.Conn, vanish func()) {
	ip, vanish, reborn := e.T.Mortal()
	e.Cleanup(reborn)
	e.mortal = ip
	ln, err := e.Listen("tcp", net.JoinHostPort(ip, "0"))
	e.Must(err)
	e.NamePort(ln.Addr(), "L")
	client, err = e.DialWith(context.Background(), d, "tcp", ln.Addr().String())
	e.Must(err)
	e.NamePort(client.LocalAddr(), "C")
	server, err = ln.Accept()
	e.Must(err)
	e.Cleanup(func() { abort(server) })
	return server, client, vanish
}

// quickKeepAlive finds out within about two seconds that nobody answers.
var quickKeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}

var lossProbes = []Probe{
	{Name: "loss/backlog full", Lacks: lacksBacklog, Run: func(e *Env) {
		const room = 3
		ln := listenBacklog(e, room)
		var clients []net.Conn
		for range room {
			c, err := e.Dial("tcp", ln.Addr().String())
			e.Must(err)
			clients = append(clients, c)
		}
		e.Arrive()
		for range 2 {
			_, err := e.DialWith(context.Background(), net.Dialer{Timeout: 150 * time.Millisecond}, "tcp", ln.Addr().String())
			e.Note("one more", text(err))
			noteTimeout(e, err)
		}
		for _, c := range clients {
			e.Must(write(c, "hello"))
		}
		more := e.Go("one that waits", func() []any {
			c, err := e.Dial("tcp", ln.Addr().String())
			if err == nil {
				err = write(c, "late")
			}
			return []any{err}
		})
		more.Waits()
		for range room {
			server, err := ln.Accept()
			e.Must(err)
			e.Cleanup(func() { abort(server) })
			e.Read("read", server, 10).Done()
		}
		more.Done()
		server, err := ln.Accept()
		e.Must(err)
		defer server.Close()
		e.Read("read", server, 10).Done()
	}},
	{Name: "loss/backlog full, all at once", Lacks: lacksBacklog, Run: func(e *Env) {
		const room, many = 4, 24
		ln := listenBacklog(e, room)
		results := make(chan error, many)
		for range many {
			go func() {
				c, err := e.Dial("tcp", ln.Addr().String())
				if err == nil {
					err = write(c, "hello") // who has sent something is let in later
				}
				if err == nil {
					_, err = io.ReadFull(c, make([]byte, 5))
				}
				results <- err
			}()
		}
		e.Go("accepted", func() []any {
			for i := range many {
				c, err := ln.Accept()
				if err != nil {
					return []any{i, err}
				}
				e.Cleanup(func() { abort(c) })
				go io.Copy(c, c)
			}
			return []any{many}
		}).Done()
		for range many {
			e.Note("served", <-results)
		}
	}},
	{Name: "loss/peer vanishes, read", Lacks: lacksMortal, Run: func(e *Env) {
		_, client, vanish := mortalPair(e, net.Dialer{})
		e.Must(tcp(client).SetKeepAliveConfig(quickKeepAlive))
		read := e.Read("read", client, 10)
		vanish()
		read.Waits()
		read.Done()
		e.Read("read again", client, 10).Done()
		e.Write("write", client, 10).Done()
		e.Note("half", tcp(client).CloseWrite())
		e.Note("addresses", client.LocalAddr(), client.RemoteAddr())
		e.Must(client.Close())
		e.Read("read after close", client, 10).Done()
	}},
	{Name: "loss/peer vanishes, copy", Lacks: lacksMortal, Run: func(e *Env) {
		_, client, vanish := mortalPair(e, net.Dialer{KeepAliveConfig: quickKeepAlive})
		vanish()
		_, err := io.Copy(io.Discard, client)
		e.Note("copy", err)
		_, err = io.Copy(client, client)
		e.Note("copy again", err)
	}},
	{Name: "loss/peer vanishes, dial", Lacks: lacksMortal, Run: func(e *Env) {
		_, client, vanish := mortalPair(e, net.Dialer{})
		vanish()
		_, err := e.DialWith(context.Background(), net.Dialer{Timeout: 100 * time.Millisecond}, "tcp", client.RemoteAddr().String())
		e.Note("dial", text(err))
		noteTimeout(e, err)
		e.Write("write", client, 10).Done() // nobody knows yet
		e.Must(client.SetReadDeadline(time.Now().Add(soon)))
		e.Read("read", client, 10).Done()
	}},
}
