package handover

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/gotpa/tpa/link"
)

func mesh(tb testing.TB, shards, slots, frame int) (*Mesh, []int) {
	tb.Helper()
	woken := make([]int, shards)
	m, err := New(shards, slots, frame, func(owner int) { woken[owner]++ })
	if err != nil {
		tb.Fatal(err)
	}
	return m, woken
}

func frame(n uint64) link.Frame {
	return link.Frame{Data: binary.BigEndian.AppendUint64(make([]byte, 56), n), Checksum: link.Good}
}

func number(f link.Frame) uint64 { return binary.BigEndian.Uint64(f.Data[56:]) }

func TestFramesArriveInOrder(t *testing.T) {
	m, woken := mesh(t, 3, 8, 64)
	from, to := m.Port(0), m.Port(2)
	frames := make([]link.Frame, 3)
	var sent, got uint64
	for round := range 20 {
		before := woken[2]
		for range 5 {
			if from.Push(2, frame(sent)) {
				sent++
			}
		}
		if n := to.Receive(frames); round == 0 && n != 0 {
			t.Fatalf("%d frames before Flush", n)
		} else {
			for _, f := range frames[:n] {
				if number(f) != got {
					t.Fatalf("frame %d, want %d", number(f), got)
				}
				got++
			}
		}
		from.Flush()
		if woken[2] != before+1 {
			t.Fatalf("woken %d times by one Flush", woken[2]-before)
		}
		for {
			n := to.Receive(frames)
			if n == 0 {
				break
			}
			for _, f := range frames[:n] {
				if number(f) != got || f.Checksum != link.Good || len(f.Data) != 64 {
					t.Fatalf("frame %d with status %d and %d bytes, want %d, Good, 64", number(f), f.Checksum, len(f.Data), got)
				}
				got++
			}
		}
	}
	if got != sent || got != 100 {
		t.Errorf("%d frames arrived of %d, want all 100", got, sent)
	}
	if want := (Stats{Sent: 100}); from.Stats() != want {
		t.Errorf("producer's stats %+v, want %+v", from.Stats(), want)
	}
	if want := (Stats{Received: 100}); to.Stats() != want {
		t.Errorf("owner's stats %+v, want %+v", to.Stats(), want)
	}
	if m.Port(1).Receive(frames) != 0 || woken[1] != 0 {
		t.Error("a shard that nobody sent to was disturbed")
	}
}

func TestFullRingDropsAndCounts(t *testing.T) {
	m, _ := mesh(t, 2, 4, 64)
	from, to := m.Port(0), m.Port(1)
	for i := range uint64(6) {
		if got, want := from.Push(1, frame(i)), i < 4; got != want {
			t.Fatalf("Push of frame %d = %v, want %v", i, got, want)
		}
	}
	if want := (Stats{Sent: 4, Full: 2}); from.Stats() != want {
		t.Errorf("stats %+v, want %+v", from.Stats(), want)
	}
	from.Flush()
	frames := make([]link.Frame, 8)
	if n := to.Receive(frames); n != 4 {
		t.Fatalf("%d frames received, want 4", n)
	}
	// The frames are still the owner's, so there is no room yet.
	if from.Push(1, frame(9)) {
		t.Error("a slot was filled again before its frame was released")
	}
	if number(frames[0]) != 0 {
		t.Errorf("a frame in the owner's hands became %d", number(frames[0]))
	}
	to.Receive(frames)
	if !from.Push(1, frame(9)) {
		t.Error("no room after the frames were released")
	}
}

func TestFrameLongerThanASlot(t *testing.T) {
	m, _ := mesh(t, 2, 2, 64)
	from, to := m.Port(0), m.Port(1)
	frames := make([]link.Frame, 2)
	for round := range 3 {
		long := make([]byte, 65_000)
		long[len(long)-1] = byte(round)
		if !from.Push(1, link.Frame{Data: long}) || !from.Push(1, frame(7)) {
			t.Fatal("no room")
		}
		long[len(long)-1] = 0xff // the ring has a copy
		from.Flush()
		if n := to.Receive(frames); n != 2 || len(frames[0].Data) != len(long) || frames[0].Data[len(long)-1] != byte(round) || number(frames[1]) != 7 {
			t.Fatalf("round %d: %d frames, the first has %d bytes; want 2, %d", round, n, len(frames[0].Data), len(long))
		}
		to.Receive(frames)
	}
}

func TestBusyProducerDoesNotStarveOthers(t *testing.T) {
	m, _ := mesh(t, 3, 64, 64)
	to := m.Port(2)
	frames := make([]link.Frame, 4)
	const rounds = 10
	quiet := 0
	for range rounds {
		for range len(frames) {
			m.Port(0).Push(2, frame(0)) // the busy one fills every Receive
		}
		m.Port(0).Flush()
		m.Port(1).Push(2, frame(1))
		m.Port(1).Flush()
		for _, f := range frames[:to.Receive(frames)] {
			quiet += int(number(f))
		}
	}
	if quiet < rounds/2 {
		t.Errorf("%d of %d frames of the quiet producer came through, want at least half", quiet, rounds)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range [][3]int{{0, 8, 64}, {2, 0, 64}, {2, 12, 64}, {2, 8, 0}} {
		if _, err := New(c[0], c[1], c[2], nil); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}

// TestConcurrentShards lets every shard send to every other at once, as pollers
// do, and checks that nothing is lost uncounted, changed or out of order.
func TestConcurrentShards(t *testing.T) {
	const shards, each = 4, 5000
	m, err := New(shards, 64, 64, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	var pollers, producing sync.WaitGroup
	producing.Add(shards)
	done := make(chan struct{})
	go func() { producing.Wait(); close(done) }()
	for i := range shards {
		pollers.Go(func() {
			p := m.Port(i)
			frames := make([]link.Frame, 16)
			var got [shards]uint64 // next number from each producer
			sent := 0
			for finished := false; ; {
				for range 8 {
					if sent == each*shards {
						break
					}
					if owner := sent % shards; owner != i {
						p.Push(owner, frame(uint64(i)<<32|uint64(sent)))
					}
					if sent++; sent == each*shards {
						p.Flush()
						producing.Done()
					}
				}
				p.Flush()
				n := p.Receive(frames)
				for _, f := range frames[:n] {
					from, seq := number(f)>>32, number(f)&0xffffffff
					if from == uint64(i) || seq < got[from] || seq%shards != uint64(i) {
						t.Errorf("shard %d got %d from %d after %d", i, seq, from, got[from])
					}
					got[from] = seq + 1
				}
				if n == 0 {
					if finished {
						return
					}
					select {
					case <-done:
						finished = true // one more look: all is published now
					default:
						runtime.Gosched()
					}
				}
			}
		})
	}
	pollers.Wait()
	var all Stats
	for i := range shards {
		s := m.Port(i).Stats()
		all.Sent += s.Sent
		all.Full += s.Full
		all.Received += s.Received
	}
	if all.Sent != all.Received || all.Sent+all.Full != each*shards*(shards-1) {
		t.Errorf("sent %d, dropped %d, received %d, want %d in all", all.Sent, all.Full, all.Received, each*shards*(shards-1))
	}
	if all.Received == 0 {
		t.Error("nothing was handed over")
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	m, _ := mesh(t, 2, 64, 128)
	from, to, f := m.Port(0), m.Port(1), frame(1)
	frames := make([]link.Frame, link.MaxBurst)
	from.Push(1, f) // makes the ring
	if n := testing.AllocsPerRun(100, func() {
		from.Push(1, f)
		from.Flush()
		to.Receive(frames)
	}); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}

// BenchmarkHandOver is the whole way of one segment, pushed and received in
// bursts, on one processor.
func BenchmarkHandOver(b *testing.B) {
	for _, size := range []int{64, 1514} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			m, _ := mesh(b, 8, 256, 1518)
			from, to := m.Port(0), m.Port(7)
			f := link.Frame{Data: make([]byte, size)}
			frames := make([]link.Frame, link.MaxBurst)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				from.Push(7, f)
				if n++; n == 32 {
					n = 0
					from.Flush()
					to.Receive(frames)
				}
			}
		})
	}
}

// BenchmarkReceiveNothing is what every poll pays.
func BenchmarkReceiveNothing(b *testing.B) {
	m, _ := mesh(b, 8, 256, 1518)
	to := m.Port(7)
	frames := make([]link.Frame, link.MaxBurst)
	for b.Loop() {
		to.Receive(frames)
		to.Flush()
	}
}
