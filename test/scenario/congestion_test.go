package scenario

import (
	"fmt"
	"time"
)

var congestion = []scenario{
	{clause: "RFC 5681 section 3.1", name: "the initial window is ten segments (RFC 6928)", steps: steps{
		established(), write(20000), takeSegments(10), beyond(10001, 100*ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "the initial window is ten segments when we dial, too", steps: steps{
		dialledOut(), write(20000), takeSegments(10), beyond(10001, 100*ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "slow start: each acknowledged segment lets two out", steps: steps{
		established(), write(40000), takeSegments(10), in("A 1 ack 1001"), takeSegments(2), in("A 1 ack 2001"), takeSegments(2), beyond(14001, 100*ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "slow start: the window doubles per round trip", steps: steps{
		established(), write(60000), takeSegments(10), ackEach(1, 10), takeSegments(20), ackEach(11, 30), takeSegments(30), quiet(100 * ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "after a timeout the window is one segment", steps: steps{
		established(), write(20000), takeSegments(10), between(190*ms, 1100*ms, "A 1:1001 ack 1"), beyond(1001, 100*ms),
		in("A 1 ack 1001"), out("A 1001:2001 ack 1", "A 2001:3001 ack 1"), beyond(3001, 100*ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "after a timeout slow start ends at half of what was in flight", steps: steps{
		established(), write(40000), takeSegments(10), between(190*ms, 1100*ms, "A 1:1001 ack 1"),
		in("A 1 ack 10001"), window(2, 6),
	}},
	{clause: "RFC 5681 section 3.2", name: "fast recovery halves the window", steps: steps{
		established(), firstExchange(1000), write(40000), flight(), dupAcks(3, "A 1 ack 1001"), untilSegment(100*ms, "A 1001:2001 ack 1"), settledData(), ackFlight(), window(2, 7),
	}},
	{clause: "RFC 5681 section 3.1", name: "congestion avoidance: the window grows by one segment per round trip", steps: steps{
		established(), firstExchange(1000), writing(90000), flight(), dupAcks(3, "A 1 ack 1001"), untilSegment(100*ms, "A 1001:2001 ack 1"), settledData(), ackFlight(), growth(6, 1),
	}},
	{clause: "RFC 5681 section 4.1", name: "after a pause the window is the initial one", steps: steps{
		established(), write(30000), takeSegments(10), ackEach(1, 10), takeSegments(20), ackEach(11, 30), wait(2500 * ms),
		write(40000), takeSegments(10), quiet(100 * ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "the peer's window bounds what slow start lets out", steps: steps{
		peerWindow(4000), established(), write(20000), takeSegments(4), in("A 1 ack 2001"), takeSegments(2), beyond(6001, 100*ms),
	}},
	{clause: "RFC 5681 section 3.1", name: "an acknowledgement in pieces does not let more out than one", steps: steps{
		established(), write(40000), takeSegments(10), ackInPieces(100), atMostSegments(3),
	}},
	{clause: "RFC 9438 section 4.10", name: "CUBIC: slow start", cubic: true, steps: steps{
		established(), write(40000), takeSegments(10), ackEach(1, 10), takeSegments(20), beyond(30001, 100*ms),
	}},
	{clause: "RFC 9438 section 4.6", name: "CUBIC: a loss leaves seven tenths of the window", cubic: true, steps: steps{
		established(), firstExchange(1000), writing(90000), flight(), dupAcks(3, "A 1 ack 1001"), untilSegment(100*ms, "A 1001:2001 ack 1"), settledData(), ackFlight(), window(7, 9),
	}},
	{clause: "RFC 9438 section 4.8", name: "CUBIC: after a timeout the window is one segment", cubic: true, steps: steps{
		established(), write(20000), takeSegments(10), between(190*ms, 1100*ms, "A 1:1001 ack 1"), beyond(1001, 100*ms),
		in("A 1 ack 1001"), out("A 1001:2001 ack 1", "A 2001:3001 ack 1"), beyond(3001, 100*ms),
	}},
	{clause: "RFC 9438 section 4.3", name: "CUBIC: with short round trips the window grows as Reno's does", cubic: true, steps: steps{
		established(), firstExchange(1000), writing(90000), flight(), dupAcks(3, "A 1 ack 1001"), untilSegment(100*ms, "A 1001:2001 ack 1"), settledData(), ackFlight(), growth(6, 1),
	}},
}

// ackFlight acknowledges all that was sent.
func ackFlight() step {
	return step{"< ACK of all that was sent", func(s *run) error {
		starts := s.conn(0).starts
		return s.send(mustParse(fmt.Sprintf("A 1 ack %d", starts[len(starts)-1])))
	}}
}

// ackEach acknowledges segments of 1000 bytes one by one.
func ackEach(from, to int64) step {
	return step{fmt.Sprintf("< ACKs of segments %d to %d", from, to), func(s *run) error {
		for i := from; i <= to; i++ {
			if err := s.send(mustParse(fmt.Sprintf("A 1 ack %d", 1+1000*i))); err != nil {
				return err
			}
			s.host.settle()
		}
		return nil
	}}
}

// ackInPieces acknowledges the first segment in n pieces.
func ackInPieces(n int64) step {
	return step{fmt.Sprintf("< %d ACKs of the first segment", n), func(s *run) error {
		for i := int64(1); i <= n; i++ {
			if err := s.send(mustParse(fmt.Sprintf("A 1 ack %d", 1+1000*i/n))); err != nil {
				return err
			}
			s.host.settle()
		}
		return nil
	}}
}

// count takes the data segments that come within a while.
func (s *run) count(d time.Duration) (n int, err error) {
	if s.host.real() {
		d = min(d, realQuiet)
	}
	deadline := time.Now().Add(d)
	for {
		g, _, ok, err := s.next(deadline)
		if err != nil || !ok {
			return n, err
		}
		if g.end.v > g.seq.v {
			n++
		}
	}
}

func atMostSegments(n int) step {
	return step{fmt.Sprintf("at most %d segments", n), func(s *run) error {
		if got, err := s.count(100 * ms); err != nil || got > n {
			return fmt.Errorf("there are %d, %w", got, err)
		}
		return nil
	}}
}

// window expects as many data segments at once as the congestion window lets out.
func window(from, to int) step {
	return step{fmt.Sprintf("%d to %d segments", from, to), func(s *run) error {
		if got, err := s.count(50 * ms); err != nil || got < from || got > to {
			return fmt.Errorf("there are %d, %w", got, err)
		}
		return nil
	}}
}

// growth acknowledges what is in flight, for a few round trips of 10 ms, and expects
// the window to grow by about so many segments each time.
func growth(rounds, by int) step {
	return step{fmt.Sprintf("grows by %d a round trip, %d times", by, rounds), func(s *run) error {
		c := s.conn(0)
		first, last := 0, 0
		for i := range rounds {
			n, err := s.count(10 * ms)
			if err != nil {
				return err
			}
			if i == 0 {
				first = n
			}
			last = n
			starts := c.starts[len(c.starts)-n:]
			for _, at := range starts {
				if err := s.send(mustParse(fmt.Sprintf("A 1 ack %d", at))); err != nil {
					return err
				}
				s.host.settle()
			}
		}
		// A round trip less or more, and rounding.
		if d, want := last-first, by*(rounds-1); d < want-3 || d > want+2 {
			return fmt.Errorf("from %d to %d", first, last)
		}
		return nil
	}}
}
