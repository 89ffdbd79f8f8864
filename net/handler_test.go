package tpanet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
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
		shutdown(t, s)
	})
	return ln
}

// shutdown waits until the handlers of a server that serves nobody new have ended.
func shutdown(t testing.TB, s *tpanet.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v, want all handlers to end", err)
	}
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
					c.SetDeadline(time.Now().Add(testTimeout))
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

// TestHandlerDetach has a handler wait for something else than its connection,
// while another connection of the same shard goes on.
func TestHandlerDetach(t *testing.T) {
	release := make(chan struct{})
	for _, tt := range []struct {
		name   string
		server func() *tpanet.Server
	}{
		{"coroutine", func() *tpanet.Server {
			return &tpanet.Server{Handler: func(c net.Conn) {
				defer c.Close()
				b := make([]byte, 1)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					if b[0] == 'w' {
						tpanet.Detach(func() {
							<-release
							c.Write([]byte("detached "))
						})
					}
					c.Write(b)
				}
			}}
		}},
		{"callback", func() *tpanet.Server {
			return &tpanet.Server{Open: func(c *tpanet.CallbackConn) tpanet.Callbacks { return &waitingEchoer{c, release} }}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			release = make(chan struct{})
			server, client := newHosts(t, memory.Options{})
			ln := serve(t, server, tt.server())
			waits, other := client.dial(t, ln.Addr().String()), client.dial(t, ln.Addr().String())
			defer waits.Close()
			defer other.Close()
			for _, c := range []*tpanet.Conn{waits, other} {
				c.SetDeadline(time.Now().Add(testTimeout))
			}
			if _, err := waits.Write([]byte("w")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the handler has detached", func() bool { return server.Stats().Shards[0].Handlers.Detaching == 1 })
			if got := ask(t, other, "x", 1); got != "x" {
				t.Errorf("the other connection got %q, want x", got)
			}
			close(release)
			want := "detached w"
			if got := ask(t, waits, "", len(want)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if h := server.Stats().Shards[0].Handlers; h.Detached != 1 {
				t.Errorf("%d were detached, want 1", h.Detached)
			}
		})
	}
}

// ask sends a request and returns n bytes of the answer.
func ask(t *testing.T, c net.Conn, request string, n int) string {
	t.Helper()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A waitingEchoer detaches for a "w".
type waitingEchoer struct {
	c       *tpanet.CallbackConn
	release chan struct{}
}

func (e *waitingEchoer) Data() {
	b := make([]byte, 1)
	n, err := e.c.TryRead(b)
	switch {
	case err == tpanet.ErrWouldBlock:
	case err != nil:
		e.c.Close()
	case b[0] == 'w':
		e.c.Detach(func(c net.Conn) {
			defer c.Close()
			<-e.release
			c.Write([]byte("detached w"))
			io.Copy(io.Discard, c)
		})
	default:
		e.c.TryWrite(b[:n])
		e.c.Wake()
	}
}

func (*waitingEchoer) Closed() {}

// TestHandlerExits calls runtime.Goexit in handlers: the poller stays.
func TestHandlerExits(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	ln := serve(t, server, &tpanet.Server{Handler: func(c net.Conn) {
		defer c.Close()
		b := make([]byte, 1)
		if _, err := c.Read(b); err == nil {
			c.Write(b)
		}
		runtime.Goexit()
	}})
	for range 3 {
		c := client.dial(t, ln.Addr().String())
		c.SetDeadline(time.Now().Add(testTimeout))
		if got := ask(t, c, "x", 1); got != "x" {
			t.Errorf("got %q, want x", got)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after Goexit: %v, want EOF", err)
		}
		c.Close()
	}
}

// TestHandlerPanics runs a handler that panics in another process: it ends with
// the value and the handler's stack.
func TestHandlerPanics(t *testing.T) {
	if os.Getenv("TPA_TEST_PANIC") != "" {
		server, client := newHosts(t, memory.Options{})
		a, b := pair(t, server, client)
		a.Go(panickingHandler)
		b.Write([]byte("x"))
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHandlerPanics$")
	cmd.Env = append(os.Environ(), "TPA_TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("the program went on")
	}
	for _, want := range []string{"panic: ", "out of cheese", "panickingHandler"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

func panickingHandler(c net.Conn) {
	c.Read(make([]byte, 1))
	panic("out of cheese")
}

// TestLongHandler has a handler keep the poller: it is counted and named.
func TestLongHandler(t *testing.T) {
	logged := new(testnet.Output)
	server, client := newHostsWith(t, memory.Options{}, accel.Config{
		Polling: accel.Polling{LongHandler: 5 * time.Millisecond}, Logger: slog.New(slog.NewTextHandler(logged, nil)),
	})
	a, b := pair(t, server, client)
	a.Go(longHandler)
	b.SetDeadline(time.Now().Add(testTimeout))
	if got := ask(t, b, "x", 1); got != "x" {
		t.Errorf("got %q, want x", got)
	}
	eventually(t, "the run is counted", func() bool {
		h := server.Stats().Shards[0].Handlers
		return h.Long >= 1 && h.Longest >= 20*time.Millisecond
	})
	eventually(t, "the log names it", func() bool {
		return strings.Contains(logged.String(), "handler=github.com/gotpa/tpa/net_test.longHandler")
	})
	// This one keeps the poller for so long that somebody else has to tell.
	c, d := pair(t, server, client)
	release := make(chan struct{})
	c.Go(func(net.Conn) { <-release })
	eventually(t, "the log tells of a handler that does not return", func() bool {
		return strings.Contains(logged.String(), "does not return")
	})
	close(release)
	d.Close()
}

func longHandler(c net.Conn) {
	b := make([]byte, 1)
	if _, err := c.Read(b); err == nil {
		time.Sleep(20 * time.Millisecond)
		c.Write(b)
	}
}

// TestHandlersShutdown stops gracefully: a handler with a request in hand ends it.
func TestHandlersShutdown(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			server, client := newHostsOn(t, memory.Options{Queues: w.queues}, accel.TCP{Engine: w.engine})
			ln := server.listen(t, "tcp", net.JoinHostPort(server.ip4, "0"))
			s := w.server()
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			c := client.dial(t, ln.Addr().String())
			c.SetDeadline(time.Now().Add(testTimeout))
			if got := ask(t, c, "one", 3); got != "one" {
				t.Errorf("got %q, want one", got)
			}
			short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := s.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown with an open connection: %v, want %v", err, context.DeadlineExceeded)
			}
			if err := <-served; err != tpanet.ErrServerClosed {
				t.Errorf("Serve: %v, want %v", err, tpanet.ErrServerClosed)
			}
			if got := ask(t, c, "two", 3); got != "two" {
				t.Errorf("got %q, want two", got)
			}
			c.Close()
			shutdown(t, s)
		})
	}
}

// TestHandlersRuntimeClose closes the runtime below handlers that wait: they see
// their connections end, and nothing is left.
func TestHandlersRuntimeClose(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			server, client := newHostsOn(t, memory.Options{Queues: w.queues}, accel.TCP{Engine: w.engine})
			ln := server.listen(t, "tcp", net.JoinHostPort(server.ip4, "0"))
			s := w.server()
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			for range 8 {
				c := client.dial(t, ln.Addr().String())
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				if got := ask(t, c, "x", 1); got != "x" {
					t.Errorf("got %q, want x", got)
				}
			}
			server.Close()
			if err := <-served; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Serve: %v, want %v", err, net.ErrClosed)
			}
			shutdown(t, s)
		})
	}
}

// TestHandlersByKernel serves on a listener of package net.
func TestHandlersByKernel(t *testing.T) {
	for _, w := range ways() {
		if w.queues > 1 || w.engine != accel.EngineTPA {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := w.server()
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(testTimeout))
			want := bytes.Repeat([]byte("kernel"), 1<<20)
			go func() {
				c.Write(want)
				c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
			}
			// A second connection ends with the server.
			d, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			d.SetDeadline(time.Now().Add(testTimeout))
			if got := ask(t, d, "x", 1); got != "x" {
				t.Errorf("got %q, want x", got)
			}
			s.Close()
			if err := <-served; err != tpanet.ErrServerClosed {
				t.Errorf("Serve: %v, want %v", err, tpanet.ErrServerClosed)
			}
			shutdown(t, s)
		})
	}
}

// TestHandlersElsewhere uses connections of handlers from goroutines: writes that
// wait for room, and closing.
func TestHandlersElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   func(c *tpanet.Conn)
	}{
		{"coroutine", func(c *tpanet.Conn) { c.Go(echoHandler) }},
		{"callbacks", func(c *tpanet.Conn) { c.Handle(openEchoer) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, client := newHosts(t, memory.Options{})
			a, b := pair(t, server, client)
			tt.on(a)
			b.SetDeadline(time.Now().Add(testTimeout))
			const total = 16 << 20
			go func() {
				var sent int
				for sent < total {
					n, err := a.Write(make([]byte, 1<<20))
					if err != nil {
						t.Errorf("write: %v", err)
						return
					}
					sent += n
				}
				a.CloseWrite()
			}()
			if _, err := b.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			n, err := io.Copy(io.Discard, b)
			if err != nil || n < total || n > total+5 {
				t.Errorf("read %d bytes, %v; want %d and maybe the echo", n, err, total)
			}
			a.Close()
			eventually(t, "the handler has ended", func() bool {
				h := server.Stats().Shards[0].Handlers
				return h.Coroutines == 0 && h.Callbacks == 0
			})
		})
	}
}

// A prober notes what operations that wait return in a callback.
type prober struct {
	c    *tpanet.CallbackConn
	errs chan error
}

func (p *prober) Data() {
	_, err := p.c.TryRead(make([]byte, 8))
	if err != tpanet.ErrWouldBlock {
		p.c.Close()
		return
	}
	_, err = p.c.Read(make([]byte, 1))
	select {
	case p.errs <- err:
	default:
	}
}

func (*prober) Closed() {}

// TestCallbackDoesNotWait calls Read in a callback.
func TestCallbackDoesNotWait(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, _ := pair(t, server, client)
	p := &prober{errs: make(chan error, 1)}
	a.Handle(func(c *tpanet.CallbackConn) tpanet.Callbacks {
		p.c = c
		return p
	})
	if err := <-p.errs; !errors.Is(err, tpanet.ErrWouldBlock) {
		t.Errorf("Read in a callback: %v, want %v", err, tpanet.ErrWouldBlock)
	}
	a.Close()
}

// TestHandlerPinned has pollers that are locked to their threads.
func TestHandlerPinned(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux pins")
	}
	server, client := newHostsWith(t, memory.Options{}, accel.Config{CPUs: []int{0}})
	ln := serve(t, server, &tpanet.Server{Handler: func(c net.Conn) {
		tpanet.Detach(func() { time.Sleep(time.Millisecond) })
		echoHandler(c)
	}})
	for range 3 {
		c := client.dial(t, ln.Addr().String())
		c.SetDeadline(time.Now().Add(testTimeout))
		c.Go(func(c net.Conn) { // the client's poller is pinned, too
			defer c.Close()
			c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all have come and gone", func() bool {
		s, c := server.Stats().Shards[0].Handlers, client.Stats().Shards[0].Handlers
		return s.Detached == 3 && s.Coroutines == 0 && c.Coroutines == 0
	})
}

// TestHandlersTLS serves TLS in coroutines, with the handshake in goroutines, and
// HTTP over connections that handlers give away.
func TestHandlersTLS(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	given := make(chan net.Conn)
	web.Listener.Close()
	web.Listener = &givenListener{conns: given, closed: make(chan struct{})}
	web.Start()
	defer web.Close()
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	ln := serve(t, server, &tpanet.Server{Handler: func(c net.Conn) {
		tc := tls.Server(c, config)
		var err error
		tpanet.Detach(func() { err = tc.Handshake() })
		if err != nil {
			t.Errorf("handshake: %v", err)
			c.Close()
			return
		}
		if tc.ConnectionState().NegotiatedProtocol == "http/1.1" {
			go func() { given <- tc }()
			return
		}
		echoHandler(tc)
	}})
	config.NextProtos = []string{"http/1.1", "echo"}
	dial := func(proto string) net.Conn {
		return tls.Client(client.dial(t, ln.Addr().String()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
	}
	c := dial("echo")
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	if got := ask(t, c, "over TLS", 8); got != "over TLS" {
		t.Errorf("got %q, want over TLS", got)
	}
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return dial("http/1.1"), nil }}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: testTimeout}).Post("https://server/", "text/plain", strings.NewReader("over HTTP"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "over HTTP" {
		t.Errorf("got %q, %v; want over HTTP", b, err)
	}
}

// A givenListener accepts what it is given.
type givenListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *givenListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *givenListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *givenListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// selfSigned makes a certificate.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"server"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestHandlersNoAllocations is TestNoAllocations with handlers on both sides.
func TestHandlersNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, tt := range []struct {
		name string
		on   func(c *tpanet.Conn)
	}{
		{"coroutine", func(c *tpanet.Conn) { c.Go(echoHandler) }},
		{"callbacks", func(c *tpanet.Conn) { c.Handle(openEchoer) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, client := newHosts(t, memory.Options{})
			a, b := pair(t, server, client)
			tt.on(a)
			result := make(chan float64)
			b.Go(func(net.Conn) {
				buf := make([]byte, 64)
				roundTrip := func() {
					if _, err := b.Write(buf); err != nil {
						t.Error(err)
					}
					if _, err := io.ReadFull(b, buf); err != nil {
						t.Error(err)
					}
				}
				for range 1000 { // fill the pools
					roundTrip()
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				const rounds = 5000
				for range rounds {
					roundTrip()
				}
				runtime.ReadMemStats(&after)
				result <- float64(after.Mallocs-before.Mallocs) / rounds
			})
			if n := <-result; n > 0.1 {
				t.Errorf("a request and its reply allocate %v times, both ends together; want 0", n)
			}
		})
	}
}
