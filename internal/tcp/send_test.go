package tcp

import (
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

func TestEcho(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		for _, s := range []shape{{}, {sack: true}, {stamp: true, shift: 7}, {sack: true, stamp: true, shift: 14, mss: 536}} {
			h := newHost(t, slow)
			h.accept(s)
			h.receive(out{data: "hello"})
			h.expect("5 bytes", "A")
			if got := h.read(); got != "hello" {
				t.Errorf("%+v: read %q", s, got)
			}
			h.take() // perhaps a window update
			h.write(5)
			h.expect("5 bytes back", "A5")
			h.receive(out{flags: ack | fin})
			h.expect("a FIN", "A")
			h.ep.Close()
			h.expect("Close", "FA")
			h.receive(out{})
			h.state(transport.StateClosed)
		}
	})
}

// Cookies.

func TestNagle(t *testing.T) {
	for _, delay := range []bool{false, true} {
		h := newHost(t, false)
		h.accept(shape{})
		h.ep.SetNoDelay(!delay)
		h.write(10)
		h.expect("the first bytes", "A10")
		h.write(10)
		h.write(10)
		if !delay {
			h.expect("more, without Nagle", "A10", "A10")
			continue
		}
		h.expect("more, with Nagle")
		h.receive(out{})
		h.expect("the first were acknowledged", "A20")
		h.write(10)
		h.expect("more again")
		h.ep.SetNoDelay(true)
		h.expect("Nagle is switched off", "A10")
	}
}

func TestFullDevice(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.room = 1
	h.write(4000)
	h.expect("room for one", "A1460")
	h.p.Retry()
	h.expect("no room")
	h.room = 1
	h.p.Retry()
	h.expect("room for one more", "A1460")
	h.room = 0
	h.receive(out{data: "ping"})
	h.expect("an acknowledgement has no room either")
	h.room = -1
	h.p.Retry()
	list := h.take()
	if len(list) == 0 || list[len(list)-1].seq+uint32(len(list[len(list)-1].payload)) != h.ep.iss+1+4000 {
		t.Fatalf("with room again %d segments left, want the rest", len(list))
	}
	h.acked = h.ep.sendMax
	h.receive(out{})
	if h.ep.out.len() != 0 {
		t.Errorf("%d bytes are left", h.ep.out.len())
	}
	h.read()
	h.take()
	h.room = 0
	h.ep.Close()
	h.expect("a FIN has no room")
	h.room = -1
	h.p.Retry()
	if s := h.take(); len(s) == 0 || s[len(s)-1].flags&fin == 0 {
		t.Errorf("with room again no FIN left")
	}
}

// A poll asks a full device once, however many connections wait for it, and all
// get their turn.
func TestFullDeviceManyConnections(t *testing.T) {
	const conns, room = 2000, 8
	h := newHost(t, false)
	l := h.listen(8)
	eps := make([]*Endpoint, conns)
	for i := range eps {
		from := uint16(10000 + i)
		h.next = 1
		h.receive(out{flags: syn, asIs: true, from: from})
		h.next = 1
		answer := h.take()
		if len(answer) != 1 {
			t.Fatalf("%d answers to SYN %d, want 1", len(answer), i)
		}
		h.receive(out{seq: 1, ack: answer[0].seq + 1, flags: ack, asIs: true, from: from})
		ep, err := l.Accept()
		if err != nil {
			t.Fatalf("Accept of connection %d: %v", i, err)
		}
		eps[i] = ep.(*Endpoint)
		t.Cleanup(ep.Abort)
	}
	h.take()
	h.room = 0
	for _, ep := range eps {
		if _, err := ep.Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
	}
	left := conns
	for poll := 0; left > 0; poll++ {
		if poll > 2*conns/room+2 {
			t.Fatalf("%d of %d connections still wait after %d polls", left, conns, poll)
		}
		h.room, h.asked = room*(poll%2), 0
		h.p.Retry()
		if most := room*(poll%2) + 1; h.asked > most {
			t.Fatalf("poll %d asked the device %d times, want at most %d", poll, h.asked, most)
		}
		left -= len(h.take())
	}
	if h.p.Stalled() {
		t.Error("connections wait when all was sent")
	}
}

func TestFullDeviceForGood(t *testing.T) {
	for _, before := range []int{0, 1460} { // what is in flight already
		h := newHost(t, false)
		h.accept(shape{})
		if before > 0 {
			h.write(before)
		}
		h.room = 0
		h.write(1000)
		h.advance(time.Minute)
		h.state(transport.StateEstablished)
		h.advance(30 * time.Minute)
		h.state(transport.StateError)
	}
}

// Congestion.
