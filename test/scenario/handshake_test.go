package scenario

import (
	"io"
	"syscall"
	"time"
)

// closedPort is a port that nobody listens on.
func closedPort() step {
	return step{"to a closed port", func(s *run) error { s.ourPort = 9; return nil }}
}

// The numbers of resets that answer segments of no connection are absolute: there is
// nothing that they could be relative to.
var handshakes = []scenario{
	{clause: "RFC 9293 section 3.5", name: "three-way handshake", steps: steps{
		listen(),
		in("S 0 <mss 1000>"), out("SA 0 ack 1 <mss *>"), in("A 1 ack 1"),
		accept(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
		write(20), out("PA 1:21 ack 11"), in("A 11 ack 21"),
	}},
	{clause: "RFC 9293 section 3.5", name: "three-way handshake, from our side", steps: steps{
		dial(),
		out("S 0 <mss *>"), in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"),
		connected(),
		write(20), out("PA 1:21 ack 1"), in("PA 1:11 ack 21"), out("A 21 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.5", name: "simultaneous open, ended by an acknowledgement", steps: steps{
		dial(),
		out("S 0"), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"),
		connected(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.5", name: "simultaneous open, ended by SYN and acknowledgement", steps: steps{
		dial(),
		out("S 0"), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("SA 0 ack 1 <mss 1000>"),
		connected(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.5", name: "data on the last segment of the handshake", steps: steps{
		listen(),
		in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("PA 1:11 ack 1"),
		accept(), read(10), out("A 1 ack 11"),
	}},
	{clause: "RFC 9293 section 3.5", name: "FIN on the last segment of the handshake", steps: steps{
		listen(),
		in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("FA 1 ack 1"), out("A 1 ack 2"),
		accept(), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.5", name: "the last segment of the handshake is lost, data follows", steps: steps{
		listen(),
		in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("PA 1:11 ack 1"), in("PA 11:21 ack 1"),
		accept(), read(20), out("A 1 ack 21"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "the handshake ends with data out of order", steps: steps{
		listen(),
		in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 1:11 ack 1"), out("A 1 ack 21"),
		accept(), read(20),
	}},
	{clause: "RFC 9293 section 3.4", name: "data on the SYN is taken later or at once, and not twice", steps: steps{
		listen(),
		in("S 0:10 <mss 1000>"), out("SA 0 ack *"), in("PA 1:11 ack 1"), out("A 1 ack 11"),
		accept(), read(10), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.8.1", name: "SYN is sent again after a second", steps: steps{
		dial(), out("S 0"), between(900*time.Millisecond, 1100*time.Millisecond, "S 0"), in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.8.1", name: "SYN and acknowledgement are sent again after a second", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), between(900*time.Millisecond, 1100*time.Millisecond, "SA 0 ack 1"), in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 6298 section 5.5", name: "the timer of a SYN doubles", slow: true, steps: steps{
		dial(), out("S 0"),
		between(900*time.Millisecond, 1100*time.Millisecond, "S 0"),
		between(1900*time.Millisecond, 2100*time.Millisecond, "S 0"),
		between(3900*time.Millisecond, 4100*time.Millisecond, "S 0"),
		between(7900*time.Millisecond, 8100*time.Millisecond, "S 0"),
	}},
	{clause: "RFC 6298 section 5.5", name: "the timer of a SYN and acknowledgement doubles", slow: true, steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"),
		between(900*time.Millisecond, 1100*time.Millisecond, "SA 0 ack 1"),
		between(1900*time.Millisecond, 2100*time.Millisecond, "SA 0 ack 1"),
		between(3900*time.Millisecond, 4100*time.Millisecond, "SA 0 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.5", name: "dialling goes on for a minute at least, then gives up", slow: true, steps: steps{
		dial(), out("S 0"), stillDiallingAfter(60 * time.Second), dialEndsWithin(4*time.Minute, syscall.ETIMEDOUT),
	}},
	{clause: "RFC 9293 section 3.10.7.2", name: "LISTEN: an acknowledgement is answered with a reset", steps: steps{
		listen(), in("A 5 ack 100"), out("R 100"), nobody(),
	}},
	{clause: "RFC 9293 section 3.10.7.2", name: "LISTEN: SYN and acknowledgement are answered with a reset", steps: steps{
		listen(), in("SA 0 ack 100"), out("R 100"), nobody(),
	}},
	{clause: "RFC 9293 section 3.10.7.2", name: "LISTEN: a reset is ignored", steps: steps{
		listen(), in("R 0"), in("RA 0 ack 100"), quiet(100 * time.Millisecond), nobody(),
	}},
	{clause: "RFC 9293 section 3.10.7.2", name: "LISTEN: what is neither SYN nor acknowledgement is dropped", steps: steps{
		listen(), in("F 0"), in("P 0:10"), quiet(100 * time.Millisecond), nobody(),
	}},
	{clause: "RFC 9293 section 3.10.7.2", name: "LISTEN: a SYN with a reset is dropped", steps: steps{
		listen(), in("SR 0"), quiet(100 * time.Millisecond), nobody(),
	}},
	{clause: "RFC 3168 section 6.1.1", name: "ECN is refused", ours: "Linux accepts it", steps: steps{
		listen(), in("SEC 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"), accept(), in("PAC 1:11 ack 1"), out("A 1 ack 11"), read(10), write(10), out("PA 1:11 ack 11"), in("AE 11 ack 11"), write(10), out("PA 11:21 ack 11"),
	}},
	{clause: "RFC 3168 section 6.1.1", name: "a SYN asks for no ECN", steps: steps{dial(), out("S 0")}},
	{clause: "RFC 9293 section 3.10.7.1", name: "CLOSED: a SYN is answered with a reset that acknowledges it", steps: steps{
		closedPort(), in("S 0"), out("RA 0 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.1", name: "CLOSED: a reset acknowledges data and FIN, too", steps: steps{
		closedPort(), in("S 0:10"), out("RA 0 ack 11"), in("F 100"), out("RA 0 ack 101"),
	}},
	{clause: "RFC 9293 section 3.10.7.1", name: "CLOSED: an acknowledgement is answered with a reset where it points", steps: steps{
		closedPort(), in("A 5 ack 100"), out("R 100"), in("FA 5 ack 200"), out("R 200"), in("SA 5 ack 300"), out("R 300"),
	}},
	{clause: "RFC 9293 section 3.10.7.1", name: "CLOSED: a reset is not answered", steps: steps{
		closedPort(), in("R 5"), in("RA 5 ack 100"), quiet(100 * time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: a reset that acknowledges the SYN ends it", steps: steps{
		dial(), out("S 0"), in("RA 0 ack 1"), connectFails(syscall.ECONNREFUSED), in("A 1 ack 1"), out("R 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: a reset that acknowledges something else is ignored", steps: steps{
		dial(), out("S 0"), in("RA 0 ack 2"), in("RA 0 ack 0"), onlySYNs(100 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: a reset without acknowledgement is ignored", steps: steps{
		dial(), out("S 0"), in("R 0"), quiet(100 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: SYN with a wrong acknowledgement is answered with a reset", steps: steps{
		dial(), out("S 0"), in("SA 0 ack 100"), out("R 100"), onlySYNs(20 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: a wrong acknowledgement is answered with a reset", steps: steps{
		dial(), out("S 0"), in("A 1 ack 100"), out("R 100"), onlySYNs(20 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: an acknowledgement of the SYN alone is dropped", steps: steps{
		dial(), out("S 0"), in("A 1 ack 1"), quiet(100 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.3", name: "SYN-SENT: FIN is dropped", steps: steps{
		dial(), out("S 0"), in("F 0"), quiet(100 * time.Millisecond), stillDialling(),
		in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: a wrong acknowledgement is answered with a reset", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 100"), out("R 100"),
		in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.5.2", name: "SYN-RECEIVED: a wrong acknowledgement outside the window is answered with a reset", steps: steps{
		listen(), in("S 0 <mss 1460>"), out("SA 0 ack 1"), in("A -100:-90 ack 2"), out("R 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: data outside the window is answered from SND.NXT", steps: steps{
		listen(), in("S 0 <mss 1460>"), out("SA 0 ack 1"), in("A -100:-90 ack 1"), out("A 1 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: the acknowledgement is old", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 0"), out("R 0"),
		in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: the SYN again is answered again", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("S 0 <mss 1000>"), between(0, 500*time.Millisecond, "SA 0 ack 1"),
		in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: a reset ends it", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("R 1"), in("A 1 ack 1"), out("R 1"), nobody(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: a reset outside the window is ignored", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("R 100001"), quiet(100 * time.Millisecond),
		in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: a segment outside the window is answered and does not connect", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 100001 ack 1"), out("A 1 ack 1"), nobody(),
		in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "SYN-RECEIVED: a segment without acknowledgement is dropped", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("P 1:11"), quiet(100 * time.Millisecond), nobody(),
		in("A 1 ack 1"), accept(), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.5", name: "the peer's SYN and acknowledgement again are answered", steps: steps{
		dialledOut(), settled(), in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.5.1", name: "half-open: the peer forgot the connection and resets it", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), in("R 1"), readFails(syscall.ECONNRESET),
	}},
	{clause: "RFC 9293 section 3.5.1", name: "half-open: the peer's new SYN leads to its reset", steps: steps{
		established(), again(1, 5000), in("S 0 <mss 1000>"), challenge(), resetTo(), readFails(syscall.ECONNRESET),
	}},
	{clause: "RFC 9293 section 3.9.1", name: "closing a listener resets those who were not accepted", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"), settled(), closeListener(), out("RA 1 ack 1"),
	}},
	{clause: "RFC 9293 section 3.9.1", name: "a listener that was closed is a closed port", steps: steps{
		listen(), closeListener(), in("S 0 <mss 1000>"), out("RA 0 ack 1"),
	}},
}

// onlySYNs lets the stack send its SYN again, which it may do at once when an
// answer made no sense.
func onlySYNs(d time.Duration) step {
	return silence(d, "nothing but SYNs", func(g segment) bool { return g.flags == flagS })
}

func stillDiallingAfter(d time.Duration) step {
	return step{"wait " + d.String() + ", with SYNs", func(s *run) error {
		deadline := time.Now().Add(d)
		for {
			if _, _, ok, err := s.next(deadline); err != nil || !ok {
				break
			}
		}
		return stillDialling().do(s)
	}}
}

func dialEndsWithin(d time.Duration, wants ...error) step {
	return step{"the dial ends within " + d.String(), func(s *run) error {
		r, err := s.dialEnds(d)
		if err != nil {
			return err
		}
		return oneOf(r.err, wants)
	}}
}

// challenge expects an acknowledgement of the connection as it was before again,
// and remembers it.
func challenge() step {
	return step{"expect a challenge", func(s *run) error {
		g, _, ok, err := s.next(time.Now().Add(s.testTimeout()))
		switch {
		case err != nil:
			return err
		case !ok || !g.pureAck():
			return errNoChallenge
		}
		s.conn(0).isns.ours = uint32(g.seq.v) - 1
		s.conn(0).isns.peer += uint32(g.ack.v) - 1
		return nil
	}}
}

var errNoChallenge = syscall.EPROTO

// resetTo is the reset that a peer without the connection sends for a challenge.
func resetTo() step { return in("R 1") }
