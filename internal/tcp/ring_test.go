package tcp

import (
	"strings"
	"testing"
	"time"
)

// TestRing: what connections that receive much may have under way together fits the
// device's receive ring, and those that receive little, or over a long path, are left
// alone.
func TestRing(t *testing.T) {
	const frames, mss = 400, 1460
	for _, tt := range []struct {
		name string
		path time.Duration // the round trip
		much bool          // received in each interval
		busy int32         // others that receive much
		want int           // bytes; 0: as much as the buffer
	}{
		{"alone", time.Millisecond, true, 0, frames * 3 / 4 * mss},
		{"among eight", time.Millisecond, true, 7, frames * 3 / 4 / 8 * mss},
		{"among very many", time.Millisecond, true, 5000, 2 * mss},
		{"with little", time.Millisecond, false, 0, ringLittle},
		{"over a long path", 50 * time.Millisecond, true, 7, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, false)
			h.p.ring.frames = frames
			l := h.listen(8)
			h.receive(out{flags: syn, options: shape{shift: 7}.options(h)})
			h.expect("answer to a SYN", "SA")
			h.advance(tt.path)
			h.receive(out{})
			ep, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			h.ep = ep.(*Endpoint)
			most := 0
			n := 1
			if tt.much {
				n = 30
			}
			for i := range 40 {
				h.p.ring.turn(h.p.now())
				h.p.ring.busy.Add(tt.busy)
				for range n {
					h.receive(out{data: strings.Repeat("x", mss)})
				}
				h.read()
				for _, s := range h.take() {
					if w := int(s.window) << h.ep.receiveShift; i > 20 {
						most = max(most, w)
					}
				}
				h.advance(10 * time.Millisecond)
			}
			want := tt.want
			if want == 0 {
				want = h.ep.receiveSize
			}
			// The field counts in steps, and a segment or two are received before the next
			// window is told.
			if most > want || most < want-3*mss {
				t.Errorf("the window is up to %d bytes, want %d", most, want)
			}
		})
	}
}
