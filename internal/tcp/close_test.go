package tcp

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func TestTimeWait(t *testing.T) {
	for _, test := range []struct {
		name  string
		o     func(h *host) out
		wants []string
		state gtcp.EndpointState
	}{
		{"SYN beyond the old connection", func(h *host) out { return out{flags: syn, seq: h.next + 1000, options: shape{}.options(h)} }, []string{"SA"}, gtcp.StateClose},
		{"old SYN", func(h *host) out { return out{flags: syn, seq: h.next - 1000, options: shape{}.options(h)} }, []string{"A"}, gtcp.StateTimeWait},
		{"reset", func(*host) out { return out{flags: rst} }, nil, gtcp.StateTimeWait},
		{"the FIN again", func(h *host) out { return out{flags: fin | ack, seq: h.next - 1} }, []string{"A"}, gtcp.StateTimeWait},
		{"an ACK", func(*host) out { return out{} }, nil, gtcp.StateTimeWait},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, true)
			h.accept(shape{})
			h.end()
			h.receive(test.o(h))
			h.expect(test.name, test.wants...)
			h.state(test.state)
		})
	}
	t.Run("SYN with a later timestamp", func(t *testing.T) {
		h := newHost(t, true)
		h.accept(shape{stamp: true})
		h.end()
		h.advance(time.Second)
		h.receive(out{flags: syn, seq: h.next - 1000, options: shape{stamp: true}.options(h)})
		h.expect("SYN", "SA")
		h.state(gtcp.StateClose)
	})
	t.Run("its end", func(t *testing.T) {
		wait := tcpip.TCPTimeWaitTimeoutOption(10 * time.Second)
		h := newHost(t, false, &wait)
		h.accept(shape{})
		h.end()
		h.advance(9 * time.Second)
		h.receive(out{flags: fin | ack, seq: h.next - 1}) // begins it anew
		h.advance(9 * time.Second)
		h.receive(out{flags: fin | ack, seq: h.next + 5000}) // a stranger's does not
		h.state(gtcp.StateTimeWait)
		h.advance(1100 * time.Millisecond)
		h.state(gtcp.StateClose)
	})
}

// TestTimeWaitReuse: a connection in TIME-WAIT gives its port to a new one, when a
// second has passed and timestamps keep the two apart, with numbers beyond its own.
func TestTimeWaitReuse(t *testing.T) {
	for _, test := range []struct {
		name        string
		stamp       bool
		bound, done bool
		wait        time.Duration
		want        bool
	}{
		{"with timestamps", true, false, true, 1500 * time.Millisecond, true},
		{"to a port of its own", true, true, true, 1500 * time.Millisecond, true},
		{"too soon", true, false, true, 500 * time.Millisecond, false},
		{"without timestamps", false, false, true, 30 * time.Second, false},
		{"not closed by the program", true, false, false, 30 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			if err := h.stack.SetPortRange(localPort, localPort); err != nil {
				t.Fatal(err)
			}
			dial := func() tcpip.Error {
				h.ep = h.newEndpoint()
				if test.bound {
					h.ep.SocketOptions().SetReuseAddress(true)
					if err := h.ep.Bind(tcpip.FullAddress{Addr: localAddr, Port: localPort}); err != nil {
						t.Fatal(err)
					}
				}
				return h.ep.Connect(tcpip.FullAddress{Addr: peerAddr, Port: peerPort})
			}
			dial()
			h.take()
			s := shape{stamp: test.stamp, shift: 7}
			h.receive(out{flags: syn | ack, options: s.options(h)})
			h.stamp = test.stamp
			h.write(1 << 20) // far more than the clock of initial numbers counts
			for len(h.take()) > 0 {
				h.receive(out{})
			}
			if test.done {
				h.end()
			} else {
				_ = h.ep.Shutdown(tcpip.ShutdownWrite)
				h.receive(out{})
				h.receive(out{flags: fin | ack})
				h.state(gtcp.StateTimeWait)
			}
			old := h.ep
			h.advance(test.wait)
			h.take()
			err := dial()
			if _, started := err.(*tcpip.ErrConnectStarted); started != test.want {
				t.Fatalf("Connect: %v, want a start: %v", err, test.want)
			}
			if !test.want {
				if s := old.current(); s != gtcp.StateTimeWait {
					t.Errorf("the old connection is in %v", s)
				}
				h.ep = nil
				return
			}
			syn := h.expect("Connect", "S")[0]
			if !after(syn.seq, old.sendMax) {
				t.Errorf("the new connection begins at %d, the old one ended at %d", syn.seq, old.sendMax)
			}
			h.stamp, h.next = false, h.next+1000
			h.acked = syn.seq + 1
			h.receive(out{flags: header.TCPFlagSyn | ack, options: s.options(h)})
			h.state(gtcp.StateEstablished)
		})
	}
}

func TestFinWait2(t *testing.T) {
	linger := tcpip.TCPLingerTimeoutOption(5 * time.Second)
	h := newHost(t, false, &linger)
	h.accept(shape{})
	if err := h.ep.Shutdown(tcpip.ShutdownWrite); err != nil {
		t.Fatal(err)
	}
	h.receive(out{})
	h.state(gtcp.StateFinWait2)
	h.advance(time.Minute)
	h.state(gtcp.StateFinWait2) // the program still reads
	h.ep.Close()
	h.advance(4900 * time.Millisecond)
	h.state(gtcp.StateFinWait2)
	h.advance(200 * time.Millisecond)
	h.state(gtcp.StateClose)
}

func TestDataAfterClose(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.ep.Close()
	h.receive(out{})
	h.take()
	h.receive(out{data: "late"})
	h.expect("data that nobody will read", "RA")
	h.state(gtcp.StateError)
}

// Blind attacks (RFC 5961).
