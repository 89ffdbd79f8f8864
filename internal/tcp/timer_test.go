package tcp

import (
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/transport"
)

func TestRetransmission(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		least, greatest, retries := tcpip.TCPMinRTOOption(200*time.Millisecond), tcpip.TCPMaxRTOOption(3*time.Second), tcpip.TCPMaxRetriesOption(8)
		h := newHost(t, slow, &greatest, &least, &retries)
		h.accept(shape{})
		h.write(100)
		h.expect("100 bytes", "A100")
		rto := 200 * time.Millisecond
		for i := range 8 {
			h.advance(rto - 20*time.Millisecond)
			h.expect("shortly before " + rto.String())
			h.advance(21 * time.Millisecond) // the round trip comes on top
			h.expect("at "+rto.String(), "A100")
			if got, want := h.doubts, max(i-1, 0); got != want {
				t.Errorf("after %d time-outs the next hop was in doubt %d times, want %d (RFC 4861 section 7.3.3)", i+1, got, want)
			}
			rto = min(2*rto, 3*time.Second)
		}
		h.state(transport.StateEstablished)
		h.advance(4 * time.Second)
		h.state(transport.StateError)
		if err := h.ep.LastError(); err != syscall.ETIMEDOUT {
			t.Errorf("the connection failed with %v, want a time-out", err)
		}
	})
}

// TestUserTimeout: it ends a connection to the moment, whatever the timers of
// retransmission and probes are about.
func TestUserTimeout(t *testing.T) {
	for _, test := range []struct {
		name   string
		window int
		do     func(h *host)
		// alive is how slow the connection lives, counted from when it owes something.
		alive time.Duration
	}{
		{"data", 0, func(h *host) { h.write(100) }, 10 * time.Second},
		{"data behind data", 0, func(h *host) {
			h.write(100)
			h.advance(5 * time.Second)
			h.receive(out{ack: h.acked - 50}) // progress
		}, 10 * time.Second},
		{"a shut window", -1, func(h *host) { h.write(100) }, 10 * time.Second},
		{"a shut window, the peer answers", -1, func(h *host) {
			h.write(100)
			for range 5 {
				h.advance(time.Second)
				h.receive(out{window: -1})
			}
		}, 5 * time.Second},
		{"a FIN", 0, func(h *host) { _ = h.ep.CloseWrite() }, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{window: test.window})
			h.ep.SetUserTimeout(10 * time.Second)
			h.advance(time.Minute) // nothing is owed
			h.state(transport.StateEstablished)
			test.do(h)
			h.advance(test.alive - 20*time.Millisecond)
			if h.ep.current() == transport.StateError {
				t.Fatal("it ended too soon")
			}
			h.advance(40 * time.Millisecond)
			h.state(transport.StateError)
			if err := h.ep.LastError(); err != syscall.ETIMEDOUT {
				t.Errorf("the connection failed with %v, want a time-out", err)
			}
		})
	}
}

func TestKeepAlive(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.ep.TuneKeepAlive(10*time.Second, 2*time.Second, 3)
	h.ep.SetKeepAlive(true)
	h.advance(10 * time.Second)
	if s := h.expect("10 s of silence", "A")[0]; s.seq != h.acked-1 {
		t.Errorf("the probe has sequence number %d, want %d: one that the peer has", s.seq, h.acked-1)
	}
	h.receive(out{}) // answered: silence begins anew
	h.advance(9900 * time.Millisecond)
	h.expect("less silence than that")
	h.advance(200 * time.Millisecond)
	h.expect("10 s of silence", "A")
	h.advance(2 * time.Second)
	h.expect("2 s more", "A")
	// What is no segment of this connection is no sign of life.
	h.receive(out{flags: rst, seq: h.next + 1<<25})
	h.advance(2 * time.Second)
	h.expect("2 s more", "A")
	h.state(transport.StateEstablished)
	h.advance(2 * time.Second)
	h.expect("no answer to three probes", "RA")
	h.state(transport.StateError)
}
