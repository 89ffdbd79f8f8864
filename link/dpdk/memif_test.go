//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// memifPair opens both ends of a memif in this process and waits until they are
// connected.
func memifPair(tb testing.TB, c dpdk.Config) (server, client *dpdk.Port) {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "m.sock")
	open := func(n int, role string) *dpdk.Port {
		c.Device = fmt.Sprintf("net_memif%d,role=%s,socket=%s,socket-abstract=no", n, role, socket)
		p, err := dpdk.Open(dpdk.EAL{HugePages: dpdk.Never}, c)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := p.Close(); err != nil {
				tb.Error(err)
			}
		})
		return p
	}
	server, client = open(0, "server"), open(1, "client")
	eventually(tb, "the memif link to come up", func() bool { return server.LinkUp() && client.LinkUp() })
	// A client's first poll gives the server the buffers to send into.
	for i := range client.Info().Queues {
		if n, err := client.Queue(i).Receive(nil); n != 0 || err != nil {
			tb.Fatalf("first Receive: %d, %v", n, err)
		}
	}
	return server, client
}

// eventually polls a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited 10 s for %s", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func TestEverySize(t *testing.T) {
	server, client := memifPair(t, dpdk.Config{Queues: 2})
	for i := range 2 {
		for _, way := range []struct {
			name     string
			from, to link.Queue
		}{
			{"to client", server.Queue(i), client.Queue(i)},
			{"to server", client.Queue(i), server.Queue(i)},
		} {
			t.Run(fmt.Sprintf("queue %d %s", i, way.name), func(t *testing.T) {
				frames := make([]link.Frame, link.MaxBurst)
				for size := 14; size <= server.Info().MaxFrame; size++ {
					buf := way.from.Reserve(size)
					for j := range size {
						buf[j] = byte(j*7 + size + i)
					}
					want := bytes.Clone(buf[:size])
					way.from.Commit(size, link.TxOffload{})
					if pending, err := way.from.Flush(); pending != 0 || err != nil {
						t.Fatalf("Flush: %d, %v", pending, err)
					}
					n, err := way.to.Receive(frames)
					if n != 1 || err != nil || !bytes.Equal(frames[0].Data, want) {
						t.Fatalf("size %d: got %d frames, %v, %x, want %x", size, n, err, frames[0].Data, want)
					}
				}
			})
		}
	}
}

func BenchmarkMemif(b *testing.B) {
	server, client := memifPair(b, dpdk.Config{})
	tx, rx := server.Queue(0), client.Queue(0)
	frames := make([]link.Frame, link.MaxBurst)
	received := 0
	b.ReportAllocs()
	for b.Loop() {
		for range link.MaxBurst {
			tx.Reserve(100)
			tx.Commit(100, link.TxOffload{})
		}
		tx.Flush()
		n, _ := rx.Receive(frames)
		received += n
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(received), "ns/frame")
}
