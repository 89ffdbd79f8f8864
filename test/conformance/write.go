package conformance

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

var writeProbes = []Probe{
	{Name: "write/data", Run: func(e *Env) {
		server, client := e.Pair()
		n, err := client.Write([]byte("hello"))
		e.Note("write", n, err)
		e.Read("read", server, 10).Done()
	}},
	{Name: "write/nothing", Run: func(e *Env) {
		server, client := e.Pair()
		e.Write("write", client, 0).Done()
		n, err := client.Write(nil)
		e.Note("write nil", n, err)
		e.Read("read", server, 10).Waits()
	}},
	{Name: "write/nothing after close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		e.Write("write", client, 0).Done()
	}},
	{Name: "write/nothing after CloseWrite", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		e.Write("write", client, 0).Done()
	}},
	{Name: "write/nothing after deadline", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetWriteDeadline(time.Unix(1, 0)))
		e.Write("write", client, 0).Done()
	}},
	{Name: "write/nothing after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		e.Write("first", client, 0).Done()
		e.Write("second", client, 0).Done()
	}},
	{Name: "write/nothing to a full connection", Run: func(e *Env) {
		_, client := e.Pair()
		e.Fill(client)
		e.Write("write", client, 0).Done()
	}},
	{Name: "write/after close", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.Close())
		e.Write("write", client, 10).Done()
	}},
	{Name: "write/after CloseWrite", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(tcp(client).CloseWrite())
		e.Write("first", client, 10).Done()
		e.Write("second", client, 10).Done()
	}},
	{Name: "write/after CloseRead", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(client).CloseRead())
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
	}},
	{Name: "write/after peer closed", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(server.Close())
		e.Arrive()
		e.Write("first", client, 10).Done()
		e.Arrive()
		e.Write("second", client, 10).Done()
		e.Write("third", client, 10).Done()
	}},
	{Name: "write/after peer closed, end seen", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(server.Close())
		e.Read("read", client, 10).Done()
		e.Write("first", client, 10).Done()
		e.Arrive()
		e.Write("second", client, 10).Done()
		e.Read("read", client, 10).Done()
	}},
	{Name: "write/after peer's CloseWrite", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(server).CloseWrite())
		e.Arrive()
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
	}},
	{Name: "write/after peer's CloseRead", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(tcp(server).CloseRead())
		e.Arrive()
		e.Write("first", client, 10).Done()
		e.Arrive()
		e.Write("second", client, 10).Done()
	}},
	{Name: "write/after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Arrive()
		e.Write("first", client, 10).Done()
		e.Write("second", client, 10).Done()
		e.Read("read", client, 10).Done()
	}},
	{Name: "write/after reset, seen by a read", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(server)
		e.Read("read", client, 10).Done()
		e.Write("first", client, 10).Done()
		e.Write("second", client, 10).Done()
	}},
	{Name: "write/waits for room", Run: func(e *Env) {
		server, client := e.Pair()
		w := e.WriteMuch("write", client)
		w.Waits()
		n, err := io.CopyN(io.Discard, server, much)
		e.Note("read everything", n == much, err)
		w.Done()
	}},
	{Name: "write/close while waiting", Run: func(e *Env) {
		_, client := e.Pair()
		w := e.WriteMuch("write", client)
		w.Waits()
		e.Note("close", client.Close())
		w.Done()
	}},
	{Name: "write/close while several wait", Run: func(e *Env) {
		_, client := e.Pair()
		calls := []*Call{e.WriteMuch("write", client), e.WriteMuch("write", client)}
		for _, c := range calls {
			c.Waits()
		}
		e.Must(client.Close())
		for _, c := range calls {
			c.Done()
		}
	}},
	{Name: "write/CloseWrite while waiting", Run: func(e *Env) {
		_, client := e.Pair()
		w := e.WriteMuch("write", client)
		w.Waits()
		e.Note("CloseWrite", tcp(client).CloseWrite())
		w.Done()
	}},
	{Name: "write/reset while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		w := e.WriteMuch("write", client)
		w.Waits()
		e.Reset(server)
		w.Done()
		e.Write("again", client, 10).Done()
	}},
	{Name: "write/part before the deadline", Run: func(e *Env) {
		_, client := e.Pair()
		e.Must(client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)))
		n, err := client.Write(make([]byte, much))
		e.Note("write", n > 0, n < much, err)
	}},
	{Name: "write/to a slow reader", Run: func(e *Env) {
		server, client := e.Pair()
		data := randomBytes(8 << 20)
		w := e.Go("write", func() []any {
			n, err := client.Write(data)
			client.Close()
			return []any{n, err}
		})
		var got bytes.Buffer
		for b := make([]byte, 64<<10); ; {
			n, err := server.Read(b)
			got.Write(b[:n])
			if err != nil {
				e.Note("read", got.Len(), bytes.Equal(got.Bytes(), data), err)
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		w.Done()
	}},
	{Name: "write/then close", Run: func(e *Env) {
		server, client := e.Pair()
		e.Write("write", client, 300_000).Done()
		e.Note("close", client.Close())
		n, err := io.Copy(io.Discard, server)
		e.Note("read", n, err)
	}},
	{Name: "write/several at a time do not mix", Run: func(e *Env) {
		server, client := e.Pair()
		const writers, size = 4, 300_000
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				n, err := client.Write(bytes.Repeat([]byte{byte('a' + i)}, size))
				e.Must(err)
				if n != size {
					e.Note("short write", n)
				}
			})
		}
		runs := map[string]int{}
		b := make([]byte, size)
		for range writers {
			_, err := io.ReadFull(server, b)
			e.Must(err)
			runs[fmt.Sprintf("%c whole=%v", b[0], len(bytes.TrimLeft(b, string(b[:1]))) == 0)]++
		}
		wg.Wait()
		e.Note("runs", runs)
	}},
	{Name: "write/both ways at once", Run: func(e *Env) {
		server, client := e.Pair()
		const size = 3 << 20
		a := e.Write("client writes", client, size)
		b := e.Write("server writes", server, size)
		read := func(what string, r io.Reader) *Call {
			return e.Go(what, func() []any {
				n, err := io.CopyN(io.Discard, r, size)
				return []any{n, err}
			})
		}
		c, d := read("client reads", client), read("server reads", server)
		for _, call := range []*Call{a, b, c, d} {
			call.Done()
		}
	}},
	{Name: "write/many small", Run: func(e *Env) {
		server, client := e.Pair()
		const writes = 5000
		w := e.Go("write", func() []any {
			for i := range writes {
				if _, err := client.Write([]byte{byte(i)}); err != nil {
					return []any{i, err}
				}
			}
			client.Close()
			return []any{"all"}
		})
		got, err := io.ReadAll(server)
		inOrder := true
		for i, b := range got {
			inOrder = inOrder && b == byte(i)
		}
		e.Note("read", len(got), inOrder, err)
		w.Done()
	}},
}
