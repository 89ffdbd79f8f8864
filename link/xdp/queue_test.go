package xdp_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
)

// A burst of frames that is larger than the rings goes through whole as long as
// the reader keeps up, many times over: no chunk is lost.
func TestManyFrames(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			cfg := m.cfg
			cfg.RingSize = 64
			b := newBench(t, cfg, testnet.Wire{})
			q := b.dev.Queue(0)
			const rounds, burst = 200, 60
			for round := range rounds {
				if n, err := q.Receive(b.frames); n != 0 || err != nil { // takes the chunks back
					t.Fatalf("Receive() = %d, %v, want nothing", n, err)
				}
				var want [][]byte
				for i := range burst {
					want = append(want, b.segment(b.near.IPv4.Addr(), b.claimed, 100, byte(round+i)))
					b.send(want[i])
				}
				for i, got := range b.receive(q, burst) {
					if !bytes.Equal(got, want[i]) {
						t.Fatalf("round %d: frame %d is not the one sent:\n got %x\nwant %x", round, i, got, want[i])
					}
				}
			}
			if st := q.Stats(); st.RxFrames != rounds*burst || st.RxNoBuffer != 0 {
				t.Errorf("stats %+v, want %d frames and none lost", st, rounds*burst)
			}
		})
	}
}

// What finds no chunk is lost and counted, and the queue goes on.
func TestReceiveRingFull(t *testing.T) {
	b := newBench(t, xdp.Config{RingSize: 64}, testnet.Wire{})
	q := b.dev.Queue(0)
	const sent = 200
	frame := b.segment(b.near.IPv4.Addr(), b.claimed, 100, 0)
	for range sent {
		b.send(frame)
	}
	until(t, "all frames accounted for", func() bool {
		if _, err := q.Receive(b.frames); err != nil {
			t.Fatal(err)
		}
		st := q.Stats()
		return st.RxFrames+st.RxNoBuffer == sent && st.RxNoBuffer > 0
	})
	for range 100 {
		if n, err := q.Receive(b.frames); n != 0 || err != nil { // takes the chunks back
			t.Fatalf("Receive() = %d, %v, want nothing", n, err)
		}
		b.send(frame)
		b.receive(q, 1)
	}
}

func TestTransmitRingFull(t *testing.T) {
	b := newBench(t, xdp.Config{RingSize: 64}, testnet.Wire{})
	q := b.dev.Queue(0)
	header := append(append(bytes.Clone(b.far.MAC), b.near.MAC...), 0x88, 0xb5)
	stage := func(i int) bool {
		buf := q.Reserve(60)
		if buf == nil {
			return false
		}
		clear(buf[:60])
		copy(buf, header)
		buf[14], buf[15] = byte(i>>8), byte(i)
		q.Commit(60, link.TxOffload{})
		return true
	}
	const frames = 1000
	for i := range frames {
		for !stage(i) {
			if _, err := q.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "everything flushed", func() bool {
		pending, err := q.Flush()
		if err != nil {
			t.Fatal(err)
		}
		return pending == 0
	})
	for i := range frames {
		got := b.sniff(header)
		if n := int(got[14])<<8 | int(got[15]); n != i {
			t.Fatalf("frame %d arrived as number %d", n, i)
		}
	}
	if st := q.Stats(); st.TxFrames != frames || st.TxDropped != 0 {
		t.Errorf("stats %+v, want %d frames sent", st, frames)
	}
}

// Reserve without Commit hands out the same buffer again, and refuses what is too
// large.
func TestReserve(t *testing.T) {
	for _, m := range []mode{modes[0], ring} {
		t.Run(m.name, func(t *testing.T) {
			b := newBench(t, m.cfg, testnet.Wire{})
			q, maxFrame := b.dev.Queue(0), b.dev.Info().MaxFrame
			first := q.Reserve(60)
			if second := q.Reserve(maxFrame); &first[0] != &second[0] {
				t.Error("a buffer that was not committed was not handed out again")
			}
			if len(first) < maxFrame {
				t.Errorf("Reserve(60) has %d bytes, want room for any frame (%d)", len(first), maxFrame)
			}
			limit := max(maxFrame, b.dev.Info().TSO)
			if got := q.Reserve(limit + 1); got != nil {
				t.Errorf("Reserve(%d) gave %d bytes, want nil", limit+1, len(got))
			}
			q.Commit(60, link.TxOffload{})
			if third := q.Reserve(60); &first[0] == &third[0] {
				t.Error("a committed buffer was handed out again before it left")
			}
		})
	}
}

// Each receive queue of the interface reaches the link queue that serves it.
func TestQueues(t *testing.T) {
	for _, m := range modes {
		for _, queues := range []int{1, 2, 3, 4} {
			t.Run(fmt.Sprintf("%s/%d of 4", m.name, queues), func(t *testing.T) {
				cfg := m.cfg
				cfg.Queues = queues
				b := newBench(t, cfg, testnet.Wire{Queues: 4})
				if got := b.dev.Info().Queues; got != queues {
					t.Fatalf("Info().Queues is %d, want %d", got, queues)
				}
				// The peer picks a queue by its flow hash: ports enough hit them all.
				const frames = 400
				want := map[string]bool{}
				for i := range frames {
					f := b.segment(b.near.IPv4.Addr(), b.claimed, 100, byte(i))
					f[34], f[35] = byte(i>>8)|0x80, byte(i) // source port
					want[string(f)] = true
					b.send(f)
				}
				seen := make([]int, queues)
				total := 0
				until(t, "all frames", func() bool {
					for i := range queues {
						n, err := b.dev.Queue(i).Receive(b.frames)
						if err != nil {
							t.Fatal(err)
						}
						for _, f := range b.frames[:n] {
							if !want[string(f.Data)] {
								t.Fatalf("queue %d: a frame that was not sent, or came twice: %x", i, f.Data)
							}
							delete(want, string(f.Data))
						}
						seen[i] += n
						total += n
					}
					return total == frames
				})
				for i, n := range seen {
					// In generic mode veth numbers its queues from 1, when it does at all.
					if n == 0 && b.dev.Filter().Mode() == bpf.Native {
						t.Errorf("queue %d got no frame: %v", i, seen)
					}
				}
				// And each can send.
				for i := range queues {
					header := append(append(bytes.Clone(b.far.MAC), b.near.MAC...), 0x88, 0xb5, byte(i))
					buf := b.dev.Queue(i).Reserve(60)
					clear(buf[:60])
					copy(buf, header)
					b.dev.Queue(i).Commit(60, link.TxOffload{})
					if pending, err := b.dev.Queue(i).Flush(); pending != 0 || err != nil {
						t.Fatalf("queue %d: Flush() = %d, %v", i, pending, err)
					}
					b.sniff(header)
				}
			})
		}
	}
}

func TestWait(t *testing.T) {
	for _, tt := range []struct {
		name   string
		queues int
		busy   time.Duration
	}{
		{"1 socket", 1, 0},
		{"2 sockets", 2, 0},
		{"busy polling", 1, 200 * time.Microsecond},
		{"busy polling, 2 sockets", 2, 200 * time.Microsecond},
		{"busy polling for longer than waits", 1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xdp.LeaveIn(t.TempDir())
			t.Cleanup(func() { xdp.LeaveIn("/run/tpa") })
			b := newBench(t, xdp.Config{Queues: 1, BusyPoll: tt.busy}.DeferAnyway(), testnet.Wire{Queues: tt.queues})
			q := b.dev.Queue(0).(*xdp.Queue)
			// A queue may return early for no reason: the caller waits again.
			waitUntil := func(what string, condition func() bool) time.Duration {
				t.Helper()
				start := time.Now()
				for !condition() {
					q.Wait(2 * time.Second)
					if time.Since(start) > 5*time.Second {
						t.Fatalf("slept through: %s", what)
					}
				}
				return time.Since(start)
			}

			start := time.Now()
			q.Wait(20 * time.Millisecond)
			q.Wait(0)
			if d := time.Since(start); d < 20*time.Millisecond || d > time.Second {
				t.Errorf("a wait of 20 ms took %v", d)
			}

			for i := range 50 {
				frame := b.segment(b.near.IPv4.Addr(), b.claimed, 100, byte(i))
				frame[35] = byte(i) // source port: another queue
				go func() {
					time.Sleep(time.Duration(i%5) * time.Millisecond / 2)
					b.send(frame)
				}()
				d := waitUntil("a frame", func() bool {
					n, err := q.Receive(b.frames)
					if err != nil {
						t.Fatal(err)
					}
					return n > 0
				})
				if d > 900*time.Millisecond {
					t.Errorf("woke %v after a frame", d)
				}
			}

			for i := range 50 {
				done := make(chan time.Time, 1)
				go func() {
					time.Sleep(time.Duration(i%5) * time.Millisecond / 2)
					done <- time.Now()
					q.Wake()
				}()
				waitUntil("a wake", func() bool { return len(done) > 0 })
				if d := time.Since(<-done); d > 900*time.Millisecond {
					t.Errorf("woke %v after Wake", d)
				}
			}

			q.Wake() // before Wait
			start = time.Now()
			q.Wait(2 * time.Second)
			if d := time.Since(start); d > 900*time.Millisecond {
				t.Errorf("a wait after Wake took %v", d)
			}
		})
	}
}

// A waiting queue leaves the only processor to others.
func TestWaitHoldsNoProcessor(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	q := b.dev.Queue(0).(*xdp.Queue)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.Wait(time.Second)
	}()
	start := time.Now()
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case <-done:
	default:
	}
	if d := time.Since(start); d > 500*time.Millisecond {
		t.Errorf("others ran after %v", d)
	}
	q.Wake()
	<-done
}

func TestNoAllocations(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	q := b.dev.Queue(0).(*xdp.Queue)
	frame := b.segment(b.near.IPv4.Addr(), b.claimed, 100, 0)
	got := testing.AllocsPerRun(200, func() {
		b.send(frame)
		for {
			n, err := q.Receive(b.frames)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				break
			}
			q.Wait(10 * time.Millisecond)
		}
		copy(q.Reserve(100), frame)
		q.Commit(100, link.TxOffload{})
		if _, err := q.Flush(); err != nil {
			t.Fatal(err)
		}
		q.Wake()
		q.Wait(time.Millisecond)
	})
	if got != 0 {
		t.Errorf("%v allocations for one frame each way, want 0", got)
	}
}

func TestClose(t *testing.T) {
	b := newBench(t, xdp.Config{RingSize: 64}, testnet.Wire{Queues: 2})
	if st := b.dev.Stats(); st.BuffersTotal != 4*64 || st.BuffersInUse != 2*64 {
		t.Errorf("%d of %d buffers in use, want 128 of 256: those in the fill rings", st.BuffersInUse, st.BuffersTotal)
	}
	q := b.dev.Queue(0)
	b.send(b.segment(b.near.IPv4.Addr(), b.claimed, 100, 0))
	q.Commit(len(q.Reserve(60)[:60]), link.TxOffload{}) // never flushed
	if !b.dev.LinkUp() {
		t.Error("LinkUp() is false")
	}
	for range 2 {
		if err := b.dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := q.Receive(b.frames); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive: %v, want net.ErrClosed", err)
	}
	if _, err := q.Flush(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Flush: %v, want net.ErrClosed", err)
	}
	if st := q.Stats(); st.TxDropped != 1 {
		t.Errorf("stats %+v, want the frame that was not flushed in TxDropped", st)
	}
	if st := b.dev.Stats(); st.BuffersInUse != 0 {
		t.Errorf("%d buffers in use after Close", st.BuffersInUse)
	}
	if v := b.dev.Filter().Counts(); v.Redirected != 1 {
		t.Errorf("counts after Close %+v, want the last ones", v)
	}
	if err := b.dev.Filter().Claim(b.near.IPv4.Addr(), 1, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Claim: %v, want net.ErrClosed", err)
	}
	q.(*xdp.Queue).Wait(0) // returns
	q.(*xdp.Queue).Wake()
	open(t, b.near, xdp.Config{Interface: b.near.Name}) // everything was given back
}

// A queue whose interface goes down counts what it cannot send, and goes on when
// it is up.
func TestInterfaceDownAndUp(t *testing.T) {
	for _, m := range []mode{modes[0], ring} {
		t.Run(m.name, func(t *testing.T) {
			b := newBench(t, m.cfg, testnet.Wire{})
			q := b.dev.Queue(0)
			nl := b.near.Host.Netlink
			l, err := nl.LinkByName(b.near.Name)
			if err != nil {
				t.Fatal(err)
			}
			if err := nl.LinkSetDown(l); err != nil {
				t.Fatal(err)
			}
			until(t, "LinkUp is false", func() bool { return !b.dev.LinkUp() })
			header := append(append(bytes.Clone(b.far.MAC), b.near.MAC...), 0x88, 0xb5)
			stage := func() {
				buf := q.Reserve(60)
				clear(buf)
				copy(buf, header)
				q.Commit(60, link.TxOffload{})
			}
			stage()
			for range 3 {
				if pending, err := q.Flush(); pending != 0 || err != nil {
					t.Errorf("down: Flush() = %d, %v, want 0, nil", pending, err)
				}
				if n, err := q.Receive(b.frames); n != 0 || err != nil {
					t.Errorf("down: Receive() = %d, %v, want 0, nil", n, err)
				}
			}
			if err := nl.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
			until(t, "LinkUp is true", b.dev.LinkUp)
			// The ring keeps the frame, a packet socket loses it.
			if m.name != ring.name {
				if st := q.Stats(); st.TxDropped != 1 || st.TxFrames != 0 {
					t.Errorf("%+v, want one frame counted as dropped", st)
				}
				stage()
			}
			if _, err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			b.sniff(header)
			until(t, "a frame after up", func() bool {
				b.send(b.segment(b.near.IPv4.Addr(), b.claimed, 100, 7)) // dropped until the kernel at far notices
				n, err := q.Receive(b.frames)
				if err != nil {
					t.Fatal(err)
				}
				return n > 0
			})
		})
	}
}

func TestInterfaceGone(t *testing.T) {
	b := newBench(t, xdp.Config{}, testnet.Wire{})
	q := b.dev.Queue(0).(*xdp.Queue)
	l, err := b.near.Host.Netlink.LinkByName(b.near.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.near.Host.Netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for err = nil; err == nil; {
		q.Wait(-1)
		_, err = q.Receive(b.frames)
	}
	if !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Receive: %v, want ENODEV", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("noticed after %v", d)
	}
	q.Commit(len(q.Reserve(60)[:60]), link.TxOffload{})
	if _, err := q.Flush(); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Flush: %v, want ENODEV", err)
	}
	if st := q.Stats(); st.TxDropped != 1 {
		t.Errorf("stats %+v, want one frame dropped", st)
	}
	if q.Reserve(60) != nil {
		t.Error("Reserve still hands out buffers")
	}
	if b.dev.LinkUp() {
		t.Error("LinkUp() is true")
	}
}
