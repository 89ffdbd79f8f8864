package scenario

import (
	"fmt"
	"io"
	"time"
)

const probeLate = 1300 * time.Millisecond

var windows = []scenario{
	{clause: "RFC 9293 section 3.8.6", name: "no more is sent than the window holds", steps: steps{
		peerWindow(3000), established(), write(8000), out("A 1:1001 ack 1", "A 1001:2001 ack 1", "A 2001:3001 ack 1"), beyond(3001, 150*time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "the window opens when data is acknowledged", steps: steps{
		established(), peerWindow(2000), in("A 1 ack 1"), write(4000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"),
		in("A 1 ack 1001"), out("A 2001:3001 ack 1"), in("A 1 ack 2001"), out("A 3001:4001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "a window update lets waiting data out at once", steps: steps{
		peerWindow(0), established(), write(100), onlyAcks(20 * time.Millisecond), in("A 1 ack 1 win 1000"), between(0, 50*time.Millisecond, "PA 1:101 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "the peer shrinks its window below what is in flight", steps: steps{
		established(), write(3000), out("A 1:1001 ack 1", "A 1001:2001 ack 1", "A 2001:3001 ack 1"),
		in("A 1 ack 1001 win 500"), write(1000), beyond(3001, 50*time.Millisecond),
		in("A 1 ack 3001 win 5000"), out("A 3001:4001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "a closed window is probed", steps: steps{
		peerWindow(0), established(), write(100), between(150*time.Millisecond, probeLate, "A *:* ack 1"),
		in("A 1 ack 1 win 1000"), out("PA 1:101 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "the time between probes doubles", slow: true, steps: steps{
		peerWindow(0), established(), write(100),
		between(190*time.Millisecond, 260*time.Millisecond, "A *:* ack 1"), in("A 1 ack 1 win 0"),
		between(380*time.Millisecond, 520*time.Millisecond, "A *:* ack 1"), in("A 1 ack 1 win 0"),
		between(760*time.Millisecond, 1040*time.Millisecond, "A *:* ack 1"), in("A 1 ack 1 win 0"),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "a connection whose probes are answered stays open", slow: true, steps: steps{
		established(), peerWindow(0), in("A 1 ack 1"), write(100), answerProbes(2 * time.Hour),
		in("A 1 ack 1 win 1000"), out("PA 1:101 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "a closed window is probed when data was in flight, too", steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), in("A 1 ack 101 win 0"), write(100), between(150*time.Millisecond, probeLate, "A *:* ack 1"),
		in("A 1 ack 101 win 1000"), out("PA 101:201 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "a probe that is taken opens the window", steps: steps{
		peerWindow(0), established(), write(1), between(150*time.Millisecond, probeLate, "A *:* ack 1"),
		in("A 1 ack 1 win 1"), out("PA 1:2 ack 1"), in("A 1 ack 2 win 1"), quiet(300 * time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.8.6.2.1", name: "a window of a few bytes does not make a small segment at once", steps: steps{
		peerWindow(5000), established(), write(5000), takeSegments(5), in("A 1 ack 5001 win 10"), write(1000), beyond(5001, 50*time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.8.6.2.1", name: "a window of a few bytes is used in the end", steps: steps{
		peerWindow(5000), established(), write(5000), takeSegments(5), in("A 1 ack 5001 win 10"), write(1000), between(0, probeLate, "A 5001:5011 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6.2.2", name: "a full buffer closes the window", steps: steps{
		established(), fill(), windowIs(0),
	}},
	{clause: "RFC 9293 section 3.8.6.2.2", name: "reading it all opens the window and says so", steps: steps{
		established(), fill(), settled(), readAll(), windowOpens(),
	}},
	{clause: "RFC 9293 section 3.8.6.2.2", name: "reading a byte does not open the window", steps: steps{
		established(), fill(), settled(), read(1), quiet(100 * time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.8.6.1", name: "the peer's probes of a closed window are answered and not taken", steps: steps{
		established(), fill(), settled(), probe(1), windowIs(0), settled(), probe(1), windowIs(0), readAll(), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "data beyond a closed window is not taken", steps: steps{
		established(), fill(), settled(), probe(1000), windowIs(0), settled(), readAll(), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "a FIN is taken while the window is closed", steps: steps{
		established(), fill(), settled(), finAtEnd(), readAll(), finAtEnd(), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "the right edge of our window does not move to the left", steps: steps{
		established(), fillWatched(),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "acknowledgements count while our window is closed", steps: steps{
		established(), fill(), settled(), write(1000), outAtLeast(1000), ackAll(), quiet(400 * time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a window from an older segment does not count", steps: steps{
		established(), in("PA 1:11 ack 1 win 5000"), out("A 1 ack 11"), in("PA 11:21 ack 1 win 5000"), out("A 1 ack 21"),
		in("A 1:11 ack 1 win 0"), out("A 1 ack 21"), write(1000), between(0, 100*time.Millisecond, "A 1:1001 ack 21"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a window with an older acknowledgement does not count", steps: steps{
		established(), write(2000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"), in("A 1 ack 2001 win 5000"), in("A 1 ack 1001 win 0"),
		write(1000), between(0, 100*time.Millisecond, "A 2001:3001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a window update without data counts", steps: steps{
		peerWindow(2000), established(), write(4000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"), in("A 1 ack 1 win 3000"), out("A 2001:3001 ack 1"), in("A 1 ack 1 win 4000"), out("A 3001:4001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.8.6", name: "our window is used to its edge", steps: steps{
		established(), fillOnce(1000), fillOnce(1000), fillOnce(1000),
	}},
}

// fill sends data until our window is closed.
func fill() step {
	return step{"fill the window", func(s *run) error { return s.fill(func(segment) error { return nil }) }}
}

// fillWatched does so and sees to it that the window's right edge stays.
func fillWatched() step {
	return step{"fill the window and watch its right edge", func(s *run) error {
		edge := s.conn(0).edge
		return s.fill(func(g segment) error {
			if at := g.ack.v + g.win.v; at < edge {
				return fmt.Errorf("it moved from %d to %d", edge, at)
			} else {
				edge = at
			}
			return nil
		})
	}}
}

func (s *run) fill(see func(segment) error) error {
	c := s.conn(0)
	next := c.ack
	for idle := 0; idle < 2; {
		if size := min(1000, c.edge-next); size > 0 {
			if err := s.send(mustParse(fmt.Sprintf("A %d:%d ack %d", next, next+size, c.starts[len(c.starts)-1]))); err != nil {
				return err
			}
			next += size
		} else if c.ack == next && c.edge == next {
			return nil
		}
		for {
			limit := time.Millisecond
			if c.edge == next {
				limit = s.testTimeout()
			}
			g, _, ok, err := s.next(time.Now().Add(limit))
			if err != nil {
				return err
			}
			if !ok {
				if limit > time.Millisecond {
					idle++
				}
				break
			}
			if err := see(g); err != nil {
				return err
			}
			if c.ack == next {
				break
			}
		}
	}
	return fmt.Errorf("it does not close: sent %d, acknowledged %d, right edge %d", next, c.ack, c.edge)
}

// fillOnce sends one segment of data that is acknowledged and read.
func fillOnce(n int64) step {
	return step{fmt.Sprintf("send and read %d bytes", n), func(s *run) error {
		c := s.conn(0)
		from := max(c.ack, 1)
		if err := s.send(mustParse(fmt.Sprintf("A %d:%d ack 1", from, from+n))); err != nil {
			return err
		}
		if _, err := s.expect(mustParse(fmt.Sprintf("A 1 ack %d", from+n)), s.testTimeout()); err != nil {
			return err
		}
		return read(n).do(s)
	}}
}

func windowIs(n int64) step {
	return step{fmt.Sprintf("our window is %d", n), func(s *run) error {
		if c := s.conn(0); c.edge-c.ack != n {
			return fmt.Errorf("it is %d", c.edge-c.ack)
		}
		return nil
	}}
}

// windowOpens expects news of an open window.
func windowOpens() step {
	return step{"expect a window update", func(s *run) error {
		c := s.conn(0)
		g, _, ok, err := s.next(time.Now().Add(s.testTimeout()))
		switch {
		case err != nil:
			return err
		case !ok || !g.pureAck() || g.win.v == 0:
			return fmt.Errorf("got %v, acknowledged is %d", g, c.ack)
		}
		return nil
	}}
}

// probe sends n bytes behind what was acknowledged, and expects an answer that
// takes none of it.
func probe(n int64) step {
	return step{fmt.Sprintf("send %d bytes beyond the window", n), func(s *run) error {
		c := s.conn(0)
		if err := s.send(mustParse(fmt.Sprintf("A %d:%d ack 1", c.ack, c.ack+n))); err != nil {
			return err
		}
		_, err := s.expect(mustParse(fmt.Sprintf("A 1 ack %d", c.ack)), s.testTimeout())
		return err
	}}
}

// readAll reads what was acknowledged.
func readAll() step {
	return step{"read all", func(s *run) error { return read(s.conn(0).ack - 1 - s.read).do(s) }}
}

// finAtEnd sends a FIN behind all data.
func finAtEnd() step {
	return step{"< FIN behind all data", func(s *run) error {
		return s.send(mustParse(fmt.Sprintf("FA %d ack 1", s.read+1+(s.conn(0).ack-1-s.read))))
	}}
}

// ackAll acknowledges all data.
func ackAll() step {
	return step{"< ACK of all data", func(s *run) error {
		c := s.conn(0)
		return s.send(mustParse(fmt.Sprintf("A %d ack %d", c.ack, c.starts[len(c.starts)-1])))
	}}
}

// answerProbes acknowledges probes for a time, which must not end the connection.
func answerProbes(d time.Duration) step {
	return step{fmt.Sprintf("answer probes for %v", d), func(s *run) error {
		deadline := time.Now().Add(d)
		for {
			g, _, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return nil
			case g.flags&flagR != 0:
				return fmt.Errorf("got %v", g)
			}
			if err := s.send(mustParse("A 1 ack 1 win 0")); err != nil {
				return err
			}
		}
	}}
}
