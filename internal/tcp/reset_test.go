package tcp

import (
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

func TestResets(t *testing.T) {
	for _, test := range []struct {
		name string
		o    func(h *host) out
		want []string
		ends bool
	}{
		{"the next sequence number", func(*host) out { return out{flags: rst} }, nil, true},
		{"within the window", func(h *host) out { return out{flags: rst, seq: h.next + 1} }, []string{"A"}, false},
		{"before the window", func(h *host) out { return out{flags: rst, seq: h.next - 1} }, nil, false},
		{"beyond the window", func(h *host) out { return out{flags: rst, seq: h.next + 1<<24} }, nil, false},
		{"SYN within the window", func(h *host) out { return out{flags: syn, seq: h.next + 1, options: shape{}.options(h)} }, []string{"A"}, false},
		{"SYN with the next sequence number", func(h *host) out { return out{flags: syn, options: shape{}.options(h)} }, []string{"A"}, false},
		{"ACK of what was not sent", func(h *host) out { return out{ack: h.acked + 1} }, []string{"A"}, false},
		{"ACK of what is slow past", func(h *host) out { return out{ack: h.acked - 1<<20} }, []string{"A"}, false},
		{"data with such an ACK", func(h *host) out { return out{ack: h.acked - 1<<20, data: "forged"} }, []string{"A"}, false},
		{"no ACK", func(*host) out { return out{flags: psh, data: "forged"} }, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{})
			next := h.next
			h.receive(test.o(h))
			h.next = next
			h.expect(test.name, test.want...)
			if test.ends {
				h.state(transport.StateError)
				return
			}
			h.state(transport.StateEstablished)
			h.receive(out{data: "fine"})
			if got := h.read(); got != "fine" {
				t.Errorf("read %q after it", got)
			}
		})
	}
}

func TestChallengesAreFew(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	for range 100 {
		h.receive(out{flags: rst, seq: h.next + 1})
	}
	h.expect("100 forged resets", "A")
	h.advance(time.Second)
	h.receive(out{flags: rst, seq: h.next + 1})
	h.expect("one a second later", "A")
}

func TestOldTimestamp(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{stamp: true})
	h.advance(time.Second)
	h.receive(out{data: "new"})
	h.take()
	next := h.next
	h.receive(out{data: "old", options: stamps(h.millis()-500, h.echo)})
	h.next = next
	h.expect("a segment with an old timestamp", "A")
	h.receive(out{data: "bare", options: []byte{1, 1, 1, 1}})
	h.expect("one without timestamp", "A")
	if got := h.read(); got != "newbare" {
		t.Errorf("read %q, want all but what was old", got)
	}
}

// Timers.
