package memory_test

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
)

func pair(t testing.TB, o memory.Options) (a, b *memory.Device) {
	t.Helper()
	a, b, err := memory.Pair(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// send stages one frame and reports whether there was room.
func send(q link.Queue, frame []byte) bool {
	b := q.Reserve(len(frame))
	if b == nil {
		return false
	}
	q.Commit(copy(b, frame), link.TxOffload{})
	return true
}

func TestOptions(t *testing.T) {
	for _, o := range []memory.Options{{Queues: -1}, {Queues: 257}, {MTU: 100}, {MTU: 70000}, {Ring: 3}, {Ring: 1 << 20}} {
		if _, _, err := memory.Pair(o); err == nil {
			t.Errorf("Pair(%+v) succeeded, want an error", o)
		}
	}
}

func TestEverySize(t *testing.T) {
	a, b := pair(t, memory.Options{MTU: 1500, Queues: 2})
	tx, rx, other := a.Queue(1), b.Queue(1), b.Queue(0)
	frames := make([]link.Frame, link.MaxBurst)
	for size := link.EthernetHeaderLen; size <= a.Info().MaxFrame; size++ {
		want := bytes.Repeat([]byte{byte(size)}, size)
		if !send(tx, want) {
			t.Fatalf("no room for frame of %d bytes", size)
		}
		if n, err := rx.Receive(frames); n != 0 || err != nil {
			t.Fatalf("before Flush: got %d frames, %v", n, err)
		}
		tx.Flush()
		if n, err := rx.Receive(frames); n != 1 || err != nil || !bytes.Equal(frames[0].Data, want) {
			t.Fatalf("size %d: got %d frames, %v", size, n, err)
		}
	}
	if n, _ := other.Receive(frames); n != 0 {
		t.Errorf("queue 0 got %d frames of queue 1", n)
	}
	if b := tx.Reserve(a.Info().MaxFrame + 1); b != nil {
		t.Error("Reserve gave room for a frame that is too large")
	}
}

// TestFullRing fills the ring, and checks that nothing is lost or reordered.
func TestFullRing(t *testing.T) {
	a, b := pair(t, memory.Options{Ring: 8})
	tx, rx := a.Queue(0), b.Queue(0)
	frames := make([]link.Frame, link.MaxBurst)
	next, sent := byte(0), byte(0)
	for range 20 {
		for send(tx, bytes.Repeat([]byte{sent}, 60)) {
			sent++
		}
		tx.Flush()
		n, err := rx.Receive(frames[:5])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:n] {
			if f.Data[0] != next {
				t.Fatalf("got frame %d, want %d", f.Data[0], next)
			}
			next++
		}
	}
	if s := b.Stats(); s.RxPackets != uint64(next) || s.BuffersTotal != 8 {
		t.Errorf("stats: %+v, want %d packets", s, next)
	}
}

func TestWait(t *testing.T) {
	a, b := pair(t, memory.Options{})
	tx, rx := a.Queue(0), b.Queue(0)
	w := rx.(link.Waiter)
	woken := func(what string, wake func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { w.Wait(-1); close(done) }()
		wake()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not wake the receiver", what)
		}
	}
	woken("Wake", w.Wake)
	woken("a frame", func() { send(tx, make([]byte, 60)); tx.Flush() })
	rx.Receive(make([]link.Frame, 1))
	woken("Close", func() { b.Close() })
	if _, err := rx.Receive(make([]link.Frame, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close: got %v, want net.ErrClosed", err)
	}
	if a.LinkUp() || b.LinkUp() {
		t.Error("the link is up although one side is closed")
	}
	send(tx, make([]byte, 60))
	if _, err := tx.Flush(); err != nil || tx.Stats().TxDropped != 1 {
		t.Errorf("sending to a closed device: %v, dropped %d, want nil and 1", err, tx.Stats().TxDropped)
	}
}

func BenchmarkFrame(b *testing.B) {
	x, y := pair(b, memory.Options{})
	tx, rx := x.Queue(0), y.Queue(0)
	frames := make([]link.Frame, link.MaxBurst)
	frame := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		for range 32 {
			send(tx, frame)
		}
		tx.Flush()
		rx.Receive(frames)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/frame")
}
