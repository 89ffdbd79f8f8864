//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/dpdk/internal/ringtest"
)

var randomChains = flag.Int("chains", 20_000, "random mbuf chains for TestRandomChains")

// openRing opens a net_ring port and the test's way into its ring.
func openRing(tb testing.TB, c dpdk.Config) (*dpdk.Port, *ringtest.Ring) {
	tb.Helper()
	c.Device = "net_ring0"
	p := open(tb, c)
	r, err := ringtest.Open("net_ring0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.Queue(0).Receive(nil) // gives back what the last Receive handed out
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p, r
}

// bytesOf returns n bytes that differ from those of another seed.
func bytesOf(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*3 + seed
	}
	return b
}

func TestChains(t *testing.T) {
	a, b, c := bytesOf(100, 1), bytesOf(200, 2), bytesOf(300, 3)
	for _, tt := range []struct {
		name  string
		chain ringtest.Chain
		want  []byte // nil: dropped
	}{
		{"one segment", ringtest.Chain{Segments: [][]byte{a}}, a},
		{"three segments", ringtest.Chain{Segments: [][]byte{a, b, c}}, slices.Concat(a, b, c)},
		{"smallest frame", ringtest.Chain{Segments: [][]byte{a[:14]}}, a[:14]},
		{"smallest frame in single bytes", ringtest.Chain{Segments: slices.Collect(slices.Chunk(a[:14], 1))}, a[:14]},
		{"largest frame", ringtest.Chain{Segments: [][]byte{bytesOf(512, 1), bytesOf(512, 2), bytesOf(494, 3)}}, slices.Concat(bytesOf(512, 1), bytesOf(512, 2), bytesOf(494, 3))},
		{"empty segment first", ringtest.Chain{Segments: [][]byte{nil, a}}, a},
		{"empty segment between", ringtest.Chain{Segments: [][]byte{a, nil, b}}, slices.Concat(a, b)},
		{"empty segment last", ringtest.Chain{Segments: [][]byte{a, nil}}, a},
		{"shared", ringtest.Chain{Segments: [][]byte{a}, Shared: true}, a},
		{"shared chain", ringtest.Chain{Segments: [][]byte{a, b}, Shared: true}, slices.Concat(a, b)},

		{"nothing", ringtest.Chain{Segments: [][]byte{nil}}, nil},
		{"runt", ringtest.Chain{Segments: [][]byte{a[:13]}}, nil},
		{"runt of many segments", ringtest.Chain{Segments: [][]byte{nil, a[:6], a[:7]}}, nil},
		{"one byte too long", ringtest.Chain{Segments: [][]byte{bytesOf(512, 1), bytesOf(512, 2), bytesOf(495, 3)}}, nil},
		{"claims more bytes", ringtest.Chain{Segments: [][]byte{a}, PktLen: 101}, nil},
		{"claims fewer bytes", ringtest.Chain{Segments: [][]byte{a}, PktLen: 99}, nil},
		{"claims 4 GB", ringtest.Chain{Segments: [][]byte{a}, PktLen: 1<<32 - 1}, nil},
		{"chain claims more bytes", ringtest.Chain{Segments: [][]byte{a, b}, PktLen: 301}, nil},
		{"chain claims fewer bytes", ringtest.Chain{Segments: [][]byte{a, b}, PktLen: 299}, nil},
		{"claims more segments", ringtest.Chain{Segments: [][]byte{a}, NbSegs: 2}, nil},
		{"chain claims more segments", ringtest.Chain{Segments: [][]byte{a, b}, NbSegs: 3}, nil},
		{"chain claims one segment", ringtest.Chain{Segments: [][]byte{a, b}, NbSegs: 1}, nil},
		{"chain claims fewer segments", ringtest.Chain{Segments: [][]byte{a, b, c}, NbSegs: 2}, nil},
		{"segment past its buffer", ringtest.Chain{Segments: [][]byte{a}, DataLen: 1000, PktLen: 1000}, nil},
		{"last segment past its buffer", ringtest.Chain{Segments: [][]byte{a, b}, DataLen: 1000, PktLen: 1100}, nil},
		{"segment starts past its buffer", ringtest.Chain{Segments: [][]byte{a}, DataOff: 60000}, nil},
		{"own successor", ringtest.Chain{Segments: [][]byte{a}, Loop: 1}, nil},
		{"circle of three", ringtest.Chain{Segments: [][]byte{a, b, c}, Loop: 1}, nil},
		{"circle behind a straight", ringtest.Chain{Segments: [][]byte{a, b, c}, Loop: 2}, nil},
		{"circle with enough segments", ringtest.Chain{Segments: [][]byte{a, b}, Loop: 1, NbSegs: 4, PktLen: 600}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, r := openRing(t, dpdk.Config{})
			if err := r.Put(tt.chain); err != nil {
				t.Fatal(err)
			}
			frames := make([]link.Frame, 2)
			n, err := p.Queue(0).Receive(frames)
			if err != nil {
				t.Fatal(err)
			}
			var want link.QueueStats
			if tt.want == nil {
				want.RxMalformed = 1
			} else {
				want.RxFrames, want.RxBytes = 1, uint64(len(tt.want))
			}
			if n != int(want.RxFrames) {
				t.Fatalf("got %d frames, want %d", n, want.RxFrames)
			}
			if n == 1 && !bytes.Equal(frames[0].Data, tt.want) {
				t.Errorf("got %x, want %x", frames[0].Data, tt.want)
			}
			if got := p.Queue(0).Stats(); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if tt.chain.Shared {
				// What the receiver does to its frame is none of the other owner's business.
				frames[0].Data[0] ^= 0xff
				p.Queue(0).Receive(nil)
				if r.InUse() != 1 {
					t.Errorf("%d mbufs in use, want that of the other owner", r.InUse())
				}
				r.Free()
			}
		})
	}
}

// Chains of any shape, true and lying, arrive whole or are counted, and no mbuf
// is lost. With -asan, what is read or written beyond a buffer ends the test.
func TestRandomChains(t *testing.T) {
	p, r := openRing(t, dpdk.Config{})
	q := p.Queue(0)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	chance := func(n int) bool { return random.IntN(n) == 0 }
	frames := make([]link.Frame, link.MaxBurst)
	malformed := uint64(0)
	for left := *randomChains; left > 0; {
		var want [][]byte
		for range min(left, 1+random.IntN(link.MaxBurst)) {
			left--
			var c ringtest.Chain
			for range 1 + random.IntN(7) {
				c.Segments = append(c.Segments, bytesOf(random.IntN(ringtest.Room+1), byte(random.Uint32())))
			}
			whole := slices.Concat(c.Segments...)
			true := len(whole) >= 14 && len(whole) <= p.Info().MaxFrame
			if chance(3) {
				true = false
				last := len(c.Segments) - 1
				switch random.IntN(5) {
				case 0:
					for c.PktLen == 0 || c.PktLen == len(whole) {
						c.PktLen = random.IntN(4000)
					}
				case 1:
					for c.NbSegs == 0 || c.NbSegs == len(c.Segments) {
						c.NbSegs = random.IntN(12)
					}
				case 2:
					c.DataLen = ringtest.Room + 1 + random.IntN(60000)
					c.PktLen = len(whole) - len(c.Segments[last]) + c.DataLen
				case 3:
					c.DataOff = 128 + ringtest.Room + 1 + random.IntN(60000)
				case 4:
					c.Loop = 1 + random.IntN(len(c.Segments))
				}
			}
			if err := r.Put(c); err != nil {
				t.Fatal(err)
			}
			if true {
				want = append(want, whole)
			} else {
				malformed++
			}
		}
		n, err := q.Receive(frames)
		if err != nil || n != len(want) {
			t.Fatalf("got %d frames, %v, want %d", n, err, len(want))
		}
		for i, f := range frames[:n] {
			if !bytes.Equal(f.Data, want[i]) {
				t.Fatalf("got %x, want %x", f.Data, want[i])
			}
		}
	}
	if got := q.Stats().RxMalformed; got != malformed {
		t.Errorf("%d counted as malformed, want %d", got, malformed)
	}
}

// A short slice is filled from a burst that the device gave as a whole.
func TestReceiveInParts(t *testing.T) {
	p, r := openRing(t, dpdk.Config{})
	q := p.Queue(0)
	for i := range 10 {
		if err := r.Put(ringtest.Chain{Segments: [][]byte{bytesOf(60, byte(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	frames := make([]link.Frame, 4)
	seed := byte(0)
	for _, want := range []int{4, 4, 2, 0} {
		n, err := q.Receive(frames)
		if n != want || err != nil {
			t.Fatalf("got %d frames, %v, want %d", n, err, want)
		}
		for _, f := range frames[:n] {
			if !bytes.Equal(f.Data, bytesOf(60, seed)) {
				t.Errorf("frame %d: got %x", seed, f.Data)
			}
			seed++
		}
	}
}

// When the pool is empty there are no buffers to send, and when they come back
// there are.
func TestExhaustedPool(t *testing.T) {
	p, r := openRing(t, dpdk.Config{})
	q := p.Queue(0)
	sent := 0
	for {
		for q.Reserve(60) != nil {
			q.Commit(60, link.TxOffload{})
			sent++
		}
		pending, err := q.Flush()
		if err != nil {
			t.Fatal(err)
		}
		if pending == 0 && q.Reserve(60) == nil {
			break
		}
		for {
			if _, ok := r.Take(); !ok {
				break
			}
		}
	}
	// What hides in the receive side's cache cannot be had.
	if total := p.Stats().BuffersTotal; sent < total-512 || sent > total {
		t.Errorf("%d frames sent out of a pool of %d", sent, total)
	}
	for {
		if _, ok := r.Take(); !ok {
			break
		}
	}
	r.Free()
	if err := send(q, 60, link.TxOffload{}, func(b []byte) { copy(b, "back") }); err != nil {
		t.Fatal(err)
	}
	if s, ok := r.Take(); !ok || !bytes.HasPrefix(s.Data, []byte("back")) {
		t.Errorf("got %q, %v", s.Data, ok)
	}
	r.Free()
}

func TestRemovedDevice(t *testing.T) {
	p, r := openRing(t, dpdk.Config{})
	q := p.Queue(0)
	if err := ringtest.PullOut("net_ring0"); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Receive(nil); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive: %d, %v, want an error that says so", n, err)
	}
	// A ring that nobody empties takes no more.
	var err error
	for err == nil {
		for q.Reserve(60) != nil {
			q.Commit(60, link.TxOffload{})
		}
		_, err = q.Flush()
	}
	if s := q.Stats(); errors.Is(err, net.ErrClosed) || s.TxDropped == 0 {
		t.Errorf("Flush: %v, %+v, want an error that says so and frames dropped", err, s)
	}
	for {
		if _, ok := r.Take(); !ok {
			break
		}
	}
	r.Free()
}
