package queues

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/softnic"
	"github.com/gotpa/tpa/test/virtualtime"
)

// Test32Shards makes 10,000 connections between two hosts with 32 queues each.
// No segment crosses over to another shard, and the work is shared evenly.
//
// Who dials deals connections out in turn. On the other side they are spread by a
// hash: chance alone gives a standard deviation of 1/sqrt(10,000/32) = 5.7 %. The
// keys come from a seed, so that the test does not fail by chance.
func Test32Shards(t *testing.T) {
	const shards, flows, wave, payload = 32, 10_000, 1000, 64
	virtualtime.Test(t, func(t *testing.T) {
		// Small buffers: 64 stacks share the memory of one test.
		c := accel.Config{Random: newRandom(1), TCP: accel.TCP{ReceiveBuffer: 16 << 10, SendBuffer: 16 << 10, TimeWait: time.Millisecond}}
		client := newHost(t, 1, shards, nil, c)
		c.Random = newRandom(2)
		server := newHost(t, 2, shards, nil, c)
		softnic.Connect(client.nic, server.nic)
		ln := server.echo(t)
		d := accel.Dialer{Runtime: client.rt, Timeout: time.Minute}
		for range flows / wave {
			var wg sync.WaitGroup
			for i := range wave {
				wg.Go(func() {
					conn, err := d.Dial("tcp", []string{"10.0.0.2:7", "[fd00::2]:7"}[i%2])
					if err == nil {
						err = exchange(conn, uint64(i), payload)
						conn.Close()
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Second)
		}
		for i, h := range []*host{client, server} {
			if o := h.handover(); o != (accel.HandoverStats{}) {
				t.Errorf("host %d: shards handed over %+v, want nothing", i+1, o)
			}
			var frames [shards]float64
			for j, s := range h.rt.Stats().Shards {
				frames[j] = float64(s.Queue.RxFrames)
			}
			mean, spread, most := evenness(frames[:])
			t.Logf("host %d: %.0f frames per shard, standard deviation %.1f %%, greatest %.1f %%", i+1, mean, 100*spread, 100*most)
			if mean < 2*flows/shards {
				t.Errorf("host %d: %.0f frames per shard: the connections were not made", i+1, mean)
			}
			if most > 0.10 {
				t.Errorf("host %d: the work of a shard differs by %.1f %%, want at most 10 %%", i+1, 100*most)
			}
		}
		ln.Close()
		client.rt.Close()
		server.rt.Close()
		synctest.Wait()
	})
}

// random is a source that repeats, for any goroutine.
type random struct {
	mu     sync.Mutex
	source *rand.ChaCha8
}

func newRandom(seed byte) *random { return &random{source: rand.NewChaCha8([32]byte{seed})} }

func (r *random) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source.Read(b)
}

// evenness returns the mean, and relative to it the standard deviation and the
// greatest deviation.
func evenness(v []float64) (mean, deviation, most float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		deviation += (x - mean) * (x - mean) / float64(len(v))
		most = max(most, math.Abs(x-mean)/mean)
	}
	return mean, math.Sqrt(deviation) / mean, most
}

// TestNear checks that a dial goes to the shard of a connection that it is near.
func TestNear(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		client := newHost(t, 1, 8, nil, accel.Config{})
		server := newHost(t, 2, 8, nil, accel.Config{})
		softnic.Connect(client.nic, server.nic)
		ln := server.echo(t)
		dial := func(near net.Conn) net.Conn {
			c, err := (&accel.Dialer{Runtime: client.rt, Near: near, Timeout: time.Minute}).Dial("tcp", "10.0.0.2:7")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		shard := func(c net.Conn) int { return c.(interface{ Shard() int }).Shard() }
		seen := map[int]bool{}
		for range 8 {
			first := dial(nil)
			second := dial(first)
			seen[shard(first)] = true
			if got, want := shard(second), shard(first); got != want {
				t.Errorf("a connection near one of shard %d is on shard %d", want, got)
			}
			first.Close()
			second.Close()
		}
		if len(seen) != 8 {
			t.Errorf("8 dials used %d of 8 shards", len(seen))
		}
		ln.Close()
		client.rt.Close()
		server.rt.Close()
		synctest.Wait()
	})
}

// TestPerShard checks that each listener of PerShard returns the connections of
// its shard, and that closing gives the port back.
func TestPerShard(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		const shards = 4
		client := newHost(t, 1, shards, nil, accel.Config{})
		server := newHost(t, 2, shards, nil, accel.Config{})
		softnic.Connect(client.nic, server.nic)
		lc := accel.ListenConfig{Runtime: server.rt}
		for round := range 2 {
			lns, err := lc.PerShard(t.Context(), "tcp", ":7")
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if len(lns) != shards {
				t.Fatalf("%d listeners, want %d", len(lns), shards)
			}
			if _, err := lc.Listen(t.Context(), "tcp", ":7"); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a second listener: got %v, want EADDRINUSE", err)
			}
			accepted := make([]int, shards)
			var loops sync.WaitGroup
			for i, ln := range lns {
				loops.Go(func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							if !errors.Is(err, net.ErrClosed) {
								t.Error(err)
							}
							return
						}
						if got := c.(interface{ Shard() int }).Shard(); got != i {
							t.Errorf("listener %d accepted a connection of shard %d", i, got)
						}
						accepted[i]++
						go func() {
							io.Copy(c, c)
							c.Close()
						}()
					}
				})
			}
			d := accel.Dialer{Runtime: client.rt, Timeout: time.Minute}
			for range 64 {
				c, err := d.Dial("tcp", "10.0.0.2:7")
				if err != nil {
					t.Fatal(err)
				}
				if err := exchange(c, 1, 100); err != nil {
					t.Error(err)
				}
				c.Close()
			}
			stats := server.rt.Stats().Listeners
			if len(stats) != 1 || len(stats[0].Queues) != shards {
				t.Errorf("stats %+v: want one listener with %d queues", stats, shards)
			}
			if round == 0 {
				for _, ln := range lns {
					if err := ln.Close(); err != nil {
						t.Error(err)
					}
				}
			} else {
				server.rt.Close() // closes what is open
			}
			loops.Wait()
			sum := 0
			for i, n := range accepted {
				if n == 0 {
					t.Errorf("listener %d accepted nothing", i)
				}
				sum += n
			}
			if sum != 64 {
				t.Errorf("%d connections were accepted, want 64", sum)
			}
		}
		client.rt.Close()
		synctest.Wait()
	})
}
