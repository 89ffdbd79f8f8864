package tcp

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

func TestCookies(t *testing.T) {
	always := tcpip.TCPAlwaysUseSynCookies(true)
	for _, test := range []struct {
		name  string
		wait  time.Duration
		spoil uint32 // is added to what the peer acknowledges
		seq   uint32 // is added to the peer's sequence number
		data  string
		taken bool
	}{
		{name: "at once", taken: true},
		{name: "with data", data: "GET", taken: true},
		{name: "a minute later", wait: time.Minute, taken: true},
		{name: "two minutes later", wait: 2 * time.Minute, taken: true},
		{name: "three minutes later", wait: 3 * time.Minute},
		{name: "four minutes later", wait: 4 * time.Minute},
		{name: "another MSS", spoil: 1},
		{name: "another minute", spoil: 8},
		{name: "a wrong hash", spoil: 1 << 20},
		{name: "another sequence number", seq: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false, &always)
			l := h.listen(4)
			h.receive(out{flags: syn, options: shape{mss: 1000}.options(h)})
			cookie := h.expect("answer to a SYN", "SA")[0]
			if got := header.ParseSynOptions(cookie.options, true); got.MSS != mtu-40 || got.WS != -1 || got.TS || got.SACKPermitted {
				t.Errorf("a cookie's SYN has the options %+v, want an MSS of %d alone", got, mtu-40)
			}
			h.advance(test.wait)
			h.expect("waiting: the host keeps nothing that it could send again")
			o := out{seq: h.next + test.seq, ack: cookie.seq + 1 + test.spoil, data: test.data}
			h.receive(o)
			ep, err := l.Accept()
			if !test.taken {
				h.expect("no cookie of ours", "R")
				if err == nil {
					t.Fatal("the connection was accepted")
				}
				return
			}
			if err != nil {
				t.Fatalf("Accept: %v", err)
			}
			h.ep = ep.(*Endpoint)
			h.check()
			if got := h.read(); got != test.data {
				t.Errorf("read %q, want %q", got, test.data)
			}
			if h.ep.mss != 996 {
				t.Errorf("the MSS is %d, want 996, the greatest cookie's below 1000", h.ep.mss)
			}
			h.take()
			h.write(1000)
			h.expect("1000 bytes", "A996", "A4")
			h.ep.Abort()
		})
	}
}

// TestCookiesKeepOptions: with timestamps, a cookie's connection has the window scale
// and SACK of any other.
func TestCookiesKeepOptions(t *testing.T) {
	always := tcpip.TCPAlwaysUseSynCookies(true)
	for _, s := range []shape{{stamp: true}, {stamp: true, sack: true}, {stamp: true, shift: 9}, {stamp: true, sack: true, shift: 14}, {sack: true, shift: 9}} {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			h := newHost(t, false, &always)
			l := h.listen(4)
			h.receive(out{flags: syn, options: s.options(h)})
			cookie := h.expect("answer to a SYN", "SA")[0]
			got := header.ParseSynOptions(cookie.options, true)
			if got.TS != s.stamp || got.SACKPermitted != (s.stamp && s.sack) || (got.WS >= 0) != (s.stamp && s.shift > 0) {
				t.Fatalf("the answer has the options %+v", got)
			}
			h.advance(time.Minute)
			o := out{ack: cookie.seq + 1, window: 100}
			if s.stamp {
				o.options = stamps(h.millis(), got.TSVal)
			}
			h.receive(o)
			ep, err := l.Accept()
			if err != nil {
				t.Fatalf("Accept: %v", err)
			}
			h.ep = ep.(*Endpoint)
			h.check()
			e := h.ep
			shift := s.shift
			if !s.stamp {
				shift = 0
			}
			if e.tsOK != s.stamp || e.sackOK != (s.stamp && s.sack) || e.sendShift != shift || e.sendWindow != 100<<shift {
				t.Errorf("timestamps %v, SACK %v, window %d<<%d", e.tsOK, e.sackOK, e.sendWindow>>e.sendShift, e.sendShift)
			}
			if want := uint8(got.WS); got.WS >= 0 && e.receiveShift != want {
				t.Errorf("our window is shifted by %d, the answer said %d", e.receiveShift, want)
			}
			if s.stamp && before(e.timestamp(), got.TSVal) {
				t.Errorf("our timestamps go back from %d to %d", got.TSVal, e.timestamp())
			}
			e.Abort()
		})
	}
}

func TestCookiesWhileHandshakesArePending(t *testing.T) {
	h := newHost(t, false)
	l := h.listen(2)
	for i := range uint16(2) {
		h.receive(out{flags: syn, seq: 1000, from: 50000 + i})
	}
	h.expect("two SYNs", "SA", "SA")
	h.receive(out{flags: syn, seq: 1000, from: 50002})
	cookie := h.expect("a third SYN", "SA")[0]
	if got := len(l.listen.synQueue); got != 2 {
		t.Errorf("%d handshakes are pending, want 2", got)
	}
	h.receive(out{seq: 1001, ack: cookie.seq + 1, from: 50002})
	ep, err := l.Accept()
	if err != nil {
		t.Fatalf("Accept: %v", err)
	}
	ep.Abort()
	// With the queue of those to accept full, neither SYN nor cookie is answered.
	for i := range uint16(3) {
		h.take()
		h.receive(out{flags: syn, seq: 1000, from: 50010 + i})
		if s := h.take(); len(s) == 1 {
			h.receive(out{seq: 1001, ack: s[0].seq + 1, from: 50010 + i})
		}
	}
	if got := l.listen.waiting(); got != 2 {
		t.Fatalf("%d connections wait for Accept, want 2", got)
	}
	h.take()
	h.receive(out{flags: syn, seq: 1000, from: 50020})
	h.expect("a SYN to a full listener")
}

// Handshakes.

// TestForeignCookies: the filter of the device answers SYNs with cookies without
// asking, also those of connections that are not over. The listener takes them.
func TestForeignCookies(t *testing.T) {
	foreign := func(h *host, irs uint32) uint32 {
		return h.p.cookies.Key.Make(local, remote, irs, h.p.cookies.Minute(), 1460)
	}
	accepted := func(t *testing.T, h *host, l *Endpoint, iss uint32) {
		t.Helper()
		ep, err := l.Accept()
		if err != nil {
			t.Fatalf("Accept: %v", err)
		}
		if got := ep.(*Endpoint).iss; got != iss {
			t.Errorf("the connection begins at %d, want the cookie's %d", got, iss)
		}
		if n := len(l.listen.synQueue); n != 0 {
			t.Errorf("%d handshakes are pending, want none", n)
		}
		ep.Abort()
	}
	t.Run("half open", func(t *testing.T) {
		h := newHost(t, false)
		l := h.listen(4)
		h.receive(out{flags: syn})
		h.expect("answer to a SYN", "SA")
		iss := foreign(h, h.next-1)
		h.receive(out{ack: iss + 2})
		h.expect("neither its answer's nor a cookie", "R")
		h.receive(out{ack: iss + 1})
		accepted(t, h, l, iss)
	})
	t.Run("TIME-WAIT", func(t *testing.T) {
		h := newHost(t, false)
		l := h.listen(4)
		h.receive(out{flags: syn}, out{})
		ep, err := l.Accept()
		if err != nil {
			t.Fatalf("Accept: %v", err)
		}
		h.ep = ep.(*Endpoint)
		h.take()
		h.ep.Close()
		h.expect("close", "FA")
		h.receive(out{flags: fin | ack})
		h.expect("the peer's FIN", "A")
		h.state(transport.StateTimeWait)
		h.ep = nil // what is closed gets its segments on the slow path
		irs := h.next + 100_000
		iss := foreign(h, irs)
		h.receive(out{seq: irs + 1, ack: iss + 2})
		h.receive(out{seq: irs + 1, ack: iss + 1})
		accepted(t, h, l, iss)
	})
}
