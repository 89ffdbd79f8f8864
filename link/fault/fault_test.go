package fault

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/softnic"
)

// pair returns a device behind impairments and a card at the other end of its
// cable.
func pair(tb testing.TB, c Config, nic softnic.Config) (*Device, *softnic.NIC) {
	tb.Helper()
	if nic.Ring == 0 {
		nic.Ring = 1 << 15
	}
	near, err := softnic.New(nic)
	if err != nil {
		tb.Fatal(err)
	}
	far, err := softnic.New(softnic.Config{Ring: nic.Ring})
	if err != nil {
		tb.Fatal(err)
	}
	softnic.Connect(near, far)
	d, err := Wrap(near, c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close(); far.Close() })
	return d, far
}

// numbered is frame number i: no IP, so that all go to queue 0.
func numbered(i, length int) []byte {
	f := make([]byte, length)
	f[12], f[13] = 0x88, 0xb5 // local experimental EtherType (IEEE 802)
	binary.BigEndian.PutUint32(f[14:], uint32(i))
	return f
}

func number(f []byte) int { return int(binary.BigEndian.Uint32(f[14:])) }

// drain returns copies of what a queue has now.
func drain(tb testing.TB, q link.Queue) (got []link.Frame) {
	tb.Helper()
	frames := make([]link.Frame, link.MaxBurst)
	for {
		n, err := q.Receive(frames)
		if err != nil {
			tb.Fatal(err)
		}
		if n == 0 {
			return got
		}
		for _, f := range frames[:n] {
			got = append(got, link.Frame{Data: bytes.Clone(f.Data), Checksum: f.Checksum})
		}
	}
}

func numbers(frames []link.Frame) (got []int) {
	for _, f := range frames {
		got = append(got, number(f.Data))
	}
	return got
}

func send(tb testing.TB, q link.Queue, f []byte, tx link.TxOffload) {
	tb.Helper()
	b := q.Reserve(len(f))
	if b == nil {
		tb.Fatal("no transmit buffer")
	}
	q.Commit(copy(b, f), tx)
}

func flush(tb testing.TB, q link.Queue) {
	tb.Helper()
	if pending, err := q.Flush(); pending != 0 || err != nil {
		tb.Fatalf("Flush = %d, %v", pending, err)
	}
}

// through sends count frames one way through the impairment and returns what
// arrives within a virtual hour, in order.
func through(t *testing.T, d direction, c Config, count int) (got []link.Frame, counters Counters) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dev, far := pair(t, c, softnic.Config{})
		from, to := far.Queue(0), dev.Queue(0)
		if d == transmit {
			from, to = to, from
		}
		for i := range count {
			send(t, from, numbered(i, 100), link.TxOffload{})
			if i%16 == 15 {
				flush(t, from)
				got = append(got, drain(t, to)...)
			}
		}
		flush(t, from)
		for range 60 {
			got = append(got, drain(t, to)...)
			time.Sleep(time.Minute)
		}
		counters, _ = dev.Counters()
		if d == transmit {
			_, counters = dev.Counters()
		}
		if counters.Waiting != 0 {
			t.Errorf("%d frames still wait", counters.Waiting)
		}
	})
	return got, counters
}

var directions = map[string]direction{"receive": receive, "transmit": transmit}

// impaired is a configuration that impairs one direction.
func impaired(seed uint64, d direction, i Impairment) Config {
	c := Config{Seed: seed}
	if d == receive {
		c.Receive = i
	} else {
		c.Transmit = i
	}
	return c
}

// about fails unless got is within four standard deviations of count trials of
// probability p.
func about(t *testing.T, what string, got uint64, count int, p float64) {
	t.Helper()
	mean, deviation := float64(count)*p, math.Sqrt(float64(count)*p*(1-p))
	if math.Abs(float64(got)-mean) > 4*deviation+1 {
		t.Errorf("%s: %d of %d, want about %.0f", what, got, count, mean)
	}
}

func TestKinds(t *testing.T) {
	const count, p = 10000, 0.05
	for name, d := range directions {
		t.Run(name+"/drop", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Drop: p}), count)
			about(t, "dropped", c.Dropped, count, p)
			if len(got) != count-int(c.Dropped) {
				t.Errorf("%d frames arrived, want %d", len(got), count-int(c.Dropped))
			}
		})
		t.Run(name+"/drop in bursts", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Drop: p, DropBurst: 5}), count)
			runs, last := 0, -1
			for _, i := range append(numbers(got), count) {
				if i != last+1 {
					runs++
				}
				last = i
			}
			// Runs of five vary more than single losses.
			if c.Dropped < count*p/2 || c.Dropped > count*p*2 {
				t.Errorf("%d dropped of %d, want about %v", c.Dropped, count, count*p)
			}
			if mean := float64(c.Dropped) / float64(runs); mean < 3.5 || mean > 7 {
				t.Errorf("%.1f losses per run, want about 5", mean)
			}
		})
		t.Run(name+"/duplicate", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Duplicate: p}), count)
			about(t, "duplicated", c.Duplicated, count, p)
			twice := 0
			for i := 1; i < len(got); i++ {
				if number(got[i].Data) == number(got[i-1].Data) {
					twice++
				}
			}
			if twice != int(c.Duplicated) || len(got) != count+twice {
				t.Errorf("%d frames, %d twice, want %d twice", len(got), twice, c.Duplicated)
			}
		})
		t.Run(name+"/reorder", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Reorder: p}), count)
			about(t, "reordered", c.Reordered, count, p)
			late := 0
			for i, highest := 0, -1; i < len(got); i++ {
				if n := number(got[i].Data); n < highest {
					late++
				} else {
					highest = n
				}
			}
			// Time stands still here while frames are sent: all that are held back
			// come after all others.
			if late < int(c.Reordered)*9/10 || len(got) != count {
				t.Errorf("%d frames, %d late, want %d and about %d", len(got), late, count, c.Reordered)
			}
		})
		t.Run(name+"/corrupt", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Corrupt: p}), count)
			about(t, "corrupted", c.Corrupted, count, p)
			wrong := 0
			for i, f := range got {
				if !bytes.Equal(f.Data, numbered(i, 100)) {
					wrong++
					flipped := 0
					for j, b := range numbered(i, 100) {
						flipped += bits.OnesCount8(b ^ f.Data[j])
					}
					if flipped != 1 {
						t.Errorf("frame %d has %d bits flipped, want 1", i, flipped)
					}
				}
			}
			if wrong != int(c.Corrupted) || len(got) != count {
				t.Errorf("%d frames, %d corrupted, want %d and %d", len(got), wrong, count, c.Corrupted)
			}
		})
		t.Run(name+"/cut", func(t *testing.T) {
			got, c := through(t, d, impaired(1, d, Impairment{Cut: p}), count)
			about(t, "cut", c.Cut, count, p)
			short := 0
			for i, f := range got {
				if len(f.Data) < 14 || !bytes.HasPrefix(numbered(i, 100), f.Data) {
					t.Fatalf("frame %d became %x", i, f.Data)
				}
				if len(f.Data) < 100 {
					short++
				}
			}
			if short != int(c.Cut) || len(got) != count {
				t.Errorf("%d frames, %d cut, want %d and %d", len(got), short, count, c.Cut)
			}
		})
	}
}

func TestSameSeedSameFate(t *testing.T) {
	all := Impairment{
		Drop: 0.1, DropBurst: 3, Duplicate: 0.1, Reorder: 0.1, Corrupt: 0.1, Cut: 0.1,
		Delay: time.Millisecond, Jitter: time.Millisecond, Rate: 1e9,
	}
	same := func(a, b []link.Frame) bool {
		return slices.EqualFunc(a, b, func(a, b link.Frame) bool { return bytes.Equal(a.Data, b.Data) })
	}
	for name, d := range directions {
		a, counters := through(t, d, impaired(7, d, all), 3000)
		b, again := through(t, d, impaired(7, d, all), 3000)
		if !same(a, b) || counters != again {
			t.Errorf("%s: two runs differ: %d frames, %+v and %d, %+v", name, len(a), counters, len(b), again)
		}
		if c, _ := through(t, d, impaired(8, d, all), 3000); same(a, c) {
			t.Errorf("%s: another seed, the same frames", name)
		}
	}
}

func TestKindsAreIndependent(t *testing.T) {
	alone, _ := through(t, receive, impaired(3, receive, Impairment{Drop: 0.1}), 2000)
	got, _ := through(t, receive, impaired(3, receive, Impairment{Drop: 0.1, Corrupt: 0.5, Delay: time.Second}), 2000)
	// Numbers may be corrupted, so the count tells: the same frames are dropped.
	if len(alone) != len(got) {
		t.Errorf("%d frames left with other kinds on, %d without", len(got), len(alone))
	}
	for i := range got {
		if a, b := number(alone[i].Data), number(got[i].Data); bits.OnesCount32(uint32(a^b)) > 1 {
			t.Fatalf("frame %d arrived in place of %d", b, a)
		}
	}
}

func TestDelayWakesThePoller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, far := pair(t, Config{Receive: Impairment{Delay: 30 * time.Millisecond}}, softnic.Config{})
		q := d.Queue(0)
		w := q.(link.Waiter)
		start := time.Now()
		send(t, far.Queue(0), numbered(1, 60), link.TxOffload{})
		flush(t, far.Queue(0))
		if got := drain(t, q); len(got) != 0 {
			t.Fatalf("%d frames at once", len(got))
		}
		w.Wait(-1)
		if got := time.Since(start); got != 30*time.Millisecond {
			t.Errorf("woke after %v, want 30ms", got)
		}
		w.Wait(-1) // due, not received: no more sleep
		if got := drain(t, q); len(got) != 1 {
			t.Errorf("%d frames when due, want 1", len(got))
		}
		w.Wait(time.Second)
		if got := time.Since(start); got != 1030*time.Millisecond {
			t.Errorf("slept till %v with nothing to come, want 1.03s", got)
		}
		time.AfterFunc(time.Second, w.Wake)
		w.Wait(-1)
		if got := time.Since(start); got != 2030*time.Millisecond {
			t.Errorf("woke at %v, want 2.03s", got)
		}
	})
}

// TestLostFramesGoBack keeps no buffer of the device for frames that nobody gets:
// a reader that goes to sleep would keep them for as long.
func TestLostFramesGoBack(t *testing.T) {
	for _, i := range []Impairment{{Drop: 1}, {Delay: time.Second}} {
		d, far := pair(t, Config{Receive: i}, softnic.Config{})
		send(t, far.Queue(0), numbered(1, 60), link.TxOffload{})
		flush(t, far.Queue(0))
		if n, err := d.Queue(0).Receive(make([]link.Frame, link.MaxBurst)); n != 0 || err != nil {
			t.Errorf("%+v: %d frames, %v, want none", i, n, err)
		}
		if n := d.Unwrap().Stats().BuffersInUse; n != 0 {
			t.Errorf("%+v: %d buffers of the device are in use, want none", i, n)
		}
	}
}

func TestSentFramesLeaveWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, far := pair(t, Config{Transmit: Impairment{Delay: 30 * time.Millisecond}}, softnic.Config{})
		start := time.Now()
		for i := range 3 {
			send(t, d.Queue(0), numbered(i, 60), link.TxOffload{})
			flush(t, d.Queue(0))
			time.Sleep(time.Millisecond)
		}
		for i := range 3 {
			far.Queue(0).(link.Waiter).Wait(-1)
			want := time.Duration(30+i) * time.Millisecond
			if got := time.Since(start); got != want {
				t.Errorf("frame %d after %v, want %v", i, got, want)
			}
			if diff := cmp.Diff([]int{i}, numbers(drain(t, far.Queue(0)))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		}
	})
}

func TestJitterKeepsTheOrder(t *testing.T) {
	for name, d := range directions {
		got, c := through(t, d, impaired(1, d, Impairment{Jitter: 10 * time.Millisecond}), 1000)
		for i, f := range got {
			if number(f.Data) != i {
				t.Fatalf("%s: frame %d in place %d", name, number(f.Data), i)
			}
		}
		if len(got) != 1000 || c.Delayed < 900 {
			t.Errorf("%s: %d frames, %d delayed, want 1000 and nearly as many", name, len(got), c.Delayed)
		}
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 1000 bytes at 8 Mbit/s take 1 ms.
		d, far := pair(t, Config{Transmit: Impairment{Rate: 8e6, Backlog: 10}}, softnic.Config{})
		q, to := d.Queue(0), far.Queue(0)
		start := time.Now()
		for i := range 15 {
			send(t, q, numbered(i, 1000), link.TxOffload{})
		}
		flush(t, q)
		for i := range 10 {
			to.(link.Waiter).Wait(-1)
			if diff := cmp.Diff([]int{i}, numbers(drain(t, to))); diff != "" {
				t.Fatalf("(-want +got)\n%s", diff)
			}
			if got, want := time.Since(start), time.Duration(i+1)*time.Millisecond; got != want {
				t.Errorf("frame %d after %v, want %v", i, got, want)
			}
		}
		// After a pause the capacity is not saved up.
		time.Sleep(time.Second)
		start = time.Now()
		send(t, q, numbered(20, 1000), link.TxOffload{})
		flush(t, q)
		to.(link.Waiter).Wait(-1)
		if got := time.Since(start); got != time.Millisecond {
			t.Errorf("a frame after a pause took %v, want 1ms", got)
		}
		if _, c := d.Counters(); c.Overflowed != 5 {
			t.Errorf("%d frames overflowed, want 5", c.Overflowed)
		}
	})
}

// tcp is a whole TCP segment and what the stack would ask a device to do for it.
func tcp(payload int, mss uint16) (whole, asked []byte, tx link.TxOffload) {
	s := testframe.TCP{
		Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2"),
		Flags: header.TCPFlagAck, Payload: make([]byte, payload),
	}
	whole = s.Frame()
	if s.Sum = testframe.Partial; mss != 0 {
		s.Sum = testframe.PartialTSO
	}
	asked = s.Frame()
	copy(asked[24:], []byte{0, 0})
	return whole, asked, link.TxOffload{Flags: link.TxIPv4Checksum | link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20, MSS: mss}
}

var offloads = link.Capabilities{RxChecksum: true, TxIPv4Checksum: true, TxTCPChecksum: true, TSO: 1 << 16}

func TestImpairmentsMeetFramesOfTheWire(t *testing.T) {
	whole, asked, tx := tcp(100, 0)
	_, large, cut := tcp(10000, 1000)
	for _, c := range []struct {
		name       string
		impairment Impairment
		sent       uint64 // frames that met the impairment
	}{
		{"none", Impairment{}, 0},
		{"delay", Impairment{Delay: time.Second}, 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, far := pair(t, Config{Transmit: c.impairment}, softnic.Config{Capabilities: offloads})
				send(t, d.Queue(0), asked, tx)
				send(t, d.Queue(0), large, cut)
				flush(t, d.Queue(0))
				time.Sleep(2 * time.Second)
				got := drain(t, far.Queue(0))
				if len(got) != 11 || !bytes.Equal(got[0].Data, whole) {
					t.Fatalf("%d frames, want 11 that begin with the whole segment", len(got))
				}
				for i, f := range got {
					if offload.Verify(f.Data) != link.Good {
						t.Errorf("frame %d has a wrong checksum", i)
					}
				}
				if _, counters := d.Counters(); counters.Frames != c.sent {
					t.Errorf("%d frames met the impairment, want %d", counters.Frames, c.sent)
				}
			})
		})
	}
}

func TestNoDeviceMendsACorruptedFrame(t *testing.T) {
	d, far := pair(t, Config{Seed: 5, Transmit: Impairment{Corrupt: 1}}, softnic.Config{Capabilities: offloads})
	whole, _, _ := tcp(100, 0)
	for range 200 {
		_, asked, tx := tcp(100, 0)
		send(t, d.Queue(0), asked, tx)
	}
	flush(t, d.Queue(0))
	got := drain(t, far.Queue(0))
	if len(got) != 200 {
		t.Fatalf("%d frames, want 200", len(got))
	}
	for _, f := range got {
		// A flip in the Ethernet header leaves the packet as it is.
		if offload.Verify(f.Data) == link.Good && !bytes.Equal(f.Data[14:], whole[14:]) {
			t.Errorf("a corrupted packet has right checksums: %x", f.Data)
		}
	}
}

func TestChecksumStatusOfAChangedFrame(t *testing.T) {
	whole, _, _ := tcp(1000, 0)
	for _, c := range []struct {
		name string
		can  bool
		i    Impairment
		want func(data []byte) link.ChecksumStatus
	}{
		{"kept", true, Impairment{Delay: 1}, func([]byte) link.ChecksumStatus { return link.Good }},
		{"corrupted", true, Impairment{Corrupt: 1}, offload.Verify},
		{"corrupted, unchecked", false, Impairment{Corrupt: 1}, func([]byte) link.ChecksumStatus { return link.Unchecked }},
		{"cut", true, Impairment{Cut: 1}, func([]byte) link.ChecksumStatus { return link.Unchecked }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, far := pair(t, Config{Receive: c.i}, softnic.Config{Capabilities: link.Capabilities{RxChecksum: c.can}})
				for range 50 {
					send(t, far.Queue(0), whole, link.TxOffload{})
				}
				flush(t, far.Queue(0))
				got := drain(t, d.Queue(0))
				time.Sleep(time.Second)
				got = append(got, drain(t, d.Queue(0))...)
				if len(got) != 50 {
					t.Fatalf("%d frames, want 50", len(got))
				}
				for _, f := range got {
					if want := c.want(f.Data); f.Checksum != want {
						t.Errorf("status %d, want %d", f.Checksum, want)
					}
				}
			})
		})
	}
}

func TestUnimpairedFramesAreNotCopied(t *testing.T) {
	d, far := pair(t, Config{}, softnic.Config{Ring: 16})
	frames := make([]link.Frame, link.MaxBurst)
	f := numbered(1, 60)
	round := func() {
		send(t, d.Queue(0), f, link.TxOffload{})
		flush(t, d.Queue(0))
		if n, _ := far.Queue(0).Receive(frames); n != 1 {
			t.Fatal("nothing arrived")
		}
		send(t, far.Queue(0), f, link.TxOffload{})
		flush(t, far.Queue(0))
		if n, _ := d.Queue(0).Receive(frames); n != 1 {
			t.Fatal("nothing came back")
		}
	}
	for range 32 {
		round()
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations per round, want 0", n)
	}
	if in, out := d.Counters(); in.Frames != 0 || out.Frames != 0 {
		t.Errorf("counters %+v and %+v, want none", in, out)
	}
}

func TestChangesKeepTheOrder(t *testing.T) {
	for name, dir := range directions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, far := pair(t, Config{}, softnic.Config{})
				from, to, change := far.Queue(0), d.Queue(0), d.SetReceive
				if dir == transmit {
					from, to, change = to, from, d.SetTransmit
				}
				var got, want []int
				for i := range 60 {
					if err := change(Impairment{Delay: []time.Duration{0, 7, 3}[i/10%3] * time.Millisecond}); err != nil {
						t.Fatal(err)
					}
					send(t, from, numbered(i, 60), link.TxOffload{})
					flush(t, from)
					got = append(got, numbers(drain(t, to))...)
					want = append(want, i)
					time.Sleep(time.Millisecond / 2)
				}
				time.Sleep(time.Second)
				got = append(got, numbers(drain(t, to))...)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		})
	}
}

func TestFullDeviceRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, far := pair(t, Config{Transmit: Impairment{Delay: time.Millisecond}}, softnic.Config{Ring: 4})
		near := d.Unwrap().(*softnic.NIC)
		near.StallTransmit(0, true)
		for i := range 6 {
			send(t, d.Queue(0), numbered(i, 60), link.TxOffload{})
		}
		flush(t, d.Queue(0))
		time.Sleep(10 * time.Millisecond)
		if pending, err := d.Queue(0).Flush(); pending < 4 || err != nil {
			t.Errorf("Flush = %d, %v, want at least the 4 that fill the ring", pending, err)
		}
		near.StallTransmit(0, false)
		time.Sleep(10 * time.Millisecond) // nobody flushes but the timer
		got := numbers(drain(t, far.Queue(0)))
		time.Sleep(10 * time.Millisecond)
		got = append(got, numbers(drain(t, far.Queue(0)))...)
		if diff := cmp.Diff([]int{0, 1, 2, 3}, got[:4]); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if s := near.Stats(); s.TxPackets != 6 {
			t.Errorf("%d frames left, want 6", s.TxPackets)
		}
	})
}

func TestStagingIsBounded(t *testing.T) {
	d, _ := pair(t, Config{Transmit: Impairment{Delay: time.Hour}}, softnic.Config{})
	q := d.Queue(0)
	for i := range ring {
		send(t, q, numbered(i, 60), link.TxOffload{})
	}
	if q.Reserve(60) != nil {
		t.Errorf("more than %d frames staged", ring)
	}
	flush(t, q)
	if q.Reserve(60) == nil {
		t.Error("no buffer after Flush")
	}
}

func TestStatsAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := Impairment{Delay: time.Minute}
		d, far := pair(t, Config{Receive: i, Transmit: i}, softnic.Config{})
		send(t, far.Queue(0), numbered(1, 60), link.TxOffload{})
		flush(t, far.Queue(0))
		drain(t, d.Queue(0))
		drain(t, d.Queue(0)) // gives the card its buffer back
		send(t, d.Queue(0), numbered(1, 60), link.TxOffload{})
		flush(t, d.Queue(0))
		send(t, d.Queue(0), numbered(2, 60), link.TxOffload{})
		s := d.Stats()
		if s.Extended["fault_rx_delayed"] != 1 || s.Extended["fault_tx_delayed"] != 1 || s.BuffersInUse != 2 {
			t.Errorf("%+v, want a frame delayed each way and 2 buffers in use", s)
		}
		for range 2 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if s := d.Stats(); s.BuffersInUse != 0 {
			t.Errorf("%d buffers in use after Close", s.BuffersInUse)
		}
		if got := d.Queue(0).Stats().TxDropped; got != 2 {
			t.Errorf("%d frames dropped by Close, want 2", got)
		}
		if _, err := d.Queue(0).Receive(make([]link.Frame, 1)); err != net.ErrClosed {
			t.Errorf("Receive: %v, want net.ErrClosed", err)
		}
		if _, err := d.Queue(0).Flush(); err != net.ErrClosed {
			t.Errorf("Flush: %v, want net.ErrClosed", err)
		}
	})
}

func TestSpreader(t *testing.T) {
	d, _ := pair(t, Config{}, softnic.Config{Queues: 2})
	r, err := d.RSS()
	if err != nil {
		t.Fatal(err)
	}
	clear(r.Table)
	if err := d.SetRSS(r); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.RSS(); !cmp.Equal(r, got) {
		t.Error("the table did not change")
	}
	plain, err := Wrap(struct{ link.Device }{d}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.RSS(); err == nil {
		t.Error("RSS of a device that is no Spreader: no error")
	}
	if err := plain.SetRSS(r); err == nil {
		t.Error("SetRSS of a device that is no Spreader: no error")
	}
}

// deaf is a queue that cannot wake its reader.
type deaf struct{ link.Device }

func (d deaf) Queue(i int) link.Queue { return struct{ link.Queue }{d.Device.Queue(i)} }

func TestWaiterOnlyWhereTheDeviceIs(t *testing.T) {
	d, _ := pair(t, Config{}, softnic.Config{})
	if _, ok := d.Queue(0).(link.Waiter); !ok {
		t.Error("no Waiter over a queue that is one")
	}
	plain, err := Wrap(deaf{d}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := plain.Queue(0).(link.Waiter); ok {
		t.Error("a Waiter over a queue that is none")
	}
}

func TestWrapRefuses(t *testing.T) {
	for _, c := range []struct {
		i    Impairment
		want string
	}{
		{Impairment{Drop: -0.1}, "Drop is -0.1"},
		{Impairment{Duplicate: 1.1}, "Duplicate is 1.1"},
		{Impairment{Reorder: math.NaN()}, "Reorder is NaN"},
		{Impairment{DropBurst: 0.5}, "DropBurst is 0.5"},
		{Impairment{Delay: -1}, "Delay is -1ns"},
		{Impairment{Jitter: 2 * time.Hour}, "Jitter is 2h"},
		{Impairment{Rate: -1}, "Rate is -1"},
		{Impairment{Backlog: maxBacklog + 1}, "Backlog is 1000001"},
	} {
		for name, d := range directions {
			_, err := Wrap(deaf{}, impaired(0, d, c.i))
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), name) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %+v: error %v, want one about %q", name, c.i, err, c.want)
			}
		}
	}
}

// TestRealTime runs all kinds at once in real time, with the timer, the sender
// and the reader on different goroutines, for the race detector.
func TestRealTime(t *testing.T) {
	i := Impairment{
		Drop: 0.05, Duplicate: 0.05, Reorder: 0.05, Corrupt: 0.05, Cut: 0.05,
		Delay: 100 * time.Microsecond, Jitter: 100 * time.Microsecond, Rate: 1e9,
	}
	d, far := pair(t, Config{Receive: i, Transmit: i}, softnic.Config{})
	const count = 3000
	var all sync.WaitGroup
	for _, pair := range [][2]link.Queue{{d.Queue(0), far.Queue(0)}, {far.Queue(0), d.Queue(0)}} {
		all.Go(func() {
			for i := range count {
				if b := pair[0].Reserve(60); b != nil {
					pair[0].Commit(copy(b, numbered(i, 60)), link.TxOffload{})
				}
				if i%8 == 7 {
					pair[0].Flush()
				}
			}
		})
		all.Go(func() {
			frames := make([]link.Frame, link.MaxBurst)
			got := 0
			for deadline := time.Now().Add(30 * time.Second); got < count*8/10; {
				n, err := pair[1].Receive(frames)
				if err != nil {
					t.Error(err)
					return
				}
				if got += n; n == 0 {
					pair[1].(link.Waiter).Wait(time.Millisecond)
				}
				if time.Now().After(deadline) {
					t.Errorf("%d of %d frames in 30 s", got, count)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkImpaired(b *testing.B) {
	for name, i := range map[string]Impairment{
		"none": {}, "drop": {Drop: 0.01}, "all": {Drop: 0.01, Duplicate: 0.01, Reorder: 0.01, Corrupt: 0.01, Cut: 0.01, Jitter: 1},
	} {
		b.Run(name, func(b *testing.B) {
			d, far := pair(b, Config{Transmit: i}, softnic.Config{Ring: 256})
			f, frames, n := numbered(1, 60), make([]link.Frame, link.MaxBurst), 0
			b.ReportAllocs()
			for b.Loop() {
				if buf := d.Queue(0).Reserve(60); buf != nil {
					d.Queue(0).Commit(copy(buf, f), link.TxOffload{})
				}
				if n++; n == 32 {
					n = 0
					d.Queue(0).Flush()
					far.Queue(0).Receive(frames)
				}
			}
		})
	}
}
