package tcp

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestRepair loses segments of a flight of ten.
func TestRepair(t *testing.T) {
	for _, test := range []struct {
		name string
		sack bool
		lost []int
	}{
		{"one", true, []int{0}},
		{"two", true, []int{0, 4}},
		{"three in a row", true, []int{1, 2, 3}},
		{"every other", true, []int{0, 2, 4, 6}},
		{"one, without SACK", false, []int{0}},
		{"two, without SACK", false, []int{1, 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			paths(t, func(t *testing.T, slow bool) {
				h := newHost(t, slow)
				h.accept(shape{sack: test.sack})
				h.repair(0, test.lost, test.sack)
				if test.sack { // another begins where that was repaired
					h.repair(1, test.lost, test.sack)
				}
			})
		})
	}
}

// repair sends ten segments, loses some, and wants these again and no others,
// without waiting for a timer.
func (h *host) repair(round int, lost []int, sack bool) {
	h.t.Helper()
	h.advance(300 * time.Millisecond)
	h.ep.window = max(h.ep.window, 20*h.ep.mss)
	base := h.ep.unacknowledged
	const flight = 10
	h.write(flight * 1460)
	have := make([]bool, flight)
	var resent []int
	var queue []segment
	for i, s := range h.take() {
		if !slices.Contains(lost, i) {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if len(s.payload) != 1460 || (s.seq-base)%1460 != 0 {
			h.t.Fatalf("round %d: a segment at %d with %d bytes", round, s.seq-base, len(s.payload))
		}
		i := int(s.seq-base) / 1460
		have[i] = true
		next := slices.Index(have, false)
		if next < 0 {
			next = flight
		}
		o := out{ack: base + uint32(next)*1460}
		if sack && i > next {
			first, end := i, i+1
			for have[first-1] {
				first--
			}
			for end < flight && have[end] {
				end++
			}
			o.options = blocks(base+uint32(first)*1460, base+uint32(end)*1460)
		}
		h.receive(o)
		for _, s := range h.take() {
			resent = append(resent, int(s.seq-base)/1460)
			queue = append(queue, s)
		}
	}
	if fmt.Sprint(resent) != fmt.Sprint(lost) {
		h.t.Fatalf("round %d: lost were %v, sent again %v", round, lost, resent)
	}
	if h.ep.out.len() != 0 || h.ep.inRecovery {
		h.t.Fatalf("round %d: %d bytes are not acknowledged, in recovery: %v", round, h.ep.out.len(), h.ep.inRecovery)
	}
	h.acked = base + flight*1460
}

// TestReneging: a peer that reported the very next segment has dropped what it had
// reported, when the timer runs out, and is sent all again.
func TestReneging(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{sack: true})
	una := h.acked
	h.write(2 * 1460)
	h.expect("two segments", "A1460", "A1460")
	h.receive(out{ack: una, options: blocks(una+1460, una+2920)})
	h.expect("perhaps the first one is late")
	h.advance(20 * time.Millisecond)
	if s := h.expect("it is lost", "A1460"); s[0].seq != una {
		t.Fatalf("sent again was %d, want the first segment", s[0].seq-una)
	}
	h.receive(out{ack: una + 1460})
	h.expect("the peer has the second one, it said")
	h.advance(300 * time.Millisecond)
	if s := h.expect("it has not", "A1460"); s[0].seq != una+1460 {
		t.Fatalf("sent again was %d, want the second segment", s[0].seq-una)
	}
}
