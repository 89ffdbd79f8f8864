package scenario

import (
	"fmt"
	"io"
	"syscall"
	"time"
)

// alive shows that a connection works in both directions, none of its data having
// been sent so far.
func alive() step {
	return join("the connection works",
		in("PA 1:11 ack 1"), untilSegment(time.Second, "A 1 ack 11"), read(10), nothingToRead(),
		write(10), untilSegment(time.Second, "PA 1:11 ack 11"), in("A 11 ack 11"),
	)
}

var attacks = []scenario{
	{clause: "RFC 5961 section 3.2", name: "a reset in the window, not at its edge, is challenged", steps: steps{
		established(), settled(), in("R 100"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 3.2", name: "a reset outside the window is ignored", steps: steps{
		established(), settled(), in("R 100001"), in("R -1"), quiet(50 * ms), alive(),
	}},
	{clause: "RFC 5961 section 3.2", name: "a reset right behind the window is ignored", ours: "Linux takes it for one in the window", steps: steps{
		established(), settled(), in("R 65536"), quiet(50 * ms), in("R 65535"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 3.2", name: "SYN-RECEIVED: a reset right behind the window is ignored", ours: "Linux ends a handshake with any reset in the window", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("R 65536"), quiet(50 * ms), in("R 65535"), out("A 1 ack 1"), in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 5961 section 3.2", name: "a reset at the edge ends the connection", steps: steps{
		established(), in("R 1"), readFails(reset...),
	}},
	{clause: "RFC 5961 section 3.2", name: "the peer answers a challenge with the right reset", steps: steps{
		established(), settled(), in("R 100"), out("A 1 ack 1"), in("R 1"), readFails(reset...),
	}},
	{clause: "RFC 5961 section 3.2", name: "a reset behind data out of order is challenged", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), settled(), in("R 21"), onlyAcks(50 * ms), in("A 1:11 ack 1"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 5961 section 4.2", name: "a SYN in the window is challenged", steps: steps{
		established(), settled(), in("S 100 <mss 1000>"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 4.2", name: "a SYN at the edge of the window is challenged", steps: steps{
		established(), settled(), in("S 1 <mss 1000>"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 4.2", name: "a SYN outside the window is challenged", steps: steps{
		established(), settled(), in("S 1000001 <mss 1000>"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 4.2", name: "SYN and acknowledgement are challenged", steps: steps{
		established(), settled(), in("SA 100 ack 1 <mss 1000>"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 4.2", name: "SYN with data is challenged and not taken", steps: steps{
		established(), settled(), in("SA 1:11 ack 1 evil"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 4.2", name: "a SYN is challenged where timestamps were agreed, with one and without", steps: steps{
		established("mss 1000", "ts 10000 0"), settled(), in("S 100000 <mss 1000>"), out("A 1 ack 1"), wait(600 * ms), in("S 100000 <mss 1000,ts 1 0>"), out("A 1 ack 1"), wait(600 * ms),
		in("S 1 <mss 1000,ts 20000 0>"), out("A 1 ack 1"),
	}},
	{clause: "RFC 5961 section 4.2", name: "a peer that lost its state and comes back is answered at once where timestamps were agreed", steps: steps{
		established("mss 1000", "ts 10000 0"), again(1, 5000), in("S 0 <mss 1000>"), challenge(), resetTo(), readFails(syscall.ECONNRESET),
	}},
	{clause: "RFC 5961 section 5", name: "data that acknowledges what was before the first byte is not taken", steps: steps{
		established(), settled(), in("A 11:21 ack 0"), out("A 1 ack 1"), in("A 1:11 ack 1"), out("A 1 ack 11"), read(10), nothingToRead(),
	}},
	{clause: "RFC 5961 section 7", name: "challenges are limited, with data too", steps: steps{
		established(), settled(), in("A 1:11 ack 100"), out("A 1 ack 1"), in("A 1:11 ack 100"), quiet(50 * time.Millisecond), nothingToRead(), in("A 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 5961 section 5.2", name: "data that acknowledges what was never sent is not taken", steps: steps{
		established(), in("PA 1:11 ack 1000000 evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data that acknowledges one byte too many is not taken", steps: steps{
		established(), in("PA 1:11 ack 2 evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data with an acknowledgement that is too old is not taken", steps: steps{
		established(), in("PA 1:11 ack -100000 evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data with an acknowledgement half the numbers away is not taken", steps: steps{
		established(), in("PA 1:11 ack 0x7fffffff evil"), in("PA 1:11 ack -0x7fffffff evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "an acknowledgement that is too old is challenged", steps: steps{
		established(), settled(), in("A 1 ack -100000"), out("A 1 ack 1"), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data with an acknowledgement that is a little old is taken", steps: steps{
		established(), write(1000), out("A 1:1001 ack 1"), in("A 1 ack 1001"), in("PA 1:11 ack 1"), out("A 1001 ack 11"), read(10),
	}},
	{clause: "RFC 5961 section 5.2", name: "data out of order with a wrong acknowledgement is not kept", steps: steps{
		established(), in("PA 11:21 ack 1000000 evil"), onlyAcks(50 * ms), in("PA 1:11 ack 1"), untilSegment(time.Second, "A 1 ack 11"), read(10), nothingToRead(),
	}},
	{clause: "RFC 5961 section 5.2", name: "urgent data with a wrong acknowledgement is not taken", steps: steps{
		established(), in("PAU 1:11 ack 1000000 urg 10 evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "a FIN with a wrong acknowledgement does not close", steps: steps{
		established(), in("FA 1 ack 1000000"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data with a wrong acknowledgement is not taken before the connection is accepted", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"), in("PA 1:11 ack 1000000 evil"), onlyAcks(50 * ms), accept(), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "data with a wrong acknowledgement is not taken when we dialled", steps: steps{
		dialledOut(), in("PA 1:11 ack 1000000 evil"), onlyAcks(50 * ms), nothingToRead(), alive(),
	}},
	{clause: "RFC 5961 section 5.2", name: "FIN-WAIT-2: data with a wrong acknowledgement is not taken", steps: steps{
		finWait2(), in("PA 1:11 ack 1000000 evil"), onlyAcks(50 * ms), in("PA 1:11 ack -100000 evil"), onlyAcks(50 * ms), nothingToRead(), in("PA 1:11 ack 2"), untilSegment(time.Second, "A 2 ack 11"), read(10),
	}},
	{clause: "RFC 5961 section 5.2", name: "with scaled windows, too", steps: steps{
		established("mss 1000", "ws 7", "sackok", "ts 100 0"), in("PA 1:11 ack 1000000 evil <ts 102 last>"), in("PA 1:11 ack -100000000 evil <ts 102 last>"), onlyAcks(50 * ms), nothingToRead(),
		in("PA 1:11 ack 1 <ts 103 last>"), untilSegment(time.Second, "A 1 ack 11"), read(10),
	}},
	{clause: "RFC 5961 section 7", name: "challenges are limited", steps: steps{
		established(), settled(), in("R 100", "R 101", "R 102", "R 103", "R 104", "R 105", "R 106", "R 107", "R 108", "R 109"), noMoreThan(2, 50*ms), alive(),
	}},
	{clause: "RFC 5961 section 7", name: "challenges to SYNs are limited", steps: steps{
		established(), settled(), in("S 100", "S 101", "S 102", "S 103", "S 104", "S 105", "S 106", "S 107", "S 108", "S 109"), noMoreThan(2, 50*ms), alive(),
	}},
	{clause: "RFC 5961 section 7", name: "challenges to wrong acknowledgements are limited", steps: steps{
		established(), settled(), in("A 1 ack -100000", "A 1 ack -100001", "A 1 ack -100002", "A 1 ack -100003", "A 1 ack -100004", "A 1 ack -100005"), noMoreThan(2, 50*ms), alive(),
	}},
	{clause: "RFC 5961 section 7", name: "the limit ends", steps: steps{
		established(), settled(), in("R 100"), out("A 1 ack 1"), wait(1100 * ms), in("R 100"), out("A 1 ack 1"), alive(),
	}},

	{clause: "RFC 9293 section 3.10.7.4", name: "a wrong acknowledgement does not close the window", steps: steps{
		established(), in("A 1 ack 1000000 win 0"), onlyAcks(20 * ms), write(1000), between(0, 100*ms, "A 1:1001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "an acknowledgement that is too old does not close the window", steps: steps{
		established(), in("A 1 ack -100000 win 0"), onlyAcks(20 * ms), write(1000), between(0, 100*ms, "A 1:1001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a wrong acknowledgement does not open the window", steps: steps{
		peerWindow(0), established(), write(1000), in("A 1 ack 1000000 win 60000"), onlyAcks(50 * ms), beyondOneByte(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a wrong acknowledgement does not widen the window", steps: steps{
		peerWindow(2000), established(), in("A 1 ack 1000000 win 60000"), onlyAcks(20 * ms), write(5000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"), beyond(2001, 50*ms),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a segment outside our window does not close the peer's", steps: steps{
		established(), in("A 1000001 ack 1 win 0"), onlyAcks(20 * ms), write(1000), between(0, 100*ms, "A 1:1001 ack 1"),
	}},

	{clause: "RFC 7323 section 5.3", name: "data with an old timestamp is answered and not taken (PAWS)", steps: steps{
		established("mss 1000", "ts 10000 0"), in("PA 1:11 ack 1 <ts 10001 last>"), out("A 1 ack 11 <ts * 10001>"), read(10), settled(),
		in("PA 11:21 ack 1 evil <ts 9000 last>"), out("A 1 ack 11 <ts * 10001>"), nothingToRead(),
		in("PA 11:21 ack 1 <ts 10002 last>"), out("A 1 ack 21"), read(10),
	}},
	{clause: "RFC 7323 section 3.2", name: "segments that leave agreed timestamps out are taken", steps: steps{
		established("mss 1000", "ts 10000 0"), in("PA 1:11 ack 1"), out("A 1 ack 11 <ts * *>"), read(10), write(10), out("PA 1:11 ack 11 <ts * *>"), in("A 11 ack 11"),
		in("PA 11:21 ack 11 <ts 10002 last>"), out("A 11 ack 21 <ts * 10002>"), read(10), in("FA 21 ack 11"), out("A 11 ack 22"), readFails(io.EOF),
	}},
	{clause: "RFC 7323 section 3.2", name: "a handshake that leaves agreed timestamps out goes on", steps: steps{
		listen(), in("S 0 <mss 1000,ts 10000 0>"), out("SA 0 ack 1 <ts * 10000>"), in("A 1 ack 1"), accept(), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 7323 section 5.3", name: "data with the same timestamp is taken", steps: steps{
		established("mss 1000", "ts 10000 0"), in("PA 1:11 ack 1 <ts 10001 last>"), out("A 1 ack 11"), in("PA 11:21 ack 1 <ts 10001 last>"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 7323 section 5.3", name: "timestamps wrap around", steps: steps{
		established("mss 1000", "ts 0xfffffff0 0"), in("PA 1:11 ack 1 <ts 0xfffffff1 last>"), out("A 1 ack 11"), in("PA 11:21 ack 1 <ts 5 last>"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 7323 section 5.3", name: "a reset with an old timestamp counts", steps: steps{
		established("mss 1000", "ts 10000 0"), in("PA 1:11 ack 1 <ts 10001 last>"), out("A 1 ack 11"), read(10), in("R 11 <ts 9000 last>"), readFails(reset...),
	}},
	{clause: "RFC 7323 section 5.3", name: "a timestamp from above the window does not shut the peer out", steps: steps{
		established("mss 1000", "ts 10000 0"), in("PA 1:11 ack 1 <ts 10001 last>"), out("A 1 ack 11"), settled(), in("PA 500001:500011 ack 1 <ts 0x70000000 last>"), onlyAcks(50 * ms),
		in("PA 11:21 ack 1 <ts 10002 last>"), out("A 1 ack 21"), read(20),
	}},

	{clause: "RFC 5927 section 5.2", name: "port unreachable does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(portUnreachable, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "host unreachable does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(hostUnreachable, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "network unreachable does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(netUnreachable, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "a prohibition does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(prohibited, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "a time that was exceeded does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(timeExceeded, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "a problem with a parameter does not end an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(parameter, 0, "PA 1:11 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 4.1", name: "an error with a number that is not in flight does nothing to an established connection", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), icmp(portUnreachable, 0, "PA 100000:100010 ack 1"), survives(),
	}},
	{clause: "RFC 5927 section 5.2", name: "SYN-SENT: port unreachable ends dialling", steps: steps{
		dial(), out("S 0"), icmp(portUnreachable, 0, "S 0"), connectFails(syscall.ECONNREFUSED),
	}},
	{clause: "RFC 5927 section 4.1", name: "SYN-SENT: port unreachable about another number is ignored", steps: steps{
		dial(), out("S 0"), icmp(portUnreachable, 0, "S 5000"), icmp(portUnreachable, 0, "S -1"), stillDialling(), in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(), alive(),
	}},
	{clause: "RFC 5927 section 4.1", name: "SYN-SENT: host unreachable about another number is ignored", steps: steps{
		dial(), out("S 0"), icmp(hostUnreachable, 0, "S 5000"), icmp(netUnreachable, 0, "S 1000000"), stillDialling(), in("SA 0 ack 1 <mss 1000>"), out("A 1 ack 1"), connected(), alive(),
	}},
	{clause: "RFC 5927 section 4.1", name: "SYN-SENT: packet too big about another number is ignored", steps: steps{
		dial(), out("S 0"), icmp(packetTooBig, 1280, "S 5000"), in("SA 0 ack 1 <mss 1400>"), out("A 1 ack 1"), connected(), write(1400), out("A 1:1401 ack 1"),
	}},
	{clause: "RFC 5927 section 4.1", name: "SYN-RECEIVED: an error about another number is ignored", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), icmp(portUnreachable, 0, "SA 5000 ack 1"), icmp(hostUnreachable, 0, "SA -1 ack 1"), in("A 1 ack 1"), accept(), alive(),
	}},
	{clause: "RFC 5927 section 4.1", name: "an error about a connection that does not exist is ignored", steps: steps{
		established(), icmp(portUnreachable, 0, "@7 PA 1:11 ack 1"), icmp(packetTooBig, 1280, "@7 PA 1:11 ack 1"), quiet(50 * ms), alive(),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big makes segments smaller", steps: steps{
		established("mss 1400"), write(1400), out("A 1:1401 ack 1"), icmp(packetTooBig, 1300, "A 1:1401 ack 1"), largest(1000, 1260),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big about what is not in flight is ignored", steps: steps{
		established("mss 1400"), write(1400), out("A 1:1401 ack 1"), icmp(packetTooBig, 1300, "A 100001:101401 ack 1"), icmp(packetTooBig, 1300, "A -100000:-98600 ack 1"), in("A 1 ack 1401"),
		write(1400), out("A 1401:2801 ack 1"),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big about what was acknowledged is ignored", steps: steps{
		established("mss 1400"), write(1400), out("A 1:1401 ack 1"), in("A 1 ack 1401"), icmp(packetTooBig, 1300, "A 1:1401 ack 1"),
		write(1400), out("A 1401:2801 ack 1"),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big below the least MTU makes no tiny segments", steps: steps{
		established("mss 1400"), write(1400), out("A 1:1401 ack 1"), icmp(packetTooBig, 68, "A 1:1401 ack 1"), largest(500, 1400),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big with an MTU of 0 makes no tiny segments", steps: steps{
		established("mss 1400"), write(1400), out("A 1:1401 ack 1"), icmp(packetTooBig, 0, "A 1:1401 ack 1"), largest(500, 1400),
	}},
	{clause: "RFC 5927 section 7.2", name: "packet too big with a larger MTU changes nothing", steps: steps{
		established("mss 1000"), write(1000), out("A 1:1001 ack 1"), icmp(packetTooBig, 1450, "A 1:1001 ack 1"), in("A 1 ack 1001"), write(1000), out("A 1001:2001 ack 1"),
	}},
	{clause: "RFC 5927 section 6", name: "source quench is ignored (RFC 6633 section 3)", only: "IPv4", steps: steps{
		established(), write(5000), takeSegments(5), icmp(sourceQuench, 0, "A 1:1001 ack 1"), in("A 1 ack 5001"), write(20000), takeSegments(10),
	}},

	{clause: "RFC 6528 section 3", name: "connections have different initial sequence numbers", steps: steps{
		listen(), isnsDiffer(8),
	}},
	{clause: "RFC 6528 section 3", name: "the initial sequence number of the same ports rises with time", steps: steps{
		established(), isnRises(20 * ms), isnRises(20 * ms), isnRises(20 * ms),
	}},
	{clause: "RFC 4987 section 3.6", name: "a client gets in while the backlog is full of half-open connections", backlog: 4, steps: steps{
		listen(), flood(64), in("@200 S 0 <mss 1000>"), untilSegment(time.Second, "@200 SA 0 ack 1"), in("@200 A 1 ack 1"), in("@200 PA 1:11 ack 1"), untilSegment(time.Second, "@200 A 1 ack 11"), accept(), read(10),
	}},
	{clause: "RFC 4987 section 3.6", name: "a client that waits for the server gets in, too", backlog: 4, steps: steps{
		listen(), flood(64), in("@200 S 0 <mss 1000>"), untilSegment(time.Second, "@200 SA 0 ack 1"), in("@200 A 1 ack 1"), accept(), write(10), untilSegment(time.Second, "@200 PA 1:11 ack 1"),
	}},
	{clause: "RFC 4987 section 3.6", name: "a made-up acknowledgement does not get in while the backlog is full", backlog: 4, steps: steps{
		listen(), flood(64), in("@200 S 0 <mss 1000>"), untilSegment(time.Second, "@200 SA 0 ack 1"), in("@200 A 1 ack 12345"), untilSegment(time.Second, "@200 R 12345"), nobody(),
	}},
	{clause: "RFC 4987 section 3.6", name: "when nobody accepts, further clients are not reset", backlog: 2, steps: steps{
		listen(), clients(8), noResets(50 * ms), accept(),
	}},
}

// survives shows that a connection with 10 bytes in flight goes on.
func survives() step {
	return join("the connection goes on",
		in("A 1 ack 11"), in("PA 1:11 ack 11"), untilSegment(time.Second, "A 11 ack 11"), read(10), write(10), untilSegment(time.Second, "PA 11:21 ack 11"),
	)
}

// beyondOneByte expects nothing but probes of one byte.
func beyondOneByte() step {
	return silence(50*ms, "no more than a probe", func(g segment) bool { return g.end.v <= 2 })
}

// largest expects the data from 1 to be sent again, in segments of a size between
// two, the last of them aside.
func largest(from, to int64) step {
	return step{fmt.Sprintf("expect it again in segments of %d to %d bytes", from, to), func(s *run) error {
		deadline := time.Now().Add(s.testTimeout())
		for {
			g, _, ok, err := s.next(deadline)
			size := g.end.v - g.seq.v
			switch {
			case err != nil:
				return err
			case !ok:
				return fmt.Errorf("it is not sent")
			case size == 0 || g.seq.v != 1:
				continue
			case size < from || size > to:
				return fmt.Errorf("got %v", g)
			}
			return nil
		}
	}}
}

// isnsDiffer connects n times and compares.
func isnsDiffer(n int) step {
	return step{fmt.Sprintf("%d SYNs", n), func(s *run) error {
		var before, step uint32
		for i := range n {
			if err := s.send(mustParse(fmt.Sprintf("@%d S 0 <mss 1000>", i+1))); err != nil {
				return err
			}
			if _, err := s.expect(mustParse(fmt.Sprintf("@%d SA 0 ack 1", i+1)), s.testTimeout()); err != nil {
				return err
			}
			now := s.conn(i).isns.ours
			// Neither the same, nor near, nor by the same step twice.
			if d := now - before; i > 0 && (int32(d) > -5000 && int32(d) < 5000 || d == step) {
				return fmt.Errorf("%#x after %#x", now, before)
			} else {
				before, step = now, d
			}
		}
		return nil
	}}
}

// isnRises ends the connection by a reset and opens it again after a while.
func isnRises(d time.Duration) step {
	return step{fmt.Sprintf("reset, %v later connect again", d), func(s *run) error {
		c := s.conn(0)
		before := c.isns.ours
		if err := s.send(mustParse("R 1")); err != nil {
			return err
		}
		s.host.settle()
		time.Sleep(d)
		if err := again(1, 100000).do(s); err != nil {
			return err
		}
		if err := s.send(mustParse("S 0 <mss 1000>")); err != nil {
			return err
		}
		if _, err := s.expect(mustParse("SA 0 ack 1"), s.testTimeout()); err != nil {
			return err
		}
		if err := s.send(mustParse("A 1 ack 1")); err != nil {
			return err
		}
		// RFC 6528: one every 4 µs; the stacks here take 64 ns.
		if rise := c.isns.ours - before; rise < uint32(d/(8*time.Microsecond)) || rise > 1<<31 {
			return fmt.Errorf("from %#x to %#x in %v", before, c.isns.ours, d)
		}
		return accept().do(s)
	}}
}

// flood sends SYNs of n clients that never go on.
func flood(n int) step {
	return step{fmt.Sprintf("< %d SYNs of clients that do not go on", n), func(s *run) error {
		for i := range n {
			if err := s.send(mustParse(fmt.Sprintf("@%d S 0 <mss 1000>", i+2))); err != nil {
				return err
			}
		}
		return nil
	}}
}

// clients connect, one after the other.
func clients(n int) step {
	return step{fmt.Sprintf("< %d clients connect", n), func(s *run) error {
		for i := range n {
			if err := s.send(mustParse(fmt.Sprintf("@%d S 0 <mss 1000>", i+1))); err != nil {
				return err
			}
			if _, err := s.expect(mustParse(fmt.Sprintf("@%d SA 0 ack 1", i+1)), 50*ms); err != nil {
				continue // no room for it, which is its peer's to try again
			}
			if err := s.send(mustParse(fmt.Sprintf("@%d A 1 ack 1", i+1))); err != nil {
				return err
			}
			s.host.settle()
		}
		return nil
	}}
}

func noResets(d time.Duration) step {
	return silence(d, "no resets", func(g segment) bool { return g.flags&flagR == 0 })
}
