package scenario

import (
	"fmt"
	"time"
)

var optionScenarios = []scenario{
	{clause: "RFC 6691 section 2", name: "the MSS is the MTU less the fixed headers", only: "IPv4", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1 <mss 1460>"),
	}},
	{clause: "RFC 6691 section 2", name: "the MSS is the MTU less the fixed headers of IPv6", only: "IPv6", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1 <mss 1440>"),
	}},
	{clause: "RFC 6691 section 2", name: "the MSS does not shrink for the peer's options", only: "IPv4", steps: steps{
		listen(), in("S 0 <mss 1000,sackok,ts 100 0,ws 7>"), out("SA 0 ack 1 <mss 1460>"),
	}},
	{clause: "RFC 6691 section 2", name: "options count towards the peer's MSS", steps: steps{
		established("mss 1000", "ts 100 0"), write(2000), out("A 1:989 ack 1 <ts * 101>", "A 989:1977 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "a SYN has an MSS", steps: steps{dial(), out("S 0 <mss *>")}},
	{clause: "RFC 9293 section 3.7.1", name: "no segment is larger than the peer's MSS", steps: steps{
		established("mss 500"), write(1200), out("A 1:501 ack 1", "A 501:1001 ack 1", "A 1001:1201 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "without an MSS it is 536", only: "IPv4", steps: steps{
		established("nop"), write(1072), out("A 1:537 ack 1", "A 537:1073 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "without an MSS it is 1220 over IPv6", only: "IPv6", steps: steps{
		established("nop"), write(2440), out("A 1:1221 ack 1", "A 1221:2441 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "the peer's MSS counts when we dial, too", steps: steps{
		dialledOut("mss 500"), write(1000), out("A 1:501 ack 1", "A 501:1001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "segments are full when SACK is permitted", steps: steps{
		established("mss 1000", "sackok"), write(2000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"),
	}},
	{clause: "RFC 9293 section 3.7.1", name: "a tiny MSS does not make tiny segments", steps: steps{
		established("mss 1"), write(480), outAtLeast(40),
	}},
	{clause: "RFC 9293 section 3.1", name: "an MSS on a data segment is ignored", steps: steps{
		established(), in("PA 1:11 ack 1 <mss 100>"), out("A 1 ack 11"), write(1000), out("A 1:1001 ack 11"),
	}},
	{clause: "RFC 9293 section 3.1", name: "unknown options on a SYN are ignored", steps: steps{
		established("hex fd04beef", "mss 1000", "hex fe0801020304050a"), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
		write(1000), out("A 1:1001 ack 11"),
	}},
	{clause: "RFC 9293 section 3.1", name: "unknown options on data are ignored", steps: steps{
		established(), in("PA 1:11 ack 1 <hex fd04beef>"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "a full header of NOPs", steps: steps{
		established("mss 1000", "hex 010101010101010101010101010101010101010101010101010101010101010101010101"),
		in("PA 1:11 ack 1 <hex 01010101010101010101010101010101010101010101010101010101010101010101010101010101>"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "nothing behind the end of the options counts", only: "IPv4", steps: steps{
		established("hex 00", "mss 1000", "nop", "nop", "nop"), write(1000), out("A 1:537 ack 1"),
	}},
	{clause: "RFC 9293 section 3.1", name: "an option of length 0 on a SYN", steps: steps{
		listen(), in("S 0 <mss 1000,hex fd00>"), wait(50 * time.Millisecond), in("S 0 <mss 1000>"), out("SA 0 ack 1"), in("A 1 ack 1"), accept(),
	}},
	{clause: "RFC 9293 section 3.1", name: "an option longer than the header on data", steps: steps{
		established(), in("PA 1:11 ack 1 <hex 08ff0101>"), wait(50 * time.Millisecond), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "options of the wrong length mean nothing", steps: steps{
		established("mss 1000", "hex 0304070a", "hex 0404beef", "hex 080401020101"), in("PA 1:11 ack 1"), out("A 1 ack 11 <!ts,!sack>"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "a header length below the minimum is dropped", steps: steps{
		established(), in("PA 1:11 ack 1 doff 4"), in("PA 1:11 ack 1 doff 1"), quiet(50 * time.Millisecond), nothingToRead(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "a header longer than the segment is dropped", steps: steps{
		established(), in("PA 1:11 ack 1 doff 15"), quiet(50 * time.Millisecond), nothingToRead(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "a wrong checksum is dropped without an answer", steps: steps{
		established(), in("PA 1:11 ack 1 badsum"), in("R 1 badsum"), in("S 0 badsum"), quiet(50 * time.Millisecond), nothingToRead(),
		in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.1", name: "a wrong checksum on a SYN is dropped without an answer", steps: steps{
		listen(), in("S 0 <mss 1000> "), out("SA 0 ack 1"), in("@2 S 0 badsum <mss 1000>"), quiet(50 * time.Millisecond),
	}},

	{clause: "RFC 7323 section 2.2", name: "the window is scaled if the peer offers it", steps: steps{
		listen(), in("S 0 <mss 1000,ws 7>"), out("SA 0 ack 1 <ws *>"),
	}},
	{clause: "RFC 7323 section 2.2", name: "the window is not scaled if the peer does not offer it", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1 <!ws>"),
	}},
	{clause: "RFC 7323 section 2.2", name: "a SYN offers to scale the window", steps: steps{dial(), out("S 0 <ws *>")}},
	{clause: "RFC 7323 section 2.2", name: "the window of a SYN is not scaled", steps: steps{
		listen(), in("S 0 win 2000 <mss 1000,ws 10>"), out("SA 0 ack 1"), in("A 1 ack 1 win 4"), accept(),
		write(8000), out("A 1:1001 ack 1", "A 1001:2001 ack 1", "A 2001:3001 ack 1", "A 3001:4001 ack 1"), beyond(4097, 100*time.Millisecond),
	}},
	{clause: "RFC 7323 section 2.3", name: "the peer's window is scaled", steps: steps{
		peerWindow(2), established("mss 1024", "ws 10"),
		write(5000), out("A 1:1025 ack 1", "A 1025:2049 ack 1"), beyond(2049, 100*time.Millisecond),
		in("A 1 ack 2049 win 1"), out("A 2049:3073 ack 1"),
	}},
	{clause: "RFC 7323 section 2.3", name: "a shift of more than 14 is taken as 14", steps: steps{
		established("mss 1024", "ws 15"), peerWindow(1), in("A 1 ack 1"),
		write(40960), takeSegments(10), in("A 1 ack 10241"), takeSegments(16), beyond(10241+16384, 100*time.Millisecond),
	}},
	{clause: "RFC 7323 section 2.2", name: "the peer's window is not scaled when it does not scale", steps: steps{
		peerWindow(2000), dialledOut("mss 1000"), write(5000), out("A 1:1001 ack 1", "A 1001:2001 ack 1"), beyond(2001, 100*time.Millisecond),
	}},
	{clause: "RFC 7323 section 2.2", name: "a shift on a data segment is ignored", steps: steps{
		established("mss 1000", "ws 0"), in("PA 1:11 ack 1 win 2000 <nop,ws 7>"), out("A 1 ack 11"),
		in("A 11 ack 1 win 2000"), write(5000), out("A 1:1001 ack 11", "A 1001:2001 ack 11"), beyond(2001, 100*time.Millisecond),
	}},

	{clause: "RFC 2018 section 2", name: "SACK is permitted if the peer permits it", steps: steps{
		listen(), in("S 0 <mss 1000,sackok>"), out("SA 0 ack 1 <sackok>"),
	}},
	{clause: "RFC 2018 section 2", name: "SACK is not permitted if the peer does not permit it", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1 <!sackok>"),
	}},
	{clause: "RFC 2018 section 2", name: "a SYN permits SACK", steps: steps{dial(), out("S 0 <sackok>")}},
	{clause: "RFC 2018 section 2", name: "SACK permitted on a data segment is ignored", steps: steps{
		established(), in("A 11:21 ack 1 <sackok>"), out("A 1 ack 1 <!sack>"),
	}},

	{clause: "RFC 7323 section 3.2", name: "timestamps are used if the peer offers them", steps: steps{
		listen(), in("S 0 <mss 1000,ts 100 0>"), out("SA 0 ack 1 <ts * 100>"), in("A 1 ack 1 <ts 101 last>"), accept(),
		in("PA 1:11 ack 1 <ts 102 last>"), out("A 1 ack 11 <ts * 102>"),
		write(10), out("PA 1:11 ack 11 <ts * 102>"),
	}},
	{clause: "RFC 7323 section 3.2", name: "timestamps are not used if the peer does not offer them", steps: steps{
		listen(), in("S 0 <mss 1000>"), out("SA 0 ack 1 <!ts>"), in("A 1 ack 1"), accept(),
		in("PA 1:11 ack 1"), out("A 1 ack 11 <!ts>"), write(10), out("PA 1:11 ack 11 <!ts>"),
	}},
	{clause: "RFC 7323 section 3.2", name: "a SYN has a timestamp that echoes nothing", steps: steps{dial(), out("S 0 <ts * 0>")}},
	{clause: "RFC 7323 section 3.2", name: "the peer does not answer with timestamps", steps: steps{
		dialledOut("mss 1000"), write(10), out("PA 1:11 ack 1 <!ts>"),
	}},
	{clause: "RFC 7323 section 4.3", name: "the echo is that of the segment that the acknowledgement waits for", steps: steps{
		established("mss 1000", "ts 100 0"),
		in("A 1:11 ack 1 <ts 200 last>"), out("A 1 ack 11 <ts * 200>"),
		in("A 21:31 ack 1 <ts 300 last>"), out("A 1 ack 11 <ts * 200>"),
		in("A 11:21 ack 1 <ts 250 last>"), out("A 1 ack 31 <ts * 250>"), read(30),
	}},
	{clause: "RFC 7323 section 4.3", name: "an old segment does not set the echo back", steps: steps{
		established("mss 1000", "ts 100 0"),
		in("A 1:11 ack 1 <ts 200 last>"), out("A 1 ack 11 <ts * 200>"), settled(),
		in("A 1:11 ack 1 <ts 199 last>"), out("A 1 ack 11 <ts * 200>"),
	}},
	{clause: "RFC 7323 section 4.1", name: "timestamps rise at least every second and at most every millisecond", steps: steps{
		established("mss 1000", "ts 100 0"), write(10), out("PA 1:11 ack 1"), in("A 1 ack 11 <ts 101 last>"),
		timestampsRise(2 * time.Second), write(10), out("PA 11:21 ack 1"), timestampsRose(2, 2600),
	}},
}

// outAtLeast expects a data segment of a size.
func outAtLeast(size int64) step {
	return step{fmt.Sprintf("expect a segment of at least %d bytes", size), func(s *run) error {
		g, _, ok, err := s.next(time.Now().Add(s.testTimeout()))
		switch {
		case err != nil:
			return err
		case !ok || g.end.v-g.seq.v < size:
			return fmt.Errorf("got %v", g)
		}
		return nil
	}}
}

// takeSegments takes new data segments in order and no others.
func takeSegments(n int) step {
	return step{fmt.Sprintf("expect %d segments of data", n), func(s *run) error {
		for i := 0; i < n; {
			g, at, ok, err := s.next(time.Now().Add(s.testTimeout()))
			switch {
			case err != nil:
				return err
			case !ok:
				return fmt.Errorf("there are %d", i)
			case g.end.v > g.seq.v && g.end.v == s.conn(g.conn).starts[len(s.conn(g.conn).starts)-1]:
				i++
				s.mark = at
			case !g.pureAck():
				return fmt.Errorf("got %v", g)
			}
		}
		return nil
	}}
}

// beyond expects no byte at or beyond a place in the stream.
func beyond(place int64, d time.Duration) step {
	return silence(d, fmt.Sprintf("nothing beyond %d", place), func(g segment) bool { return g.end.v <= place })
}

func timestampsRise(d time.Duration) step {
	return step{fmt.Sprintf("take the timestamp, wait %v", d), func(s *run) error {
		s.oldTS = s.conn(0).lastTS
		time.Sleep(d)
		return nil
	}}
}

func timestampsRose(from, to uint32) step {
	return step{fmt.Sprintf("it rose by %d to %d", from, to), func(s *run) error {
		if d := s.conn(0).lastTS - s.oldTS; d < from || d > to {
			return fmt.Errorf("by %d", d)
		}
		return nil
	}}
}
