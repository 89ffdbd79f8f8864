package tcp

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestSlowStart(t *testing.T) {
	for _, control := range []tcpip.CongestionControlOption{"reno", "cubic"} {
		h := newHost(t, false, &control)
		h.accept(shape{shift: 7})
		if got, want := h.ep.window, 10*1460; got != want {
			t.Fatalf("%s: the initial window is %d, want %d", control, got, want)
		}
		if got := h.write(500_000); got != 500_000 {
			t.Fatalf("wrote %d bytes", got)
		}
		for round := range 4 {
			list := h.take()
			n := 0
			for _, s := range list {
				n += len(s.payload)
			}
			if want := 14600 << round; n < want-1460 || n > want {
				t.Fatalf("%s: %d bytes left in round trip %d, want %d", control, n, round, want)
			}
			h.advance(50 * time.Millisecond)
			for _, s := range list {
				h.receive(out{ack: s.seq + uint32(len(s.payload))})
			}
		}
	}
}

// TestHyStart: slow start ends without loss when round trips become longer, and goes
// on when that was jitter, or when they do not.
func TestHyStart(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name  string
		rtt   func(round int) time.Duration
		ends  bool
		least int // the window in the end, in segments
	}{
		{"steady", func(int) time.Duration { return 50 * ms }, false, 640},
		{"a little longer each time", func(i int) time.Duration { return 50*ms + time.Duration(i)*2*ms }, false, 640},
		{"a queue builds up", func(i int) time.Duration { return 50*ms + time.Duration(max(i-2, 0))*20*ms }, true, 40},
		{"one that was longer", func(i int) time.Duration {
			if i == 3 {
				return 90 * ms
			}
			return 50 * ms
		}, false, 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{sack: true, shift: 7, window: 65535})
			e := h.ep
			e.sendSize = 4 << 20
			e.srtt = 0 // the handshake took no time
			e.sampleRTT(50 * ms)
			for round := range 12 {
				if e.window > 640*1460 {
					break // enough
				}
				h.write(2 * e.window)
				list := h.take()
				h.advance(test.rtt(round))
				for _, s := range list {
					if len(s.payload) > 0 {
						h.receive(out{ack: s.seq + uint32(len(s.payload)), window: 65535})
					}
				}
			}
			if got := e.threshold < 1<<30; got != test.ends {
				t.Errorf("slow start has ended: %v, with a window of %d segments", got, e.window/1460)
			}
			if got := e.window / 1460; got < test.least {
				t.Errorf("the window is %d segments, want at least %d", got, test.least)
			}
			h.acked = e.unacknowledged
		})
	}
}

// TestAvoidance: after loss the window grows by about a segment per round trip,
// with CUBIC back to what it was, slowly there and faster beyond.
func TestAvoidance(t *testing.T) {
	t.Run("reno", func(t *testing.T) {
		h := newHost(t, false)
		h.accept(shape{shift: 7})
		h.ep.window, h.ep.threshold = 20*1460, 20*1460
		h.ep.sentAt = h.ep.p.now() // no pause
		h.write(1 << 20)
		for range 10 {
			before := h.ep.window
			list := h.take()
			for _, s := range list {
				h.receive(out{ack: s.seq + uint32(len(s.payload))})
			}
			if got := h.ep.window - before; got < 0 || got > 2*1460 {
				t.Errorf("the window grew by %d in a round trip, want about 1460", got)
			}
		}
		if got := h.ep.window / 1460; got < 28 || got > 31 {
			t.Errorf("after ten round trips the window is %d segments, want about 30", got)
		}
	})
	t.Run("cubic", func(t *testing.T) {
		const mss = 1460
		var c cubic
		most := 100 * mss
		w := c.lose(most, mss)
		if w != 70*mss {
			t.Fatalf("after loss the window is %d segments, want 70", w/mss)
		}
		now, rtt := int64(time.Hour), 100*time.Millisecond
		// K = cbrt(30/0.4) = 4.2 s
		var at []int
		for range 80 {
			for got := 0; got < w; got += 2 * mss {
				next := c.grow(w, mss, 2*mss, rtt, now)
				if next < w || next > 2*w {
					t.Fatalf("the window went from %d to %d", w, next)
				}
				w = next
			}
			now += int64(rtt)
			at = append(at, w/mss)
		}
		if at[20] < 90 || at[20] > 100 {
			t.Errorf("after 2 s the window is %d segments, want most of the way to 100", at[20])
		}
		if at[42] < 97 || at[42] > 104 {
			t.Errorf("after 4.2 s the window is %d segments, want about 100", at[42])
		}
		if at[79] < 110 {
			t.Errorf("after 8 s the window is %d segments, want to be well beyond 100", at[79])
		}
		// Loss again, below the last maximum: that comes down (fast convergence).
		c.lose(80*mss, mss)
		if got := int(c.max) / mss; got != 68 {
			t.Errorf("the next maximum is %d segments, want 68", got)
		}
	})
}
