package tpanet_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// A way is one way to serve connections.
type way struct {
	name   string
	engine accel.Engine
	queues int
	// server serves with a coroutine or callbacks that echo.
	server func() *tpanet.Server
}

// echoHandler sends back what it reads, and closes at the end.
func echoHandler(c net.Conn) {
	defer c.Close()
	b := make([]byte, 4<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// An echoer is the same with callbacks.
type echoer struct {
	c       *tpanet.CallbackConn
	buf     []byte
	pending []byte // of buf: what there was no room for
	closed  atomic.Int32
}

func openEchoer(c *tpanet.CallbackConn) tpanet.Callbacks {
	return &echoer{c: c, buf: make([]byte, 4<<10)}
}

func (e *echoer) Data() {
	for {
		if len(e.pending) > 0 {
			n, err := e.c.TryWrite(e.pending)
			e.pending = e.pending[n:]
			if err != nil {
				if err != tpanet.ErrWouldBlock {
					e.c.Close()
				}
				return
			}
		}
		n, err := e.c.TryRead(e.buf)
		if err != nil {
			if err != tpanet.ErrWouldBlock {
				e.c.Close()
			}
			return
		}
		e.pending = e.buf[:n]
	}
}

func (e *echoer) Closed() {
	if e.closed.Add(1) != 1 {
		panic("Closed was called twice")
	}
}

func ways() []way {
	coroutines := func() *tpanet.Server { return &tpanet.Server{Handler: echoHandler} }
	callbacks := func() *tpanet.Server { return &tpanet.Server{Open: openEchoer} }
	return []way{
		{"coroutines", accel.EngineTPA, 1, coroutines},
		{"coroutines on 3 shards", accel.EngineTPA, 3, coroutines},
		{"coroutines on gVisor's TCP", accel.EngineGVisor, 1, coroutines},
		{"callbacks", accel.EngineTPA, 1, callbacks},
		{"callbacks on 3 shards", accel.EngineTPA, 3, callbacks},
		{"callbacks on gVisor's TCP", accel.EngineGVisor, 1, callbacks},
	}
}

// serve serves on a new listener until the test ends.
func serve(t testing.TB, h host, s *tpanet.Server) net.Listener {
	t.Helper()
	ln := h.listen(t, "tcp", net.JoinHostPort(h.ip4, "0"))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != tpanet.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown after Close: %v", err)
		}
	})
	return ln
}

// TestHandlersEcho sends more than the buffers hold through many connections at
// once.
func TestHandlersEcho(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			server, client := newHostsOn(t, memory.Options{Queues: w.queues}, accel.TCP{Engine: w.engine})
			ln := serve(t, server, w.server())
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					c := client.dial(t, ln.Addr().String())
					defer c.Close()
					c.SetDeadline(time.Now().Add(patience))
					want := bytes.Repeat([]byte(fmt.Sprint(i)), 2<<20)
					go func() {
						c.Write(want)
						c.CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
					}
				})
			}
			wg.Wait()
		})
	}
}
