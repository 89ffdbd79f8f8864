package scenario

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// finWait2 is a connection that our side closed and the peer has not.
func finWait2() step {
	return join("our side closes, the peer acknowledges", established(), closeWrite(), out("FA 1 ack 1"), in("A 1 ack 2"))
}

// timeWait is a connection that both sides closed, ours first.
func timeWait() step {
	return join("both close, our side first", established(), closeAll(), out("FA 1 ack 1"), in("FA 1 ack 2"), out("A 2 ack 2"))
}

// lastAck is a connection that both sides closed, the peer first.
func lastAck() step {
	return join("both close, the peer first", established(), in("FA 1 ack 1"), out("A 1 ack 2"), readFails(io.EOF), closeAll(), out("FA 1 ack 2"))
}

// simultaneous is a connection that both sides closed at once.
func simultaneous() step {
	return join("both close at once", established(), closeAll(), out("FA 1 ack 1"), in("FA 1 ack 1"), out("A 2 ack 2"))
}

// gone expects that a connection is forgotten: its segments belong to none.
func gone(ack string) step {
	return join("the connection is forgotten", in("A 2 ack "+ack), out("R "+ack))
}

var reset = []error{syscall.ECONNRESET}

var closing = []scenario{
	{clause: "RFC 9293 section 3.6", name: "our side closes first", steps: steps{
		established(), closeAll(), out("FA 1 ack 1"), in("A 1 ack 2"), in("FA 1 ack 2"), out("A 2 ack 2"),
	}},
	{clause: "RFC 9293 section 3.6", name: "our side closes first, the peer's FIN acknowledges", steps: steps{timeWait()}},
	{clause: "RFC 9293 section 3.6", name: "the peer closes first", steps: steps{lastAck(), in("A 2 ack 2"), gone("2")}},
	{clause: "RFC 9293 section 3.6", name: "both sides close at once", steps: steps{simultaneous(), in("A 2 ack 2"), quiet(600 * ms)}},
	{clause: "RFC 9293 section 3.6", name: "both sides close at once, the acknowledgements are lost", steps: steps{
		simultaneous(), settled(), in("FA 1 ack 1"), untilSegment(2*time.Second, "A 2 ack 2"), untilSegment(2*time.Second, "FA 1 ack 2"), in("A 2 ack 2"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.6", name: "the peer's FIN with data", steps: steps{
		established(), in("FPA 1:11 ack 1"), out("A 1 ack 12"), read(10), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.6", name: "half-closed by us, the peer goes on", steps: steps{
		finWait2(), in("PA 1:11 ack 2"), out("A 2 ack 11"), read(10), in("FA 11:21 ack 2"), out("A 2 ack 22"), read(10), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.6", name: "half-closed by the peer, we go on", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), readFails(io.EOF), write(10), out("PA 1:11 ack 2"), in("A 2 ack 11"),
		write(10), out("PA 11:21 ack 2"), closeAll(), out("FA 21 ack 2"), in("A 2 ack 22"), gone("22"),
	}},
	{clause: "RFC 9293 section 3.6", name: "nothing can be written after closing for writing", steps: steps{finWait2(), writeFails(syscall.EPIPE)}},
	{clause: "RFC 9293 section 3.6", name: "the FIN follows the data", steps: steps{
		established(), write(2000), closeWrite(), out("A 1:1001 ack 1", "A 1001:2001 ack 1", "FA 2001 ack 1"), in("A 1 ack 2002"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.6", name: "the FIN waits for data that waits for the window", steps: steps{
		peerWindow(1000), established("mss 500"), write(1500), closeWrite(), out("A 1:501 ack 1", "A 501:1001 ack 1"), beyond(1001, 100*ms),
		in("A 1 ack 1001"), out("FA 1001:1501 ack 1"), in("A 1 ack 1502"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.6", name: "the data in flight is sent again after closing", steps: steps{
		established(), write(100), out("PA 1:101 ack 1"), closeAll(), untilFIN(), in("A 1 ack 1"), untilSegmentAt(1, 2*time.Second), in("A 1 ack 102"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.10.4", name: "closing with unread data resets (RFC 2525 section 2.17)", steps: steps{
		established(), in("PA 1:11 ack 1"), out("A 1 ack 11"), closeAll(), out("RA 1 ack 11"),
	}},
	{clause: "RFC 9293 section 3.10.5", name: "closing with a linger time of 0 resets", steps: steps{
		established(), linger(0), closeAll(), out("RA 1 ack 1"), gone("1"),
	}},
	{clause: "RFC 9293 section 3.10.5", name: "a linger time of 0 resets nothing after both FINs", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), closeWrite(), out("FA 1 ack 2"), linger(0), closeAll(), quiet(100 * ms), gone("2"),
	}},
	{clause: "RFC 5961 section 3.2", name: "a reset with the number of the peer's FIN, as macOS sends it (Linux, tcp_reset_check)", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), in("R 1"), gone("2"),
	}},
	{clause: "RFC 9293 section 3.10.5", name: "a linger time of 0 drops data in flight", steps: steps{
		established(), write(1000), out("A 1:1001 ack 1"), linger(0), closeAll(), out("RA 1001 ack 1"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.10.5", name: "a linger time of 0 resets what the peer has closed, too", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), linger(0), closeAll(), out("RA 1 ack 2"),
	}},
	{clause: "RFC 1122 section 4.2.2.13", name: "data that nobody can read any more resets", steps: steps{
		established(), closeAll(), out("FA 1 ack 1"), in("A 1 ack 2"), in("PA 1:11 ack 2"), outReset(),
	}},
	{clause: "RFC 9293 section 3.5.2", name: "the reset for data after closing has the number that the peer expects", steps: steps{
		established(), write(10), out("PA 1:11 ack 1"), closeAll(), out("FA 11 ack 1"), in("PA 1:11 ack 1"), out("R 1"), gone("11"),
	}},
	{clause: "RFC 1122 section 4.2.2.13", name: "a new SYN opens a connection in TIME-WAIT again", steps: steps{
		timeWait(), wait(10 * ms), again(1, 100000), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"), accept(), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 1122 section 4.2.2.13", name: "an old SYN does not", steps: steps{
		timeWait(), settled(), in("S -1000 <mss 1000>"), out("A 2 ack 2"), nobody(),
	}},
	{clause: "RFC 6191 section 2", name: "in TIME-WAIT a SYN with a newer timestamp opens a connection again", steps: steps{
		established("mss 1000", "ts 100 0"), closeAll(), out("FA 1 ack 1"), in("FA 1 ack 2 <ts 200 last>"), out("A 2 ack 2"), wait(1100 * ms),
		again(1, -5000), in("S 0 <mss 1000,ts 300 0>"), out("SA 0 ack 1"), in("A 1 ack 1 <ts 301 last>"), accept(),
	}},
	{clause: "RFC 6191 section 2", name: "in TIME-WAIT a SYN with an older timestamp does not, whatever its number", steps: steps{
		established("mss 1000", "ts 100 0"), closeAll(), out("FA 1 ack 1"), in("FA 1 ack 2 <ts 200 last>"), out("A 2 ack 2"), wait(1100 * ms),
		in("S 100000 <mss 1000,ts 150 0>"), out("A 2 ack 2"), nobody(),
	}},
	{clause: "RFC 9293 section 3.6.1", name: "numbers of the new connection lie beyond those of the one in TIME-WAIT", steps: steps{
		established(), write(20000), takeSegments(10), ackEach(1, 10), takeSegments(10), in("A 1 ack 20001"),
		closeAll(), out("FA 20001 ack 1"), in("FA 1 ack 20002"), out("A 20002 ack 2"), wait(2 * ms),
		again(1, 100000), in("S 0 <mss 1000>"), out("SA 0 ack 1"), beyondOld(), in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "TIME-WAIT: the peer's FIN again is acknowledged again", steps: steps{
		timeWait(), settled(), in("FA 1 ack 2"), out("A 2 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "TIME-WAIT: data again is acknowledged again", steps: steps{
		established(), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10), closeAll(), out("FA 1 ack 11"), in("FA 11 ack 2"), out("A 2 ack 12"), settled(),
		in("PA 1:11 ack 1"), out("A 2 ack 12"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "TIME-WAIT: an acknowledgement outside the window is answered", steps: steps{
		timeWait(), settled(), in("A 1000001 ack 2"), out("A 2 ack 2"), wait(600 * ms), in("A 1 ack 2"), out("A 2 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "TIME-WAIT: the right acknowledgement is not answered", steps: steps{
		timeWait(), settled(), in("A 2 ack 2"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "TIME-WAIT: a FIN without acknowledgement is dropped", ours: "Linux answers the old one", steps: steps{
		timeWait(), settled(), in("F 1"), in("F 2"), quiet(600 * ms), in("FA 1 ack 2"), out("A 2 ack 2"),
	}},
	{clause: "RFC 9293 section 3.4.1", name: "TIME-WAIT lasts 60 s", slow: true, steps: steps{
		timeWait(), wait(58 * time.Second), in("FA 1 ack 2"), out("A 2 ack 2"), wait(61 * time.Second), in("FA 1 ack 2"), out("R 2"),
	}},
	{clause: "RFC 1337 section 3", name: "TIME-WAIT: old data does not reset it", steps: steps{
		timeWait(), settled(), in("A 100001:100011 ack 2"), onlyAcks(50 * ms), in("FA 1 ack 2"), out("A 2 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-1: a wrong acknowledgement is answered and means nothing", steps: steps{
		established(), closeWrite(), out("FA 1 ack 1"), in("A 1 ack 1000"), out("A 2 ack 1"), in("A 1 ack 2"), in("PA 1:11 ack 2"), out("A 2 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-1: data is delivered", steps: steps{
		established(), closeWrite(), out("FA 1 ack 1"), in("PA 1:11 ack 1"), out("A 2 ack 11"), read(10), in("A 11 ack 2"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-2: FIN out of order", steps: steps{
		finWait2(), in("FA 11:21 ack 2"), out("A 2 ack 1"), in("A 1:11 ack 2"), out("A 2 ack 22"), read(20), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-2 of a closed socket ends after 60 s", slow: true, steps: steps{
		established(), closeAll(), out("FA 1 ack 1"), in("A 1 ack 2"), wait(125 * time.Second), in("FA 1 ack 2"), out("R 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSE-WAIT: the peer's FIN again is acknowledged again", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), settled(), in("FA 1 ack 1"), out("A 1 ack 2"), readFails(io.EOF), write(10), out("PA 1:11 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "LAST-ACK: the FIN is sent again", steps: steps{
		lastAck(), between(190*ms, 1100*ms, "FA 1 ack 2"), in("A 2 ack 2"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "LAST-ACK: the peer's FIN again does not end it", steps: steps{
		lastAck(), in("FA 1 ack 1"), untilSegment(2*time.Second, "FA 1 ack 2"), in("A 2 ack 2"), gone("2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "LAST-ACK: a wrong acknowledgement does not end it", steps: steps{
		lastAck(), in("A 2 ack 1000"), untilSegment(2*time.Second, "FA 1 ack 2"), in("A 2 ack 2"), gone("2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSING: the FIN is sent again", steps: steps{
		simultaneous(), untilSegment(2*time.Second, "FA 1 ack 2"), in("A 2 ack 2"), quiet(600 * ms),
	}},

	{clause: "RFC 9293 section 3.5.2", name: "a reset ends an established connection", steps: steps{
		established(), in("R 1"), readFails(reset...), gone("1"),
	}},
	{clause: "RFC 9293 section 3.5.2", name: "a reset with an acknowledgement does, too", steps: steps{
		established(), in("RA 1 ack 1"), readFails(reset...), gone("1"),
	}},
	{clause: "RFC 9293 section 3.5.2", name: "a reset ends waiting for data", steps: steps{
		established(), readLater(), in("R 1"), readEnds(reset...),
	}},
	{clause: "RFC 9293 section 3.5.2", name: "after a reset nothing can be written", steps: steps{
		established(), in("R 1"), writeFails(syscall.ECONNRESET, syscall.EPIPE), writeFails(syscall.EPIPE),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-1: a reset ends it", steps: steps{
		established(), closeWrite(), out("FA 1 ack 1"), in("R 1"), readFails(reset...), gone("2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-2: a reset ends it", steps: steps{finWait2(), in("R 1"), readFails(reset...), gone("2")}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSE-WAIT: a reset ends it", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), in("R 2"), wait(10 * ms), writeFails(syscall.EPIPE, syscall.ECONNRESET), gone("1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "LAST-ACK: a reset ends it", steps: steps{lastAck(), in("R 2"), quiet(600 * ms), gone("2")}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSING: a reset ends it", steps: steps{simultaneous(), in("R 2"), quiet(600 * ms), gone("2")}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-2: a reset outside the window does not", steps: steps{
		finWait2(), in("R 100001"), in("PA 1:11 ack 2"), out("A 2 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSE-WAIT: the peer's FIN twice within a moment is acknowledged twice", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), settled(), in("FA 1 ack 1"), out("A 1 ack 2"), in("FA 1 ack 1"), out("A 1 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.1", name: "CLOSED: what comes right behind a reset is answered with one", steps: steps{
		established(), in("R 1", "PA 1:11 ack 1"), out("R 1"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "CLOSE-WAIT: a SYN is challenged", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), settled(), in("S 2"), out("A 1 ack 2"), write(10), out("PA 1:11 ack 2"),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN-WAIT-2: a SYN is challenged", steps: steps{
		finWait2(), settled(), in("S 1"), out("A 2 ack 1"), in("PA 1:11 ack 2"), out("A 2 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.9.1", name: "closing for reading keeps the connection", steps: steps{
		established(), closeRead(), readFails(io.EOF), write(10), out("PA 1:11 ack 1"), in("A 1 ack 11"), quiet(600 * ms),
	}},
	{clause: "RFC 9293 section 3.9.1", name: "a closed socket can be used no more", steps: steps{
		established(), closeAll(), readFails(net.ErrClosed), writeFails(net.ErrClosed),
	}},
}

// untilFIN skips everything until our FIN.
func untilFIN() step {
	return step{"expect a FIN", func(s *run) error {
		for {
			g, _, ok, err := s.next(time.Now().Add(s.testTimeout()))
			switch {
			case err != nil:
				return err
			case !ok:
				return errors.New("there is none")
			case g.flags&flagF != 0:
				return nil
			}
		}
	}}
}

// untilSegmentAt skips everything until a segment with data or FIN begins there.
func untilSegmentAt(seq int64, limit time.Duration) step {
	return step{"expect it again", func(s *run) error {
		deadline := time.Now().Add(limit)
		for {
			g, _, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return errors.New("it is not sent")
			case g.seq.v == seq && !g.pureAck():
				return nil
			}
		}
	}}
}

// outReset expects a reset, with or without acknowledgement.
func outReset() step {
	return step{"expect a reset", func(s *run) error {
		deadline := time.Now().Add(s.testTimeout())
		for {
			g, _, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return errors.New("there is none")
			case g.flags&flagR != 0:
				return nil
			}
		}
	}}
}

// readLater begins a read, readEnds sees its end.
func readLater() step {
	return call("begin to read", func(s *run) error {
		s.sock.SetReadDeadline(time.Time{})
		s.reading = make(chan error, 1)
		c := s.sock
		go func() {
			_, err := c.Read(make([]byte, 1))
			s.reading <- err
		}()
		return nil
	})
}

func readEnds(wants ...error) step {
	return call("the read ends", func(s *run) error {
		select {
		case err := <-s.reading:
			return oneOf(err, wants)
		case <-time.After(s.testTimeout()):
			return errors.New("it does not")
		}
	})
}

// beyondOld expects that the numbers of a connection that took another one's place
// begin behind those of that one.
func beyondOld() step {
	return step{"our initial number lies beyond the old ones", func(s *run) error {
		if now := s.conn(0).isns.ours; int32(now-s.oldEnd) <= 0 {
			return fmt.Errorf("it is %d, the old connection ended at %d", now, s.oldEnd)
		}
		return nil
	}}
}
