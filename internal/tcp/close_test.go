package tcp

import (
	"io"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

func TestTimeWait(t *testing.T) {
	for _, test := range []struct {
		name  string
		o     func(h *host) out
		wants []string
		state transport.State
	}{
		{"SYN beyond the old connection", func(h *host) out { return out{flags: syn, seq: h.next + 1000, options: shape{}.options(h)} }, []string{"SA"}, transport.StateClosed},
		{"old SYN", func(h *host) out { return out{flags: syn, seq: h.next - 1000, options: shape{}.options(h)} }, []string{"A"}, transport.StateTimeWait},
		{"reset", func(*host) out { return out{flags: rst} }, nil, transport.StateTimeWait},
		{"the FIN again", func(h *host) out { return out{flags: fin | ack, seq: h.next - 1} }, []string{"A"}, transport.StateTimeWait},
		{"an ACK", func(*host) out { return out{} }, nil, transport.StateTimeWait},
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
		h.state(transport.StateClosed)
	})
	t.Run("its end", func(t *testing.T) {
		wait := tcpip.TCPTimeWaitTimeoutOption(10 * time.Second)
		h := newHost(t, false, &wait)
		h.accept(shape{})
		h.end()
		h.advance(9 * time.Second)
		h.receive(out{flags: fin | ack, seq: h.next - 1}) // begins it anew
		h.advance(9 * time.Second)
		h.receive(out{flags: fin | ack, seq: h.next + 5000}) // one beyond the window does not
		h.state(transport.StateTimeWait)
		h.advance(1100 * time.Millisecond)
		h.state(transport.StateClosed)
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
			dial := func() error {
				h.ep = h.newEndpoint()
				if test.bound {
					if err := h.ep.Bind(local, true); err != nil {
						t.Fatal(err)
					}
				}
				return h.ep.Connect(remote)
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
				_ = h.ep.CloseWrite()
				h.receive(out{})
				h.receive(out{flags: fin | ack})
				h.state(transport.StateTimeWait)
			}
			old := h.ep
			h.advance(test.wait)
			h.take()
			err := dial()
			if (err == nil) != test.want {
				t.Fatalf("Connect: %v, want a start: %v", err, test.want)
			}
			if !test.want {
				if s := h.wireState(old); s != transport.StateTimeWait {
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
			h.state(transport.StateEstablished)
		})
	}
}

func TestFinWait2(t *testing.T) {
	linger := tcpip.TCPLingerTimeoutOption(5 * time.Second)
	h := newHost(t, false, &linger)
	h.accept(shape{})
	if err := h.ep.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	h.receive(out{})
	h.state(transport.StateFinWait2)
	h.advance(time.Minute)
	h.state(transport.StateFinWait2) // the program still reads
	h.ep.Close()
	h.advance(4900 * time.Millisecond)
	h.state(transport.StateFinWait2)
	h.advance(200 * time.Millisecond)
	h.state(transport.StateClosed)
}

func TestDataAfterClose(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.ep.Close()
	h.receive(out{})
	h.take()
	h.receive(out{data: "late"})
	h.expect("data that nobody will read", "R")
	h.state(transport.StateError)
}

// Blind attacks (RFC 5961).

// TestAbortUnread: who reads a stream that the end of the stack cuts off must not take
// that for the stream's end, whatever the peer has sent by then.
func TestAbortUnread(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(h *host)
		data string
		want error
	}{
		{"established", func(*host) {}, "unread", syscall.ECONNABORTED},
		{"TIME-WAIT", func(h *host) {
			_ = h.ep.CloseWrite()
			h.receive(out{}, out{flags: fin | ack})
			h.state(transport.StateTimeWait)
		}, "unread", syscall.ECONNABORTED},
		{"closed", func(h *host) {
			h.receive(out{flags: fin | ack})
			_ = h.ep.CloseWrite()
			h.receive(out{})
			h.state(transport.StateClosed)
		}, "unread", syscall.ECONNABORTED},
		{"all is read", func(h *host) {
			_ = h.ep.CloseWrite()
			h.receive(out{}, out{flags: fin | ack})
		}, "", io.EOF},
		{"twice", func(h *host) { h.ep.Abort() }, "unread", syscall.ECONNABORTED},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{})
			if test.data != "" {
				h.receive(out{data: test.data})
			}
			test.end(h)
			h.ep.Abort()
			if n, _, err := h.ep.Read(make([]byte, 100)); n != 0 || err != test.want {
				t.Errorf("Read: %d bytes, %v, want %v", n, err, test.want)
			}
		})
	}
}
