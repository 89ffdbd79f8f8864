package tcp

import (
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/transport"
)

func TestZeroWindow(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		h := newHost(t, slow)
		h.accept(shape{})
		h.receive(out{window: -1})
		h.write(5000)
		h.expect("with a closed window")
		for range 30 { // as often as the peer answers
			before := h.clock.NowMonotonic()
			for len(h.sent) == 0 {
				h.advance(50 * time.Millisecond)
				h.collect()
				if h.clock.NowMonotonic().Sub(before) > 121*time.Second {
					t.Fatal("no probe for 121 s")
				}
			}
			if s := h.expect("a probe", "A")[0]; s.seq != h.acked-1 {
				t.Fatalf("the probe has sequence number %d, want %d: one that the peer has", s.seq, h.acked-1)
			}
			h.receive(out{window: -1})
			h.state(transport.StateEstablished)
		}
		h.receive(out{window: 2920})
		h.expect("the window opens", "A1460", "A1460")
		h.receive(out{window: -1})
		h.advance(20 * time.Minute) // nobody answers any more
		h.advance(20 * time.Minute)
		h.state(transport.StateError)
	})
}

// TestZeroWindowAfterClose: a peer that keeps its window closed cannot keep our
// memory once the program is gone.
func TestZeroWindowAfterClose(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.receive(out{window: -1})
	h.write(5000)
	h.ep.Close()
	for range 60 {
		h.advance(time.Minute)
		if len(h.take()) > 0 && open(h.ep.current()) {
			h.receive(out{window: -1})
		}
	}
	if open(h.ep.current()) {
		t.Errorf("after an hour the connection is in %v still", h.ep.current())
	}
}

// The receiver.

func TestReceiveWindow(t *testing.T) {
	size := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 8192, Max: 8192}
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	h := newHost(t, false, &size, &moderate)
	h.accept(shape{})
	full := strings.Repeat("x", 1024)
	for range 8 {
		h.receive(out{data: full})
	}
	list := h.take()
	if w := list[len(list)-1].window; w != 0 {
		t.Fatalf("with the buffer full the window is %d, want 0", w)
	}
	next := h.next
	h.receive(out{data: "x"})
	h.next = next
	h.expect("a byte into a closed window", "A")
	if got := len(h.read()); got != 8192 {
		t.Errorf("read %d bytes, want 8192", got)
	}
	if s := h.expect("the window opens", "A")[0]; s.window != 8192 {
		t.Errorf("it opens to %d, want 8192", s.window)
	}
	// A FIN fits behind a window that is filled to its edge, and does not open it
	// for more.
	for range 7 {
		h.receive(out{data: full})
	}
	h.receive(out{flags: fin | ack, data: full})
	h.state(transport.StateCloseWait)
	h.take()
	una := h.ep.unacknowledged
	h.write(10)
	h.receive(out{seq: h.next + 1<<20, ack: una + 10})
	if h.ep.unacknowledged != una {
		t.Error("an ACK from beyond the window was believed")
	}
}

// TestSillyWindow: a program that reads little by little opens the window in big
// steps only.
func TestSillyWindow(t *testing.T) {
	size := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 8192, Max: 8192}
	h := newHost(t, false, &size)
	h.accept(shape{})
	for range 8 {
		h.receive(out{data: strings.Repeat("x", 1024)})
	}
	h.take()
	updates := 0
	for range 8192 / 64 {
		if _, _, err := h.ep.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		for _, s := range h.take() {
			updates++
			if s.window < 1460 {
				t.Errorf("the window opened to %d, less than a segment", s.window)
			}
		}
	}
	if updates == 0 || updates > 4 {
		t.Errorf("%d window updates while 8192 bytes were read, want 1 to 4", updates)
	}
}

// TestWindowUpdate: only what is newer than the last update counts (RFC 9293
// section 3.10.7.4).
func TestWindowUpdate(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.receive(out{data: "abc", window: 4000})
	h.write(1000)
	h.take()
	h.receive(out{window: 3000})
	if got := h.ep.sendWindow; got != 3000 {
		t.Errorf("a newer segment: the window is %d, want 3000", got)
	}
	h.receive(out{seq: h.next - 3, ack: h.acked - 1000, window: 9000, data: "abc"})
	if got := h.ep.sendWindow; got != 3000 {
		t.Errorf("an older segment: the window is %d, want 3000", got)
	}
	h.receive(out{data: "d", window: 3000})
	h.receive(out{data: "e", ack: h.acked - 1000, window: 9000})
	if got := h.ep.sendWindow; got != 3000 {
		t.Errorf("an older ACK behind new data: the window is %d, want 3000", got)
	}
}

func TestSmallWindow(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.receive(out{window: 2000})
	h.write(5000)
	h.expect("a window of 2000", "A1460")
	h.receive(out{window: 2000})
	h.expect("the next", "A1460")
	h.receive(out{window: 500})
	h.expect("a window that is small for this peer")
	h.advance(300 * time.Millisecond)
	h.expect("in the end: what fits", "A500")
}
