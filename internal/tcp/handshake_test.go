package tcp

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/transport"
)

func TestSimultaneousOpen(t *testing.T) {
	for _, s := range []shape{{}, {sack: true, stamp: true, shift: 7}} {
		for _, answer := range []string{"SYN and ACK", "ACK"} {
			t.Run(fmt.Sprint(s.stamp, answer), func(t *testing.T) {
				h := newHost(t, false)
				h.connect()
				h.expect("Connect", "S")
				h.receive(out{flags: syn, options: s.options(h)})
				h.expect("a SYN instead of an answer", "SA")
				h.stamp = s.stamp
				if answer == "ACK" {
					h.receive(out{})
				} else {
					h.next--
					h.receive(out{flags: syn | ack, options: s.options(h)})
					h.take()
				}
				h.state(transport.StateEstablished)
				h.receive(out{data: "hello"})
				h.expect("5 bytes", "A")
				if got := h.read(); got != "hello" {
					t.Errorf("read %q", got)
				}
				h.take()
				h.write(3)
				h.expect("3 bytes", "A3")
			})
		}
	}
}

func TestSYNAgain(t *testing.T) {
	for _, s := range []shape{{}, {stamp: true}} {
		h := newHost(t, false)
		h.listen(4)
		h.receive(out{flags: syn, options: s.options(h)})
		first := h.expect("a SYN", "SA")[0]
		h.next--
		h.receive(out{flags: syn, options: s.options(h)})
		second := h.expect("the SYN again: ours was lost", "SA")[0]
		if first.seq != second.seq {
			t.Errorf("stamps %v: the second answer has sequence number %d, the first %d", s.stamp, second.seq, first.seq)
		}
	}
}

func TestSYNRetries(t *testing.T) {
	paths(t, func(t *testing.T, slow bool) {
		retries := tcpip.TCPSynRetriesOption(4)
		h := newHost(t, slow, &retries)
		h.connect()
		h.expect("Connect", "S")
		for i := range 4 {
			h.advance(time.Second<<i - 50*time.Millisecond)
			h.expect(fmt.Sprintf("shortly before %d s", 1<<i))
			h.advance(50 * time.Millisecond)
			h.expect(fmt.Sprintf("%d s without an answer", 1<<i), "S")
		}
		h.advance(20 * time.Second)
		h.state(transport.StateError)
		if err := h.ep.LastError(); err != syscall.ETIMEDOUT {
			t.Errorf("the connection failed with %v, want a time-out", err)
		}
	})
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(h *host)
		want error // nil: nothing happens
	}{
		{"reset", func(h *host) { h.receive(out{flags: rst | ack}) }, syscall.ECONNREFUSED},
		{"reset for another SYN", func(h *host) { h.receive(out{flags: rst | ack, ack: h.acked + 1}) }, nil},
		{"reset without ACK", func(h *host) { h.receive(out{flags: rst}) }, nil},
		{"ICMP", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.iss) }, syscall.ECONNREFUSED},
		{"ICMP for another SYN", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.iss-1) }, nil},
		{"ICMP: no route", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4HostUnreachable, 0, h.ep.iss) }, syscall.EHOSTUNREACH},
		{"data", func(h *host) { h.receive(out{flags: psh, data: "x"}) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.connect()
			h.take()
			test.do(h)
			err := h.ep.LastError()
			if test.want == nil {
				h.state(transport.StateSynSent)
				return
			}
			h.state(transport.StateError)
			if err != test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Ends.

// TestListenerGoesAway: handshakes of a listener that is closed end.
func TestListenerGoesAway(t *testing.T) {
	h := newHost(t, false)
	l := h.listen(4)
	h.receive(out{flags: syn, options: shape{}.options(h)})
	h.expect("a SYN", "SA")
	l.Close()
	h.expect("the listener is closed", "RA")
	h.receive(out{})
	h.expect("its peer goes on", "R")
	id := stack.TransportEndpointID{LocalPort: localPort, LocalAddress: localAddr, RemotePort: peerPort, RemoteAddress: peerAddr}
	if ep := h.p.connection(&id); ep != nil {
		t.Errorf("%v is known still", ep)
	}
}

// TestConnectToMany: no connection begins to a broadcast or multicast address.
func TestConnectToMany(t *testing.T) {
	for _, addr := range []string{"255.255.255.255", "224.0.0.1", "239.1.2.3"} {
		h := newHost(t, false)
		e := h.newEndpoint()
		if err := e.Connect(netip.AddrPortFrom(netip.MustParseAddr(addr), 80)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("Connect to %s: %v, want %v", addr, err, syscall.ENETUNREACH)
		}
		h.expect("a connection that does not begin")
	}
}
