package conformance

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

var readProbes = []Probe{
	{Name: "read/data", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Read("read", server, 100).Done()
	}},
	{Name: "read/in pieces", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Read("first", server, 2).Done()
		e.Read("second", server, 2).Done()
		e.Read("third", server, 2).Done()
		e.Read("fourth", server, 2).Waits()
	}},
	{Name: "read/two writes at once", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "one"))
		e.Must(write(client, "two"))
		e.Arrive()
		e.Read("read", server, 100).Done()
	}},
	{Name: "read/waits for data", Run: func(e *Env) {
		server, client := e.Pair()
		r := e.Read("read", server, 100)
		r.Waits()
		e.Must(write(client, "hello"))
		r.Done()
	}},
	{Name: "read/nothing", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Read("read", server, 0).Done()
		n, err := server.Read(nil)
		e.Note("read nil", n, err)
	}},
	{Name: "read/nothing with data there", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Arrive()
		e.Read("read", server, 0).Done()
		e.Read("read", server, 10).Done()
	}},
	{Name: "read/nothing at the end", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.Close())
		e.Arrive()
		e.Read("read", server, 0).Done()
	}},
	{Name: "read/nothing after close", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Must(server.Close())
		e.Read("read", server, 0).Done()
	}},
	{Name: "read/nothing after deadline", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Must(server.SetReadDeadline(time.Unix(1, 0)))
		e.Read("read", server, 0).Done()
	}},
	{Name: "read/nothing after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(client)
		e.Arrive()
		e.Read("nothing", server, 0).Done()
		e.Read("something", server, 1).Done()
	}},
	{Name: "read/end of stream", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(client.Close())
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
	}},
	{Name: "read/data then end", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Must(client.Close())
		e.Arrive()
		e.Read("first", server, 3).Done()
		e.Read("second", server, 10).Done()
		e.Read("third", server, 10).Done()
	}},
	{Name: "read/exactly all then end", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Must(client.Close())
		e.Arrive()
		e.Read("first", server, 5).Done()
		e.Read("second", server, 5).Done()
	}},
	{Name: "read/end while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		r := e.Read("read", server, 10)
		r.Waits()
		e.Must(client.Close())
		r.Done()
	}},
	{Name: "read/after close", Run: func(e *Env) {
		server, _ := e.Pair()
		e.Must(server.Close())
		e.Read("read", server, 10).Done()
	}},
	{Name: "read/after close with data there", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Arrive()
		e.Must(server.Close())
		e.Read("read", server, 10).Done()
	}},
	{Name: "read/close while waiting", Run: func(e *Env) {
		server, _ := e.Pair()
		r := e.Read("read", server, 10)
		r.Waits()
		e.Note("close", server.Close())
		r.Done()
	}},
	{Name: "read/reset while waiting", Run: func(e *Env) {
		server, client := e.Pair()
		r := e.Read("read", server, 10)
		r.Waits()
		e.Reset(client)
		r.Done()
	}},
	{Name: "read/after reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Reset(client)
		e.Arrive()
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
		e.Read("third", server, 10).Done()
	}},
	{Name: "read/data then reset", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hello"))
		e.Arrive()
		e.Reset(client)
		e.Arrive()
		e.Read("first", server, 3).Done()
		e.Read("second", server, 10).Done()
		e.Read("third", server, 10).Done()
		e.Read("fourth", server, 10).Done()
	}},
	{Name: "read/end then reset", Run: func(e *Env) {
		// The client closes; what the server writes then is answered by a reset.
		server, client := e.Pair()
		e.Must(client.Close())
		e.Arrive()
		e.Must(write(server, "hello"))
		e.Arrive()
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
	}},
	{Name: "read/peer closes with data unread", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(server, "hello"))
		e.Arrive()
		e.Must(client.Close())
		e.Arrive()
		e.Read("first", server, 10).Done()
		e.Read("second", server, 10).Done()
	}},
	{Name: "read/write does not disturb", Run: func(e *Env) {
		server, client := e.Pair()
		r := e.Read("read", server, 10)
		r.Waits()
		e.Must(write(server, "hello"))
		e.Read("other side", client, 10).Done()
		e.Must(write(client, "hello"))
		r.Done()
	}},
	{Name: "read/two at a time", Run: func(e *Env) {
		server, client := e.Pair()
		a, b := e.Read("read", server, 10), e.Read("read", server, 10)
		a.Waits()
		b.Waits()
		e.Must(write(client, "x"))
		first, second := a, b
		select {
		case <-a.done:
		case <-b.done:
			first, second = b, a
		case <-time.After(testTimeout):
		}
		first.Done()
		second.Waits()
		e.Must(write(client, "x"))
		second.Done()
	}},
	{Name: "read/close while several wait", Run: func(e *Env) {
		server, _ := e.Pair()
		calls := []*Call{e.Read("read", server, 10), e.Read("read", server, 10), e.Read("read", server, 10)}
		for _, c := range calls {
			c.Waits()
		}
		e.Must(server.Close())
		for _, c := range calls {
			c.Done()
		}
	}},
	{Name: "read/end while several wait", Run: func(e *Env) {
		server, client := e.Pair()
		calls := []*Call{e.Read("read", server, 10), e.Read("read", server, 10)}
		for _, c := range calls {
			c.Waits()
		}
		e.Must(client.Close())
		for _, c := range calls {
			c.Done()
		}
	}},
	{Name: "read/megabytes", Run: func(e *Env) {
		server, client := e.Pair()
		data := randomBytes(5 << 20)
		w := e.Go("write", func() []any {
			n, err := client.Write(data)
			client.Close()
			return []any{n, err}
		})
		got, err := io.ReadAll(server)
		e.Note("read", len(got), bytes.Equal(got, data), err)
		w.Done()
	}},
	{Name: "read/megabytes in small pieces", Run: func(e *Env) {
		server, client := e.Pair()
		data := randomBytes(1 << 20)
		w := e.Go("write", func() []any {
			n, err := client.Write(data)
			client.Close()
			return []any{n, err}
		})
		sum, n := sha256.New(), 0
		for b := make([]byte, 777); ; {
			k, err := server.Read(b)
			sum.Write(b[:k])
			if n += k; err != nil {
				e.Note("read", n, bytes.Equal(sum.Sum(nil), hash(data)), err)
				break
			}
		}
		w.Done()
	}},
	{Name: "read/full", Run: func(e *Env) {
		server, client := e.Pair()
		e.Must(write(client, "hel"))
		e.Must(client.Close())
		n, err := io.ReadFull(server, make([]byte, 5))
		e.Note("read", n, err)
	}},
	{Name: "read/over IPv6", Run: func(e *Env) {
		ln, err := e.Listen("tcp", net.JoinHostPort(e.T.Server6, "0"))
		e.Must(err)
		e.NamePort(ln.Addr(), "L")
		server, client := e.PairTo(ln, "tcp", ln.Addr().String())
		e.Must(write(client, "hello"))
		e.Read("read", server, 10).Done()
		e.Reset(client)
		e.Arrive()
		e.Read("read", server, 10).Done()
	}},
}

func write(c net.Conn, s string) error {
	_, err := c.Write([]byte(s))
	return err
}

func hash(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// randomBytes returns n bytes, the same ones each time.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}
