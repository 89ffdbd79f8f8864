package scenario

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"
	"time"
)

// ms is a thousandth of a second, for the many times below.
const ms = time.Millisecond

// The shortest retransmission timeout is 200 ms in Linux and gVisor. RFC 6298
// section 2.4 asks for a second, which nobody does.
var retransmissions = []scenario{
	{clause: "RFC 6298 section 5.1", name: "data that is not acknowledged is sent again", steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), between(190*ms, 1100*ms, "PA 1:101 ack 1"), in("A 1 ack 101"), quiet(1 * time.Second),
	}},
	{clause: "RFC 6298 section 5.5", name: "the timer doubles", steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), doubles(4, "PA 1:101 ack 1"),
	}},
	{clause: "RFC 6298 section 2.5", name: "the timer does not exceed two minutes, and the connection ends after 100 s at least (RFC 1122 section 4.2.3.5)", slow: true, steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), untilDead(100*time.Second, 30*time.Minute, 121*time.Second), readFails(syscall.ETIMEDOUT),
	}},
	{clause: "RFC 6298 section 5.2", name: "nothing is sent again once all is acknowledged", steps: steps{
		established(), write(3000), out("A 1:1001 ack 1", "A 1001:2001 ack 1", "A 2001:3001 ack 1"), in("A 1 ack 3001"), quiet(2 * time.Second),
	}},
	{clause: "RFC 6298 section 5.3", name: "an acknowledgement of new data starts the timer anew", slow: true, steps: steps{
		established(), write(2000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"), wait(150 * ms), in("A 1 ack 1001"), between(190*ms, 700*ms, "A 1001:2001 ack 1"),
	}},
	{clause: "RFC 6298 section 2.2", name: "the first round trip sets the timer to three times itself", slow: true, steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1"), wait(300 * ms), in("A 1 ack 1"), accept(),
		write(100), out("PA 1:101 ack 1"), between(850*ms, 950*ms, "PA 1:101 ack 1"),
	}},
	{clause: "RFC 6298 section 2.3", name: "steady round trips bring the timer near to them", slow: true, steps: steps{
		established(), steady(40, 400*ms), write(100), out("A *:* ack 1"), between(500*ms, 950*ms, "A *:* ack 1"),
	}},
	{clause: "RFC 6298 section 3", name: "an acknowledgement of what was sent twice is no measurement", slow: true, steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), between(190*ms, 260*ms, "PA 1:101 ack 1"), between(380*ms, 520*ms, "PA 1:101 ack 1"), in("A 1 ack 101"),
		write(100), out("PA 101:201 ack 1"), between(190*ms, 900*ms, "PA 101:201 ack 1"), in("A 1 ack 201"), write(100), out("PA 201:301 ack 1"), in("A 1 ack 301"),
		write(100), out("PA 301:401 ack 1"), between(190*ms, 260*ms, "PA 301:401 ack 1"),
	}},
	{clause: "RFC 7323 section 4.1", name: "with timestamps it is one", slow: true, steps: steps{
		established("mss 1000", "ts 100 0"), write(100), out("PA 1:101 ack 1"), between(190*ms, 260*ms, "PA 1:101 ack 1"), in("A 1 ack 101 <ts 200 last>"),
		write(100), out("PA 101:201 ack 1"), between(190*ms, 260*ms, "PA 101:201 ack 1"),
	}},
	{clause: "RFC 6298 section 5.4", name: "only the first segment is sent again when the timer runs out", steps: steps{
		established(), write(5000), takeSegments(5), between(190*ms, 1100*ms, "A 1:1001 ack 1"), beyond(1001, 100*ms),
	}},
	{clause: "RFC 9293 section 3.8.1", name: "the FIN is sent again", steps: steps{
		established(), closeWrite(), out("FA 1 ack 1"), between(190*ms, 1100*ms, "FA 1 ack 1"), in("A 1 ack 2"), quiet(600 * ms),
	}},
	{clause: "RFC 5681 section 3.2", name: "three duplicate acknowledgements make a fast retransmit", steps: steps{
		established(), firstExchange(1000), write(5000), takeSegments(5), dupAcks(3, "A 1 ack 1001"), between(0, 100*ms, "A 1001:2001 ack 1"),
	}},
	{clause: "RFC 5681 section 3.2", name: "fast retransmit of the very first segment", steps: steps{
		established(), write(5000), takeSegments(5), dupAcks(3, "A 1 ack 1"), between(0, 100*ms, "A 1:1001 ack 1"),
	}},
	{clause: "RFC 5681 section 3.2", name: "two duplicate acknowledgements do not", steps: steps{
		established(), firstExchange(1000), write(5000), takeSegments(5), dupAcks(2, "A 1 ack 1001"), quiet(100 * ms),
	}},
	{clause: "RFC 5681 section 2", name: "acknowledgements that change the window are no duplicates", steps: steps{
		peerWindow(60000), established(), firstExchange(1000), write(5000), takeSegments(5), in("A 1 ack 1001 win 61000"), in("A 1 ack 1001 win 62000"), in("A 1 ack 1001 win 63000"), in("A 1 ack 1001 win 64000"), quiet(100 * ms),
	}},
	{clause: "RFC 5681 section 2", name: "acknowledgements with data are no duplicates", steps: steps{
		established(), firstExchange(1000), write(5000), takeSegments(5), in("A 1:11 ack 1001"), in("A 11:21 ack 1001"), in("A 21:31 ack 1001"), in("A 31:41 ack 1001"), onlyAcks(100 * ms),
	}},
	{clause: "RFC 5681 section 2", name: "acknowledgements are no duplicates when nothing is in flight", steps: steps{
		established(), write(1000), takeSegments(1), in("A 1 ack 1001"), in("A 1 ack 1001"), in("A 1 ack 1001"), in("A 1 ack 1001"), quiet(100 * ms), write(1000), out("A 1001:2001 ack 1"),
	}},
	{clause: "RFC 5681 section 3.2", name: "the first two duplicates let new segments out (RFC 3042)", steps: steps{
		established(), firstExchange(1000), write(30000), flight(), in("A 1 ack 1001"), takeSegments(1), in("A 1 ack 1001"), takeSegments(1),
		in("A 1 ack 1001"), out("A 1001:2001 ack 1"),
	}},
	{clause: "RFC 5681 section 3.2", name: "duplicates beyond the third inflate the window", steps: steps{
		established(), firstExchange(1000), write(30000), flight(), dupAcks(3, "A 1 ack 1001"), untilSegment(100*ms, "A 1001:2001 ack 1"),
		dupAcks(7, "A 1 ack 1001"), takeSegments(1),
	}},
	{clause: "RFC 6582 section 3.2", name: "a partial acknowledgement makes the next retransmission (NewReno)", steps: steps{
		established(), firstExchange(1000), write(6000), takeSegments(6), dupAcks(3, "A 1 ack 1001"), out("A 1001:2001 ack 1"),
		in("A 1 ack 3001"), between(0, 100*ms, "A 3001:4001 ack 1"), in("A 1 ack 5001"), between(0, 100*ms, "A 5001:6001 ack 1"), in("A 1 ack 7001"), quiet(600 * ms),
	}},
	{clause: "RFC 6582 section 3.2", name: "duplicates of what a recovery covered do not start another", steps: steps{
		established(), write(6000), takeSegments(6), between(190*ms, 1100*ms, "A 1:1001 ack 1"), in("A 1 ack 2001"), settledData(),
		in("A 1 ack 2001"), in("A 1 ack 2001"), in("A 1 ack 2001"), nothingBefore(5001), in("A 1 ack 6001"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.8.1", name: "an acknowledgement of half a segment moves the rest only", steps: steps{
		established(), write(1000), takeSegments(1), in("A 1 ack 501"), between(150*ms, 1100*ms, "A 501:1001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "an old acknowledgement is ignored", steps: steps{
		established(), write(3000), takeSegments(3), in("A 1 ack 3001"), in("A 1 ack 1001"), quiet(600 * ms), write(1000), out("A 3001:4001 ack 1"),
	}},

	{clause: "RFC 6675 section 5", name: "what SACK shows as lost is sent again", steps: steps{
		established("mss 1000", "sackok"), firstExchange(500), write(4800), takeSegments(5),
		in("A 1 ack 501 <sack #3-#4>"), in("A 1 ack 501 <sack #3-#5>"), in("A 1 ack 501 <sack #3-#6>"), between(0, 100*ms, "A #2:#3 ack 1"),
		in("A 1 ack #7"), quiet(600 * ms),
	}},
	{clause: "RFC 6675 section 5", name: "what SACK shows as lost of the very first flight is sent again", steps: steps{
		established("mss 1000", "sackok"), write(4800), takeSegments(5),
		in("A 1 ack 1 <sack #2-#3>"), in("A 1 ack 1 <sack #2-#4>"), in("A 1 ack 1 <sack #2-#5>"), between(0, 100*ms, "A #1:#2 ack 1"),
	}},
	{clause: "RFC 6675 section 5", name: "two gaps are filled in one round trip", steps: steps{
		established("mss 1000", "sackok"), firstExchange(500), write(7600), takeSegments(8),
		in("A 1 ack 501 <sack #3-#4>"), in("A 1 ack 501 <sack #5-#6 #3-#4>"), in("A 1 ack 501 <sack #5-#7 #3-#4>"), in("A 1 ack 501 <sack #5-#8 #3-#4>"), in("A 1 ack 501 <sack #5-#9 #3-#4>"),
		out("A #2:#3 ack 1", "A #4:#5 ack 1"), in("A 1 ack #9"), onlySegment("#9"),
	}},
	{clause: "RFC 6675 section 5", name: "what SACK shows as received is not sent again", steps: steps{
		established("mss 1000", "sackok"), firstExchange(500), write(4800), takeSegments(5),
		in("A 1 ack 501 <sack #3-#4>"), in("A 1 ack 501 <sack #3-#5>"), in("A 1 ack 501 <sack #3-#7>"), out("A #2:#3 ack 1"), quiet(100 * ms),
	}},
	{clause: "RFC 2018 section 8", name: "SACK is advice: what was not acknowledged is kept, and sent again when the timer runs out", steps: steps{
		established("mss 1000", "sackok"), write(1900), takeSegments(2), in("A 1 ack 1 <sack #2-#3>"),
		untilSegment(2*time.Second, "A #1:#2 ack 1"), in("A 1 ack #2"), untilSegment(3*time.Second, "A #2:#3 ack 1"), in("A 1 ack #3"), quiet(600 * ms),
	}},
	{clause: "RFC 2018 section 5", name: "SACK of data that was never sent is ignored", steps: steps{
		established("mss 1000", "sackok"), write(1900), takeSegments(2), in("A 1 ack 1 <sack 50001-60001>"), in("A 1 ack 1 <sack 50001-60001>"), in("A 1 ack 1 <sack 50001-60001>"),
		in("A 1 ack #3"), write(900), out("A #3:* ack 1"),
	}},
	{clause: "RFC 2018 section 5", name: "SACK without permission is ignored", steps: steps{
		established(), write(2000), takeSegments(2), in("A 1 ack 1 <sack 1001-2001>"), in("A 1 ack 2001"), write(1000), out("A 2001:3001 ack 1"),
	}},
	{clause: "RFC 2018 section 5", name: "a backward SACK block is ignored", steps: steps{
		established("mss 1000", "sackok"), write(1900), takeSegments(2), in("A 1 ack 1 <sack 1801-1001>"), in("A 1 ack #3"), write(900), out("A #3:* ack 1"),
	}},
	{clause: "RFC 3522 section 3.2", name: "a time-out that came too early is taken back (Eifel)", steps: steps{
		established("mss 1000", "ts 100 0"), write(30000), takeSegments(10), timestampsRise(0), timedOut(), echoOld(), in("A 1 ack #2 <ts 101 last>"), newData(),
	}},
	{clause: "RFC 3522 section 3.2", name: "a time-out that came too early is taken back, with SACK", steps: steps{
		established("mss 1000", "sackok", "ts 100 0"), write(30000), takeSegments(10), timestampsRise(0), timedOut(), echoOld(), in("A 1 ack #2 <ts 101 last>"), newData(),
	}},
	{clause: "RFC 3522 section 3.2", name: "a time-out that came in time is not", steps: steps{
		established("mss 1000", "ts 100 0"), write(30000), takeSegments(10), timedOut(), in("A 1 ack #2 <ts 101 last>"), out("A #2:#3 ack 1"),
	}},
	{clause: "RFC 6937 section 3", name: "sending does not pause while the window comes down", steps: steps{
		established("mss 1000", "sackok"), write(40000), takeSegments(10),
		in("A 1 ack 1 <sack #2-#3>"), in("A 1 ack 1 <sack #2-#4>"), in("A 1 ack 1 <sack #2-#5>"), untilSegment(100*ms, "A #1:#2 ack 1"),
		in("A 1 ack 1 <sack #2-#6>"), in("A 1 ack 1 <sack #2-#7>"), in("A 1 ack 1 <sack #2-#8>"), newData(),
	}},
	{clause: "RFC 8985 section 7", name: "the tail of a flight is probed before the timer runs out", tailProbes: true, steps: steps{
		established("mss 1000", "sackok"), write(1800), takeSegments(2), tailProbe(150 * ms),
	}},
	{clause: "RFC 8985 section 6", name: "a segment is lost when one sent much later has arrived", steps: steps{
		established("mss 1000", "sackok"), firstExchange(500), write(900), takeSegments(1), wait(30 * ms), write(900), takeSegments(1), in("A 1 ack 501 <sack #3-#4>"), between(0, 100*ms, "A #2:#3 ack 1"),
	}},
}

// doubles expects n retransmissions, the time to each twice that to the one
// before.
func doubles(n int, text string) step {
	g := mustParse(text)
	return step{fmt.Sprintf("expect %s %d times, each after twice the time", text, n), func(s *run) error {
		last := s.mark
		var before time.Duration
		for i := range n {
			at, err := s.expect(g, 20*time.Second)
			if err != nil {
				return err
			}
			d := at.Sub(last)
			ratio := float64(d) / float64(before)
			if i > 0 && !s.host.real() && math.Abs(ratio-2) > 0.3 || i > 1 && s.host.real() && (ratio < 1.3 || ratio > 3) {
				return fmt.Errorf("after %v, then %v", before, d)
			}
			before, last = d, at
		}
		return nil
	}}
}

// untilDead takes retransmissions until they stop, for at least from and at most
// to, with no pause longer than pause.
func untilDead(from, to, pause time.Duration) step {
	return step{fmt.Sprintf("it gives up after %v to %v", from, to), func(s *run) error {
		begin, last := s.mark, s.mark
		for {
			_, at, ok, err := s.next(last.Add(pause))
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			last = at
		}
		if d := last.Sub(begin); d < from || d > to {
			return fmt.Errorf("after %v", d)
		}
		return nil
	}}
}

// steady exchanges n segments, each acknowledged after the same time.
func steady(n int, rtt time.Duration) step {
	return step{fmt.Sprintf("%d round trips of %v", n, rtt), func(s *run) error {
		for range n {
			if err := write(100).do(s); err != nil {
				return err
			}
			c := s.conn(0)
			if _, err := s.expect(mustParse("A *:* ack 1"), s.testTimeout()); err != nil {
				return err
			}
			time.Sleep(rtt)
			for { // what was sent too early
				_, _, ok, err := s.next(time.Now())
				if err != nil {
					return err
				}
				if !ok {
					break
				}
			}
			if err := s.send(mustParse(fmt.Sprintf("A 1 ack %d", c.starts[len(c.starts)-1]))); err != nil {
				return err
			}
			s.host.settle()
		}
		return nil
	}}
}

// dupAcks sends the same acknowledgement n times.
func dupAcks(n int, text string) step { return in(slices.Repeat([]string{text}, n)...) }

// firstExchange has n bytes of ours acknowledged. In the first flight of a
// connection, other rules hold.
func firstExchange(n int64) step {
	return join(fmt.Sprintf("%d bytes are sent and acknowledged", n),
		write(n), out(fmt.Sprintf("A 1:%d ack 1", 1+n)), in(fmt.Sprintf("A 1 ack %d", 1+n)),
	)
}

// flight takes the data that is sent at once, however much it is.
func flight() step {
	return call("let a flight out", func(s *run) error {
		_, err := s.count(20 * ms)
		return err
	})
}

// settledData lets what follows from an acknowledgement be sent.
func settledData() step {
	return silence(50*ms, "data or ACKs", func(g segment) bool { return g.flags&^flagP == flagA })
}

// onlySegment lets a last segment be sent again and acknowledges it.
func onlySegment(from string) step {
	g := mustParse("A " + from + " ack 1")
	return step{"nothing before " + from, func(s *run) error {
		want, err := g.resolve(s.conn(0).starts)
		if err != nil {
			return err
		}
		return silence(300*ms, "", func(g segment) bool { return g.seq.v >= want.seq.v }).do(s)
	}}
}

// nothingBefore lets only data from a place on be sent.
func nothingBefore(place int64) step {
	return silence(50*ms, fmt.Sprint("nothing before ", place), func(g segment) bool { return g.seq.v >= place })
}

// untilSegment skips everything until a segment comes.
func untilSegment(limit time.Duration, text string) step {
	g := mustParse(text)
	return step{fmt.Sprintf("expect %s within %v, among others", text, limit), func(s *run) error {
		want, err := g.resolve(s.conn(0).starts)
		if err != nil {
			return err
		}
		deadline := time.Now().Add(limit)
		for {
			g, at, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return fmt.Errorf("there is none")
			case want.matches(g):
				s.mark = at
				return nil
			}
		}
	}}
}

// tailProbe expects the last data again, soon.
func tailProbe(limit time.Duration) step {
	return step{fmt.Sprintf("expect the last segment again within %v", limit), func(s *run) error {
		if s.host.real() {
			limit += 100 * ms
		}
		starts := s.conn(0).starts
		g, _, ok, err := s.next(time.Now().Add(limit))
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("it is not sent")
		case g.end.v != starts[len(starts)-1]:
			return fmt.Errorf("got %v", g)
		}
		return nil
	}}
}

// timedOut expects the first segment again, when the timer has run out.
func timedOut() step { return untilSegment(1500*ms, "A #1:#2 ack 1") }

// echoOld has the peer echo the timestamp that timestampsRise took.
func echoOld() step {
	return step{"the peer echoes that timestamp", func(s *run) error {
		s.conn(0).lastTS = s.oldTS
		return nil
	}}
}

// newData expects that the next segment has data that was not sent before.
func newData() step {
	return step{"expect new data", func(s *run) error {
		starts := s.conn(0).starts
		next := starts[len(starts)-1]
		g, _, ok, err := s.next(time.Now().Add(100 * ms))
		switch {
		case err != nil:
			return err
		case !ok:
			return errors.New("there is none")
		case g.seq.v != next || g.end.v <= next:
			return fmt.Errorf("got %v", g)
		}
		return nil
	}}
}
