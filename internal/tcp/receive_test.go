package tcp

import (
	"fmt"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

func TestOutOfOrder(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		h := newHost(t, slow)
		h.accept(shape{sack: true})
		base := h.next
		at := func(i int, s string) out { return out{seq: base + uint32(i), data: s} }
		h.receive(at(10, "klmno"))
		s := h.expect("a gap", "A")[0]
		if fmt.Sprint(s.sack) != fmt.Sprint([]header.SACKBlock{block(span{base + 10, base + 15})}) {
			t.Errorf("SACK says %v", s.sack)
		}
		h.receive(at(20, "uvwxy"))
		s = h.expect("another", "A")[0]
		if len(s.sack) != 2 || s.sack[0] != block(span{base + 20, base + 25}) {
			t.Errorf("SACK says %v, want the latest block first", s.sack)
		}
		h.receive(at(8, "ijklmnopqrstuv")) // overlaps both
		s = h.expect("one that joins them", "A")[0]
		if len(s.sack) != 2 || s.sack[0] != block(span{base + 10, base + 15}) || s.sack[1] != block(span{base + 8, base + 25}) {
			t.Errorf("SACK says %v, want the first duplicate and one block", s.sack)
		}
		h.receive(at(25, ""), out{seq: base + 25, flags: fin | ack})
		h.receive(at(0, "abcdefghij"))
		h.take()
		h.state(transport.StateCloseWait)
		if got := h.read(); got != "abcdefghijklmnopqrstuvwxy" {
			t.Errorf("read %q", got)
		}
	})
}

// TestManyPieces: who sends every other byte, from the end or the beginning, makes
// us keep a bounded number of pieces, and the stream is whole in the end.
func TestManyPieces(t *testing.T) {
	for _, test := range []struct {
		name string
		at   func(i int) int
	}{
		{"forwards", func(i int) int { return 1 + 2*i }},
		{"backwards", func(i int) int { return 60000 - 2*i }},
		{"from both ends", func(i int) int { return 1 + 2*i*(1-i%2) + (60000-2*i)*(i%2) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{sack: true, shift: 7})
			base := h.next
			for i := range 4 * maxPieces {
				h.receive(out{seq: base + uint32(test.at(i)), data: "x"})
				h.sent = h.sent[:0]
			}
			if n := len(h.ep.outOfOrder); n != maxPieces {
				t.Errorf("%d pieces are kept, want %d", n, maxPieces)
			}
			got := 0
			for h.ep.receiveNext-base < 60001 {
				h.receive(out{seq: h.ep.receiveNext, data: strings.Repeat("x", 1400)})
				h.sent = h.sent[:0]
				got += len(h.read())
			}
			if want := int(h.ep.receiveNext - base); got != want || strings.Trim(h.read(), "x") != "" {
				t.Errorf("read %d bytes, want %d", got, want)
			}
		})
	}
}

// TestOneGap: what follows a gap is one piece, however many segments it came in.
func TestOneGap(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{shift: 7})
	base := h.next
	for i := 1; i < 40; i++ {
		h.receive(out{seq: base + uint32(1000*i), data: strings.Repeat(string(rune('a'+i%26)), 1000)})
	}
	if n := len(h.ep.outOfOrder); n != 1 {
		t.Errorf("%d pieces, want 1", n)
	}
	h.receive(out{seq: base, data: strings.Repeat("a", 1000)})
	got := h.read()
	if len(got) != 40000 {
		t.Fatalf("read %d bytes, want 40000", len(got))
	}
	for i := range 40 {
		if got[1000*i] != byte('a'+i%26) || got[1000*i+999] != byte('a'+i%26) {
			t.Fatalf("segment %d has other bytes", i)
		}
	}
}

// The sender.

// TestPost: what comes in order goes to where a reader waits, as far as it fits and
// nothing is before it, and is read from there or taken back, whatever becomes of the
// connection.
func TestPost(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		h := newHost(t, slow)
		h.accept(shape{sack: true})
		e, base := h.ep, h.next
		at := func(i int, s string) out { return out{seq: base + uint32(i), data: s} }
		read := func(b []byte, want string, more bool) {
			t.Helper()
			n, again, err := e.Read(b)
			if string(b[:n]) != want || again != more || err != nil {
				t.Errorf("read %q, more %v, %v; want %q, more %v", b[:n], again, err, want, more)
			}
		}

		b := make([]byte, 10)
		e.Post(b)
		h.receive(at(4, "efgh"), at(0, "abcd"))
		if n := e.in.len(); n != 0 {
			t.Errorf("%d bytes took the way of the buffer", n)
		}
		h.receive(at(8, "ijklmn"))
		read(b, "abcdefghij", true)
		read(b, "klmn", false)

		h.receive(at(14, "op"))
		e.Post(b) // too late for those
		h.receive(at(16, "qr"))
		read(b, "opqr", false)

		e.Post(b)
		if n := e.Withdraw(); n != 0 {
			t.Errorf("withdrew %d bytes, want none", n)
		}
		clear(b)
		h.receive(at(18, "st"))
		if b[0] != 0 {
			t.Error("what was withdrawn was written to")
		}
		read(b, "st", false)

		e.Post(b)
		h.receive(at(20, "uv"))
		if n := e.Withdraw(); n != 2 || string(b[:n]) != "uv" {
			t.Errorf("withdrew %q, want uv", b[:n])
		}

		e.Post(b)
		h.receive(at(22, "wx"), out{seq: base + 24, flags: rst | ack})
		h.take()
		read(b, "wx", true)
		if n, _, err := e.Read(b); n != 0 || err == nil {
			t.Errorf("read %d bytes behind a reset, %v", n, err)
		}
	})
}
