package conformance

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

var closeProbes = []Probe{
	{Name: "close/once", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("close", client.Close())
	}},
	{Name: "close/twice", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("first", client.Close())
		e.Note("second", client.Close())
		e.Note("third", client.Close())
		e.Note("other side", server.Close())
	}},
	{Name: "close/by many", Run: func(e *Env) {
		_, client := e.Pair()
		var good, bad atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if client.Close() == nil {
					good.Add(1)
				} else {
					bad.Add(1)
				}
			})
		}
		wg.Wait()
		e.Note("closes", good.Load(), bad.Load())
	}},
	{Name: "close/after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		e.Note("close", client.Close())
		e.Note("again", client.Close())
	}},
	{Name: "close/with data unread", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Arrive()
		e.Note("close", server.Close())
		e.Read("peer reads", client, 10).Done()
	}},
	{Name: "close/with data coming later", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(server.Close())
		e.Must(write(client, "hello"))
		e.Arrive()
		e.Read("peer reads", client, 10).Done()
	}},
	{Name: "close/with data unsent", Run: func(e *Env) {
		server, client := e.Pair()
		filled := e.Fill(client)
		c := e.Go("close", func() []any { return []any{client.Close()} })
		c.Done()
		n, err := io.Copy(io.Discard, server)
		e.Note("read everything", n == filled, err)
	}},
	{Name: "close/half by the client", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "question"))
		e.Note("CloseWrite", tcp(client).CloseWrite())
		e.Read("question", server, 100).Done()
		e.Read("end", server, 100).Done()
		e.Must(write(server, "answer"))
		e.Read("answer", client, 100).Done()
		e.Must(server.Close())
		e.Read("end", client, 100).Done()
	}},
	{Name: "close/half by the server", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("CloseWrite", tcp(server).CloseWrite())
		e.Read("end", client, 100).Done()
		e.Must(write(client, "more"))
		e.Read("more", server, 100).Done()
	}},
	{Name: "close/both halves", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("client", tcp(client).CloseWrite())
		e.Note("server", tcp(server).CloseWrite())
		e.Read("client reads", client, 100).Done()
		e.Read("server reads", server, 100).Done()
		e.Note("client", client.Close())
		e.Note("server", server.Close())
	}},
	{Name: "close/CloseWrite twice", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("first", tcp(client).CloseWrite())
		e.Note("second", tcp(client).CloseWrite())
		e.Note("close", client.Close())
	}},
	{Name: "close/CloseRead twice", Run: func(e *Env) {
		_, client := e.Pair()
		e.Note("first", tcp(client).CloseRead())
		e.Note("second", tcp(client).CloseRead())
		e.Note("close", client.Close())
	}},
	{Name: "close/CloseRead and CloseWrite", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Note("CloseWrite", tcp(client).CloseWrite())
		e.Read("peer reads", server, 10).Done()
		e.Note("close", client.Close())
	}},
	{Name: "close/halves after close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Note("CloseWrite", tcp(client).CloseWrite())
	}},
	{Name: "close/halves after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Note("CloseWrite", tcp(client).CloseWrite())
		e.Read("read", client, 10).Done()
	}},
	{Name: "close/halves after both ended", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		e.Read("end", server, 10).Done()
		e.Must(server.Close())
		e.Read("end", client, 10).Done()
		e.Arrive()
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Note("CloseWrite", tcp(client).CloseWrite())
	}},
	{Name: "close/CloseWrite after the peer ended", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(server).CloseWrite())
		e.Read("end", client, 10).Done()
		e.Must(write(client, "last"))
		e.Note("CloseWrite", tcp(client).CloseWrite())
		e.Read("last", server, 10).Done()
		e.Read("end", server, 10).Done()
	}},
	{Name: "close/CloseRead with data there", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(server, "hello"))
		e.Arrive()
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Read("first", client, 10).Done()
		e.Read("second", client, 10).Done()
	}},
	{Name: "close/CloseRead with data coming later", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("CloseRead", tcp(client).CloseRead())
		e.Read("before", client, 10).Done()
		e.Must(write(server, "hello"))
		e.Arrive()
		e.Read("after", client, 10).Done()
		e.Read("end", client, 10).Done()
		e.Must(write(server, "again"))
		e.Arrive()
		e.Read("later", client, 10).Done()
	}},
	{Name: "close/CloseRead while a read waits", Run: func(e *Env) {
		_, client := e.Pair()
		r := e.Read("read", client, 10)
		r.Waits()
		e.Note("CloseRead", tcp(client).CloseRead())
		r.Done()
	}},
	{Name: "close/CloseWrite while a read waits", Run: func(e *Env) {
		server, client := e.Pair()
		r := e.Read("read", client, 10)
		r.Waits()
		e.Note("CloseWrite", tcp(client).CloseWrite())
		e.Must(write(server, "hello"))
		r.Done()
	}},
	{Name: "close/linger 0", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("SetLinger", tcp(client).SetLinger(0))
		e.Note("close", client.Close())
		e.Read("peer reads", server, 10).Done()
		e.Note("again", client.Close())
	}},
	{Name: "close/linger 0 with data unsent", Run: func(e *Env) {
		server, client := e.Pair()
		filled := e.Fill(client)
		e.Must(tcp(client).SetLinger(0))
		e.Note("close", client.Close())
		n, err := io.Copy(io.Discard, server)
		e.Note("read everything", n == filled, err)
	}},
	{Name: "close/linger 0 after CloseWrite", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		e.Read("end", server, 10).Done()
		e.Must(tcp(client).SetLinger(0))
		e.Note("close", client.Close())
		e.Arrive()
		e.Write("peer writes", server, 10).Done()
	}},
	{Name: "close/linger off again", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("SetLinger", tcp(client).SetLinger(0))
		e.Note("SetLinger", tcp(client).SetLinger(-1))
		e.Must(write(client, "hello"))
		e.Note("close", client.Close())
		e.Read("peer reads", server, 10).Done()
		e.Read("peer reads", server, 10).Done()
	}},
	{Name: "close/linger with all read", Run: func(e *Env) {
		server, client := e.Pair()
		e.Note("SetLinger", tcp(client).SetLinger(5))
		e.Must(write(client, "hello"))
		start := time.Now()
		e.Note("close", client.Close())
		e.Note("at once", time.Since(start) < time.Second)
		e.Read("peer reads", server, 10).Done()
		e.Read("peer reads", server, 10).Done()
	}},
	{Name: "close/linger with data unsent", Run: func(e *Env) {
		server, client := e.Pair()
		filled := e.Fill(client)
		e.Must(tcp(client).SetLinger(1))
		start := time.Now()
		e.Note("close", client.Close())
		took := time.Since(start)
		e.Note("waited", took >= 900*time.Millisecond, took < 5*time.Second)
		n, err := io.Copy(io.Discard, server)
		e.Note("read everything", n == filled, err)
	}},
	{Name: "close/linger while a read waits", Run: func(e *Env) {
		_, client := e.Pair()
		r := e.Read("read", client, 10)
		r.Waits()
		e.Fill(client)
		e.Must(tcp(client).SetLinger(1))
		e.Must(client.Close())
		r.Done()
	}},
	{Name: "close/while reading and writing", Run: func(e *Env) {
		_, client := e.Pair()
		r, w := e.Read("read", client, 10), e.WriteMuch("write", client)
		r.Waits()
		w.Waits()
		e.Note("close", client.Close())
		r.Done()
		w.Done()
	}},
	{Name: "close/both sides at once", Run: func(e *Env) {
		server, client := e.Pair()
		a := e.Go("client", func() []any { return []any{client.Close()} })
		b := e.Go("server", func() []any { return []any{server.Close()} })
		a.Done()
		b.Done()
	}},
}
