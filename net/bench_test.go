package tpanet_test

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

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
