package tcp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// ways runs a test with the short way to the device and with the long one by
// gVisor's IP layer.
func ways(t *testing.T, f func(t *testing.T, long bool)) {
	for _, long := range []bool{false, true} {
		name := "short"
		if long {
			name = "long"
		}
		t.Run(name, func(t *testing.T) { f(t, long) })
	}
}

func TestEcho(t *testing.T) {
	ways(t, func(t *testing.T, long bool) {
		for _, s := range []shape{{}, {sack: true}, {stamp: true, shift: 7}, {sack: true, stamp: true, shift: 14, mss: 536}} {
			h := newHost(t, long)
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
			h.state(gtcp.StateClose)
		}
	})
}

// Cookies.

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
			ep, _, err := l.Accept(nil)
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

func TestCookiesWhileHandshakesArePending(t *testing.T) {
	h := newHost(t, false)
	l := h.listen(2)
	for i := range uint16(2) {
		h.receive(out{flags: syn, seq: 1000, from: 50000 + i})
	}
	h.expect("two SYNs", "SA", "SA")
	h.receive(out{flags: syn, seq: 1000, from: 50002})
	cookie := h.expect("a third SYN", "SA")[0]
	if got := len(l.listen.pending); got != 2 {
		t.Errorf("%d handshakes are pending, want 2", got)
	}
	h.receive(out{seq: 1001, ack: cookie.seq + 1, from: 50002})
	ep, _, err := l.Accept(nil)
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
	if got := len(l.listen.accepted); got != 2 {
		t.Fatalf("%d connections wait for Accept, want 2", got)
	}
	h.take()
	h.receive(out{flags: syn, seq: 1000, from: 50020})
	h.expect("a SYN to a full listener")
}

// Handshakes.

// connect begins a connection to the peer.
func (h *host) connect() {
	h.t.Helper()
	h.ep = h.newEndpoint()
	if err := h.ep.Bind(tcpip.FullAddress{Addr: localAddr, Port: localPort}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.ep.Connect(tcpip.FullAddress{Addr: peerAddr, Port: peerPort}); err == nil || err.String() != (&tcpip.ErrConnectStarted{}).String() {
		h.t.Fatalf("Connect: %v", err)
	}
}

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
				h.state(gtcp.StateEstablished)
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
	ways(t, func(t *testing.T, long bool) {
		retries := tcpip.TCPSynRetriesOption(4)
		h := newHost(t, long, &retries)
		h.connect()
		h.expect("Connect", "S")
		for i := range 4 {
			h.advance(time.Second<<i - 50*time.Millisecond)
			h.expect(fmt.Sprintf("shortly before %d s", 1<<i))
			h.advance(50 * time.Millisecond)
			h.expect(fmt.Sprintf("%d s without an answer", 1<<i), "S")
		}
		h.advance(20 * time.Second)
		h.state(gtcp.StateError)
		if err := h.ep.LastError(); err == nil || err.String() != (&tcpip.ErrTimeout{}).String() {
			t.Errorf("the connection failed with %v, want a time-out", err)
		}
	})
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(h *host)
		want tcpip.Error // nil: nothing happens
	}{
		{"reset", func(h *host) { h.receive(out{flags: rst | ack}) }, &tcpip.ErrConnectionRefused{}},
		{"reset for another SYN", func(h *host) { h.receive(out{flags: rst | ack, ack: h.acked + 1}) }, nil},
		{"reset without ACK", func(h *host) { h.receive(out{flags: rst}) }, nil},
		{"ICMP", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.iss) }, &tcpip.ErrConnectionRefused{}},
		{"ICMP for another SYN", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.iss-1) }, nil},
		{"ICMP: no route", func(h *host) { h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4HostUnreachable, 0, h.ep.iss) }, &tcpip.ErrHostUnreachable{}},
		{"data", func(h *host) { h.receive(out{flags: psh, data: "x"}) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.connect()
			h.take()
			test.do(h)
			err := h.ep.LastError()
			if test.want == nil {
				h.state(gtcp.StateSynSent)
				return
			}
			h.state(gtcp.StateError)
			if fmt.Sprintf("%T", err) != fmt.Sprintf("%T", test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// Ends.

// end brings the connection to TIME-WAIT.
func (h *host) end() {
	h.t.Helper()
	h.ep.Close()
	h.receive(out{})
	h.receive(out{flags: fin | ack})
	h.state(gtcp.StateTimeWait)
	h.take()
}

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
		{"ACK of what is long past", func(h *host) out { return out{ack: h.acked - 1<<20} }, []string{"A"}, false},
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
				h.state(gtcp.StateError)
				return
			}
			h.state(gtcp.StateEstablished)
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
	h.next = next
	h.expect("one without timestamp")
	if got := h.read(); got != "new" {
		t.Errorf("read %q, want what was new alone", got)
	}
}

// Timers.

func TestRetransmission(t *testing.T) {
	ways(t, func(t *testing.T, long bool) {
		least, greatest, retries := tcpip.TCPMinRTOOption(200*time.Millisecond), tcpip.TCPMaxRTOOption(3*time.Second), tcpip.TCPMaxRetriesOption(8)
		h := newHost(t, long, &greatest, &least, &retries)
		h.accept(shape{})
		h.write(100)
		h.expect("100 bytes", "A100")
		rto := 200 * time.Millisecond
		for range 8 {
			h.advance(rto - 20*time.Millisecond)
			h.expect("shortly before " + rto.String())
			h.advance(21 * time.Millisecond) // the round trip comes on top
			h.expect("at "+rto.String(), "A100")
			rto = min(2*rto, 3*time.Second)
		}
		h.state(gtcp.StateEstablished)
		h.advance(4 * time.Second)
		h.state(gtcp.StateError)
		if err := h.ep.LastError(); fmt.Sprintf("%T", err) != "*tcpip.ErrTimeout" {
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
		// alive is how long the connection lives, counted from when it owes something.
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
		{"a FIN", 0, func(h *host) { _ = h.ep.Shutdown(tcpip.ShutdownWrite) }, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{window: test.window})
			limit := tcpip.TCPUserTimeoutOption(10 * time.Second)
			if err := h.ep.SetSockOpt(&limit); err != nil {
				t.Fatal(err)
			}
			h.advance(time.Minute) // nothing is owed
			h.state(gtcp.StateEstablished)
			test.do(h)
			h.advance(test.alive - 20*time.Millisecond)
			if h.ep.current() == gtcp.StateError {
				t.Fatal("it ended too soon")
			}
			h.advance(40 * time.Millisecond)
			h.state(gtcp.StateError)
			if err := h.ep.LastError(); fmt.Sprintf("%T", err) != "*tcpip.ErrTimeout" {
				t.Errorf("the connection failed with %v, want a time-out", err)
			}
		})
	}
}

func TestKeepAlive(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	idle, interval := tcpip.KeepaliveIdleOption(10*time.Second), tcpip.KeepaliveIntervalOption(2*time.Second)
	for _, o := range []tcpip.SettableSocketOption{&idle, &interval} {
		if err := h.ep.SetSockOpt(o); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.ep.SetSockOptInt(tcpip.KeepaliveCountOption, 3); err != nil {
		t.Fatal(err)
	}
	h.ep.SocketOptions().SetKeepAlive(true)
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
	h.state(gtcp.StateEstablished)
	h.advance(2 * time.Second)
	h.expect("no answer to three probes", "RA")
	h.state(gtcp.StateError)
}

func TestZeroWindow(t *testing.T) {
	ways(t, func(t *testing.T, long bool) {
		h := newHost(t, long)
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
			h.state(gtcp.StateEstablished)
		}
		h.receive(out{window: 2920})
		h.expect("the window opens", "A1460", "A1460")
		h.receive(out{window: -1})
		h.advance(20 * time.Minute) // nobody answers any more
		h.advance(20 * time.Minute)
		h.state(gtcp.StateError)
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
	// for strangers.
	for range 7 {
		h.receive(out{data: full})
	}
	h.receive(out{flags: fin | ack, data: full})
	h.state(gtcp.StateCloseWait)
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
		if _, err := h.ep.Read(&limited{left: 64}, tcpip.ReadOptions{}); err != nil {
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

func TestOutOfOrder(t *testing.T) {
	ways(t, func(t *testing.T, long bool) {
		h := newHost(t, long)
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
		if len(s.sack) != 1 || s.sack[0] != block(span{base + 8, base + 25}) {
			t.Errorf("SACK says %v, want one block", s.sack)
		}
		h.receive(at(25, ""), out{seq: base + 25, flags: fin | ack})
		h.receive(at(0, "abcdefghij"))
		h.take()
		h.state(gtcp.StateCloseWait)
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
			if n := len(h.ep.early); n != maxPieces {
				t.Errorf("%d pieces are kept, want %d", n, maxPieces)
			}
			if h.ep.stats.ReceiveErrors.SegmentQueueDropped.Value() == 0 {
				t.Error("nothing was dropped, by the counter")
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
	if n := len(h.ep.early); n != 1 {
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

func TestNagle(t *testing.T) {
	for _, delay := range []bool{false, true} {
		h := newHost(t, false)
		h.accept(shape{})
		h.ep.SocketOptions().SetDelayOption(delay)
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
		h.ep.SocketOptions().SetDelayOption(false)
		h.expect("Nagle is switched off", "A10")
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

// TestRepair loses segments of a flight of ten.
func TestRepair(t *testing.T) {
	for _, test := range []struct {
		name string
		sack bool
		lost []int
	}{
		{"one", true, []int{0}},
		{"two", true, []int{0, 4}},
		{"three in a row", true, []int{1, 2, 3}},
		{"every other", true, []int{0, 2, 4, 6}},
		{"one, without SACK", false, []int{0}},
		{"two, without SACK", false, []int{1, 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, long bool) {
				h := newHost(t, long)
				h.accept(shape{sack: test.sack})
				h.repair(0, test.lost, test.sack)
				if test.sack { // another begins where that was repaired
					h.repair(1, test.lost, test.sack)
				}
			})
		})
	}
}

// repair sends ten segments, loses some, and wants these again and no others,
// without waiting for a timer.
func (h *host) repair(round int, lost []int, sack bool) {
	h.t.Helper()
	h.advance(300 * time.Millisecond)
	h.ep.window = max(h.ep.window, 20*h.ep.mss)
	base := h.ep.unacknowledged
	const flight = 10
	h.write(flight * 1460)
	have := make([]bool, flight)
	var resent []int
	var queue []segment
	for i, s := range h.take() {
		if !slices.Contains(lost, i) {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if len(s.payload) != 1460 || (s.seq-base)%1460 != 0 {
			h.t.Fatalf("round %d: a segment at %d with %d bytes", round, s.seq-base, len(s.payload))
		}
		i := int(s.seq-base) / 1460
		have[i] = true
		next := slices.Index(have, false)
		if next < 0 {
			next = flight
		}
		o := out{ack: base + uint32(next)*1460}
		if sack && i > next {
			first, end := i, i+1
			for have[first-1] {
				first--
			}
			for end < flight && have[end] {
				end++
			}
			o.options = blocks(base+uint32(first)*1460, base+uint32(end)*1460)
		}
		h.receive(o)
		for _, s := range h.take() {
			resent = append(resent, int(s.seq-base)/1460)
			queue = append(queue, s)
		}
	}
	if fmt.Sprint(resent) != fmt.Sprint(lost) {
		h.t.Fatalf("round %d: lost were %v, sent again %v", round, lost, resent)
	}
	if h.ep.out.len() != 0 || h.ep.inRecovery {
		h.t.Fatalf("round %d: %d bytes are not acknowledged, in recovery: %v", round, h.ep.out.len(), h.ep.inRecovery)
	}
	h.acked = base + flight*1460
}

// TestReneging: a peer that reported the very next segment has dropped what it had
// reported, when the timer runs out, and is sent all again.
func TestReneging(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{sack: true})
	una := h.acked
	h.write(2 * 1460)
	h.expect("two segments", "A1460", "A1460")
	h.receive(out{ack: una, options: blocks(una+1460, una+2920)})
	h.expect("perhaps the first one is late")
	h.advance(20 * time.Millisecond)
	if s := h.expect("it is lost", "A1460"); s[0].seq != una {
		t.Fatalf("sent again was %d, want the first segment", s[0].seq-una)
	}
	h.receive(out{ack: una + 1460})
	h.expect("the peer has the second one, it said")
	h.advance(300 * time.Millisecond)
	if s := h.expect("it has not", "A1460"); s[0].seq != una+1460 {
		t.Fatalf("sent again was %d, want the second segment", s[0].seq-una)
	}
}

func TestTooBig(t *testing.T) {
	frag := func(h *host, size uint16, seq uint32) {
		h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4FragmentationNeeded, size, seq)
	}
	for _, test := range []struct {
		name string
		size uint16
		off  uint32 // of the quoted sequence number
		want []string
		mss  int
	}{
		{"in flight", 1000, 1460, []string{"A960", "A960", "A960", "A40"}, 960},
		{"long past", 1000, 1<<32 - 5000, nil, 1460},
		{"not sent yet", 1000, 5000, nil, 1460},
		{"incredibly small", 68, 0, []string{"A512", "A512", "A512", "A512", "A512", "A360"}, 512},
		{"greater than ours", 9000, 0, nil, 1460},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{})
			una := h.acked
			h.write(2920)
			h.expect("two segments", "A1460", "A1460")
			frag(h, test.size, una+test.off)
			h.expect("the news", test.want...)
			if h.ep.mss != test.mss {
				t.Errorf("the MSS is %d, want %d", h.ep.mss, test.mss)
			}
		})
	}
}

// TestSoftError: what ICMP says of an established connection is no
// more than a hint.
func TestSoftError(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.write(10)
	h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.unacknowledged)
	h.state(gtcp.StateEstablished)
	if err := h.ep.LastError(); fmt.Sprintf("%T", err) != "*tcpip.ErrConnectionRefused" {
		t.Errorf("SO_ERROR is %v, want connection refused", err)
	}
}

// The device.

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
		h.state(gtcp.StateEstablished)
		h.advance(30 * time.Minute)
		h.state(gtcp.StateError)
	}
}

// Congestion.

func TestSlowStart(t *testing.T) {
	for _, control := range []tcpip.CongestionControlOption{"reno", "cubic"} {
		h := newHost(t, false, &control)
		h.accept(shape{shift: 7})
		if got, want := h.ep.window, 10*1460; got != want {
			t.Fatalf("%s: the initial window is %d, want %d", control, got, want)
		}
		if got := h.write(500_000); got != 500_000 {
			t.Fatalf("wrote %d bytes", got)
		}
		for round := range 4 {
			list := h.take()
			n := 0
			for _, s := range list {
				n += len(s.payload)
			}
			if want := 14600 << round; n < want-1460 || n > want {
				t.Fatalf("%s: %d bytes left in round trip %d, want %d", control, n, round, want)
			}
			h.advance(50 * time.Millisecond)
			for _, s := range list {
				h.receive(out{ack: s.seq + uint32(len(s.payload))})
			}
		}
	}
}

// TestAvoidance: after loss the window grows by about a segment per round trip,
// with CUBIC back to what it was, slowly there and faster beyond.
func TestAvoidance(t *testing.T) {
	t.Run("reno", func(t *testing.T) {
		h := newHost(t, false)
		h.accept(shape{shift: 7})
		h.ep.window, h.ep.threshold = 20*1460, 20*1460
		h.ep.sentAt = h.ep.p.now() // no pause
		h.write(1 << 20)
		for range 10 {
			before := h.ep.window
			list := h.take()
			for _, s := range list {
				h.receive(out{ack: s.seq + uint32(len(s.payload))})
			}
			if got := h.ep.window - before; got < 0 || got > 2*1460 {
				t.Errorf("the window grew by %d in a round trip, want about 1460", got)
			}
		}
		if got := h.ep.window / 1460; got < 28 || got > 31 {
			t.Errorf("after ten round trips the window is %d segments, want about 30", got)
		}
	})
	t.Run("cubic", func(t *testing.T) {
		const mss = 1460
		var c cubic
		most := 100 * mss
		w := c.lose(most, mss)
		if w != 70*mss {
			t.Fatalf("after loss the window is %d segments, want 70", w/mss)
		}
		now, rtt := int64(time.Hour), 100*time.Millisecond
		// K = cbrt(30/0.4) = 4.2 s
		var at []int
		for range 80 {
			for got := 0; got < w; got += 2 * mss {
				next := c.grow(w, mss, 2*mss, rtt, now)
				if next < w || next > 2*w {
					t.Fatalf("the window went from %d to %d", w, next)
				}
				w = next
			}
			now += int64(rtt)
			at = append(at, w/mss)
		}
		if at[20] < 90 || at[20] > 100 {
			t.Errorf("after 2 s the window is %d segments, want most of the way to 100", at[20])
		}
		if at[42] < 97 || at[42] > 104 {
			t.Errorf("after 4.2 s the window is %d segments, want about 100", at[42])
		}
		if at[79] < 110 {
			t.Errorf("after 8 s the window is %d segments, want to be well beyond 100", at[79])
		}
		// Loss again, below the last maximum: that comes down (fast convergence).
		c.lose(80*mss, mss)
		if got := int(c.max) / mss; got != 68 {
			t.Errorf("the next maximum is %d segments, want 68", got)
		}
	})
}

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
	if ep := h.stack.FindTransportEndpoint(header.IPv4ProtocolNumber, header.TCPProtocolNumber, id, 1); ep != nil {
		t.Errorf("%v is registered still", ep)
	}
}

// TestForeignCookies: the filter of the device answers SYNs with cookies without
// asking, also those of connections that are not over. The listener takes them.
func TestForeignCookies(t *testing.T) {
	foreign := func(h *host, irs uint32) uint32 {
		local, remote := ends(&stack.TransportEndpointID{LocalAddress: localAddr, LocalPort: localPort, RemoteAddress: peerAddr, RemotePort: peerPort})
		return h.p.cookies.Key.Make(local, remote, irs, h.p.cookies.Minute(), 1460)
	}
	accepted := func(t *testing.T, h *host, l *Endpoint, iss uint32) {
		t.Helper()
		ep, _, err := l.Accept(nil)
		if err != nil {
			t.Fatalf("Accept: %v", err)
		}
		if got := ep.(*Endpoint).iss; got != iss {
			t.Errorf("the connection begins at %d, want the cookie's %d", got, iss)
		}
		if n := len(l.listen.pending); n != 0 {
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
		ep, _, err := l.Accept(nil)
		if err != nil {
			t.Fatalf("Accept: %v", err)
		}
		h.ep = ep.(*Endpoint)
		h.take()
		h.ep.Close()
		h.expect("close", "FA")
		h.receive(out{flags: fin | ack})
		h.expect("the peer's FIN", "A")
		h.state(gtcp.StateTimeWait)
		h.ep = nil // what is closed gets its segments the long way
		irs := h.next + 100_000
		iss := foreign(h, irs)
		h.receive(out{seq: irs + 1, ack: iss + 2})
		h.receive(out{seq: irs + 1, ack: iss + 1})
		accepted(t, h, l, iss)
	})
}
