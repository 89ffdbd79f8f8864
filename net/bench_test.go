package tpanet_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// BenchmarkRoundTrip is a 64-byte request and its reply, over a wire in memory,
// both ends in one process.
func BenchmarkRoundTrip(b *testing.B) {
	for _, conns := range []int{1, 50} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			server, client := newHosts(b, memory.Options{})
			ln := server.listen(b, "tcp", server.ip4+":0")
			var clients []*tpanet.Conn
			for range conns {
				a, c := pairTo(b, ln, client)
				go echo(a)
				clients = append(clients, c)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, c := range clients {
				rounds := b.N / conns
				if i < b.N%conns {
					rounds++
				}
				wg.Go(func() {
					buf := make([]byte, 64)
					for range rounds {
						if _, err := c.Write(buf); err != nil {
							b.Error(err)
							return
						}
						if _, err := io.ReadFull(c, buf); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// An acceptStack is a shard on which connections arrive when the benchmark says so.
type acceptStack struct {
	fakeStack
	listener *acceptEndpoint
	pending  atomic.Int64
}

func (s *acceptStack) Socket(bool, bool) (transport.Endpoint, error) {
	s.listener = &acceptEndpoint{shard: s}
	s.listener.stack = &s.fakeStack
	return s.listener, nil
}

func (*acceptStack) Established(transport.Endpoint, transport.User) {}

func (s *acceptStack) arrive() {
	s.pending.Add(1)
	s.listener.sink.Notify(transport.Readable)
}

type acceptEndpoint struct {
	fakeEndpoint
	shard *acceptStack
}

func (e *acceptEndpoint) Accept() (transport.Endpoint, error) {
	for {
		n := e.shard.pending.Load()
		if n == 0 {
			return nil, transport.ErrWouldBlock
		}
		if e.shard.pending.CompareAndSwap(n, n-1) {
			return &acceptedEndpoint{of: e}, nil
		}
	}
}

// An acceptedEndpoint has of an endpoint what a new connection asks for.
type acceptedEndpoint struct {
	transport.Endpoint
	of *acceptEndpoint
}

func (*acceptedEndpoint) SetSink(transport.Sink)               {}
func (e *acceptedEndpoint) LocalAddr() netip.AddrPort          { return e.of.LocalAddr() }
func (e *acceptedEndpoint) RemoteAddr() (netip.AddrPort, bool) { return e.of.LocalAddr(), true }

// BenchmarkAccept is what a listener adds to a connection that waits: the price
// must not depend on the number of shards.
func BenchmarkAccept(b *testing.B) {
	for _, shards := range []int{1, 16} {
		open := func(b *testing.B) (*tpanet.Listener, []*acceptStack) {
			var stacks []transport.Stack
			var all []*acceptStack
			for range shards {
				s := new(acceptStack)
				all, stacks = append(all, s), append(stacks, s)
			}
			ln, err := transport.Listen(stacks, nil, "tcp", transport.ListenOptions{})
			if err != nil {
				b.Fatal(err)
			}
			return ln.(*tpanet.Listener), all
		}
		b.Run(fmt.Sprintf("merged/shards=%d", shards), func(b *testing.B) {
			ln, stacks := open(b)
			defer ln.Close()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				stacks[i%shards].arrive()
				ln.Accept()
			}
		})
		b.Run(fmt.Sprintf("PerShard/shards=%d", shards), func(b *testing.B) {
			ln, stacks := open(b)
			defer ln.Close()
			parts := ln.Split()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				stacks[i%shards].arrive()
				parts[i%shards].Accept()
			}
		})
		b.Run(fmt.Sprintf("parallel/shards=%d", shards), func(b *testing.B) {
			ln, stacks := open(b)
			defer ln.Close()
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				own := stacks[int(next.Add(1)-1)%shards]
				for pb.Next() {
					own.arrive()
					ln.Accept()
				}
			})
		})
	}
}

// BenchmarkCopy moves 1 MB from a connection to another one, by splicing and
// through a buffer as io.Copy does without it.
func BenchmarkCopy(b *testing.B) {
	type plain struct{ io.Reader }
	for _, splice := range []bool{true, false} {
		b.Run(fmt.Sprintf("splice=%v", splice), func(b *testing.B) {
			server, client := newHosts(b, memory.Options{})
			in, source := pair(b, server, client)
			sink, out := pair(b, server, client)
			go io.Copy(io.Discard, sink)
			go func() {
				for buf := make([]byte, 64<<10); ; {
					if _, err := source.Write(buf); err != nil {
						return
					}
				}
			}()
			const size = 1 << 20
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				var r io.Reader = &io.LimitedReader{R: in, N: size}
				if !splice {
					r = plain{r}
				}
				if n, err := out.ReadFrom(r); n != size || err != nil {
					b.Fatal(n, err)
				}
			}
			source.SetLinger(0)
			source.Close()
			out.SetLinger(0)
			out.Close()
		})
	}
}

// BenchmarkWriteTo moves 1 MB from a connection to a writer that knows nothing of
// it, by WriteTo and through a buffer as io.Copy does without it.
func BenchmarkWriteTo(b *testing.B) {
	for _, direct := range []bool{true, false} {
		b.Run(fmt.Sprintf("direct=%v", direct), func(b *testing.B) {
			server, client := newHosts(b, memory.Options{})
			in, source := pair(b, server, client)
			stop := errors.New("enough")
			go func() {
				for buf := make([]byte, 64<<10); ; {
					if _, err := source.Write(buf); err != nil {
						return
					}
				}
			}()
			const size = 1 << 20
			buf := make([]byte, 32<<10)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				sum := &summer{left: size, stop: stop}
				var err error
				if direct {
					_, err = in.WriteTo(sum)
				} else {
					_, err = io.CopyBuffer(sum, struct{ io.Reader }{in}, buf)
				}
				if !errors.Is(err, stop) {
					b.Fatal(err)
				}
			}
			source.SetLinger(0)
			source.Close()
		})
	}
}

// summer reads what is written to it, and has enough at some point.
type summer struct {
	left int
	sum  byte
	stop error
}

func (s *summer) Write(b []byte) (int, error) {
	for _, x := range b {
		s.sum += x
	}
	if s.left -= len(b); s.left <= 0 {
		return len(b), s.stop
	}
	return len(b), nil
}

// BenchmarkSetDeadline moves a deadline on, as servers do with each request.
func BenchmarkSetDeadline(b *testing.B) {
	server, client := newHosts(b, memory.Options{})
	_, c := pair(b, server, client)
	deadline := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		deadline = deadline.Add(1)
		if err := c.SetDeadline(deadline); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandlers is BenchmarkRoundTrip with a server in the poller: coroutines
// on both sides, and callbacks on the server's.
func BenchmarkHandlers(b *testing.B) {
	for _, bench := range []struct {
		name   string
		server func(*tpanet.Conn)
	}{
		{"coroutines", func(c *tpanet.Conn) { c.Go(echoHandler) }},
		{"callbacks", func(c *tpanet.Conn) { c.Handle(openEchoer) }},
	} {
		for _, conns := range []int{1, 50} {
			b.Run(fmt.Sprintf("%s/conns=%d", bench.name, conns), func(b *testing.B) {
				server, client := newHosts(b, memory.Options{})
				ln := server.listen(b, "tcp", server.ip4+":0")
				var clients []*tpanet.Conn
				for range conns {
					a, c := pairTo(b, ln, client)
					bench.server(a)
					clients = append(clients, c)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for i, c := range clients {
					rounds := b.N / conns
					if i < b.N%conns {
						rounds++
					}
					wg.Add(1)
					c.Go(func(net.Conn) {
						defer wg.Done()
						buf := make([]byte, 64)
						for range rounds {
							if _, err := c.Write(buf); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(c, buf); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
