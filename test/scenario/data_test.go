package scenario

import (
	"fmt"
	"io"
	"time"
)

var data = []scenario{
	{clause: "RFC 9293 section 3.10.7.4", name: "data in order", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), in("A 11:21 ack 1"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data out of order is kept", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), nothingToRead(), in("A 1:11 ack 1"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data in reverse order", steps: steps{
		established(), in("A 41:51 ack 1"), out("A 1 ack 1"), in("A 31:41 ack 1"), out("A 1 ack 1"), in("A 21:31 ack 1"), out("A 1 ack 1"),
		in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 1:11 ack 1"), out("A 1 ack 51"), read(50),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data that overlaps what was received counts from its new part", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), in("A 6:21 ack 1"), out("A 1 ack 21"), read(20), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data that covers what was received out of order", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 1:31 ack 1"), out("A 1 ack 31"), read(30), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data that overlaps two gaps", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 31:41 ack 1"), out("A 1 ack 1"), in("A 1:36 ack 1"), out("A 1 ack 41"), read(40), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data again is acknowledged again and not delivered", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), settled(), in("A 1:11 ack 1"), out("A 1 ack 11"), read(10), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "other bytes in the place of received ones are not delivered", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), settled(), in("A 1:11 ack 1 evil"), out("A 1 ack 11"), in("A 11:21 ack 1"), out("A 1 ack 21"), read(20),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data out of order again", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 1:11 ack 1"), out("A 1 ack 21"), read(20), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.4", name: "data above the window is answered and dropped", steps: steps{
		established(), settled(), in("A 100001:100011 ack 1"), out("A 1 ack 1"), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.4", name: "data below the window is answered and dropped", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), read(10), settled(), in("A -100:-90 ack 1"), out("A 1 ack 11"), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.4", name: "an empty segment below the window is answered", steps: steps{
		established(), settled(), in("A 0 ack 1"), out("A 1 ack 1"),
	}},
	{clause: "RFC 9293 section 3.4", name: "an empty segment above the window is answered", steps: steps{
		established(), settled(), in("A 100001 ack 1"), out("A 1 ack 1"),
	}},
	{clause: "RFC 9293 section 3.4", name: "an empty segment in the window is not answered", steps: steps{
		established(), settled(), in("A 1 ack 1"), quiet(100 * time.Millisecond),
	}},
	{clause: "RFC 9293 section 3.4", name: "the sequence numbers of both sides wrap around", steps: steps{
		established(), in("A 1:1001 ack 1"), in("A 1001:2001 ack 1"), out("A 1 ack 2001"), in("A 3001:4001 ack 1"), out("A 1 ack 2001"),
		in("A 2001:3001 ack 1"), out("A 1 ack 4001"), read(4000),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data without PSH is delivered", steps: steps{
		established(), in("A 1:11 ack 1"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a segment without acknowledgement is dropped", steps: steps{
		established(), settled(), in("P 1:11"), quiet(100 * time.Millisecond), nothingToRead(), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "a segment without any flag is dropped", steps: steps{
		established(), settled(), in("- 1:11"), quiet(100 * time.Millisecond), nothingToRead(),
	}},
	{clause: "RFC 9293 section 3.8.5", name: "urgent data is acknowledged", steps: steps{
		established(), in("PAU 1:11 ack 1 urg 10"), out("A 1 ack 11"), in("PA 11:21 ack 1"), out("A 1 ack 21"),
	}},
	{clause: "RFC 9293 section 3.8.5", name: "urgent data is part of the stream (RFC 6093 section 6)", ours: "Linux takes it out unless SO_OOBINLINE is set", steps: steps{
		established(), in("PAU 1:11 ack 1 urg 10"), out("A 1 ack 11"), read(10), in("AU 11:21 ack 1 urg 65535"), out("A 1 ack 21"), read(10),
		in("AU 26:31 ack 1 urg 3"), in("A 21:26 ack 1"), out("A 1 ack 31"), read(10),
	}},
	{clause: "RFC 9293 section 3.8.5", name: "nothing urgent is ever sent", steps: steps{
		established(), write(10), out("PA 1:11 ack 1 urg 0"),
	}},
	{clause: "RFC 9293 section 3.8.5", name: "an urgent pointer without the flag means nothing", steps: steps{
		established(), in("PA 1:11 ack 1 urg 5"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN out of order", steps: steps{
		established(), in("FA 11:21 ack 1"), out("A 1 ack 1"), nothingToRead(), in("A 1:11 ack 1"), out("A 1 ack 22"), read(20), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data behind a FIN, both out of order, is not delivered", steps: steps{
		established(), in("A 21:31 ack 1"), out("A 1 ack 1"), in("FA 11:21 ack 1"), out("A 1 ack 1"), in("A 1:11 ack 1"), out("A 1 ack 22"), read(20), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data behind a FIN, both out of order, the FIN fills the gap", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), in("FA 1:11 ack 1"), out("A 1 ack 12"), read(10), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "data behind a FIN is not delivered", steps: steps{
		established(), in("FA 1:11 ack 1"), out("A 1 ack 12"), read(10), readFails(io.EOF), in("A 12:22 ack 1"), onlyAcks(50 * time.Millisecond), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "the FIN again is acknowledged again", steps: steps{
		established(), in("FA 1 ack 1"), out("A 1 ack 2"), settled(), in("FA 1 ack 1"), out("A 1 ack 2"), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "FIN, data and the rest in one overlapping segment", steps: steps{
		established(), in("A 1:11 ack 1"), out("A 1 ack 11"), in("FA 6:16 ack 1"), out("A 1 ack 17"), read(15), readFails(io.EOF),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "many segments at once", steps: steps{
		established(), burst(20), read(20000),
	}},
	{clause: "RFC 9293 section 3.10.7.4", name: "many segments at once, each second one late", steps: steps{
		established(), burstWithGaps(20), read(20000),
	}},
	{clause: "RFC 1122 section 4.2.3.2", name: "data is acknowledged within half a second", steps: steps{
		established(), in("PA 1:11 ack 1"), between(0, 500*time.Millisecond, "A 1 ack 11"),
	}},
	{clause: "RFC 1122 section 4.2.3.2", name: "at least every second full segment is acknowledged", steps: steps{
		established(), in("A 1:1001 ack 1", "A 1001:2001 ack 1"), between(0, 500*time.Millisecond, "A 1 ack 2001"),
		in("A 2001:3001 ack 1", "A 3001:4001 ack 1"), between(0, 500*time.Millisecond, "A 1 ack 4001"),
	}},
	{clause: "RFC 5681 section 4.2", name: "data out of order is acknowledged at once", steps: steps{
		established(), in("A 11:21 ack 1"), between(0, 20*time.Millisecond, "A 1 ack 1"),
		in("A 21:31 ack 1"), between(0, 20*time.Millisecond, "A 1 ack 1"),
		in("A 31:41 ack 1"), between(0, 20*time.Millisecond, "A 1 ack 1"),
	}},
	{clause: "RFC 5681 section 4.2", name: "data that fills a gap is acknowledged at once", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 1:6 ack 1"), between(0, 20*time.Millisecond, "A 1 ack 6"),
		in("A 6:11 ack 1"), between(0, 20*time.Millisecond, "A 1 ack 21"),
	}},

	{clause: "RFC 2018 section 3", name: "a gap is reported", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21>"),
	}},
	{clause: "RFC 2018 section 4", name: "the newest block comes first", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21>"),
		in("A 31:41 ack 1"), out("A 1 ack 1 <sack 31-41 11-21>"),
		in("A 51:61 ack 1"), out("A 1 ack 1 <sack 51-61 31-41 11-21>"),
		in("A 71:81 ack 1"), out("A 1 ack 1 <sack 71-81 51-61 31-41>"),
	}},
	{clause: "RFC 2018 section 4", name: "the block that grew comes first", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21>"),
		in("A 31:41 ack 1"), out("A 1 ack 1 <sack 31-41 11-21>"),
		in("A 21:26 ack 1"), out("A 1 ack 1 <sack 11-26 31-41>"),
	}},
	{clause: "RFC 2018 section 4", name: "blocks that meet are joined", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 31:41 ack 1"), out("A 1 ack 1"),
		in("A 21:31 ack 1"), out("A 1 ack 1 <sack 11-41>"),
	}},
	{clause: "RFC 2018 section 4", name: "blocks below the acknowledgement are dropped", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1"), in("A 31:41 ack 1"), out("A 1 ack 1 <sack 31-41 11-21>"),
		in("A 1:11 ack 1"), out("A 1 ack 21 <sack 31-41>"), in("A 21:31 ack 1"), out("A 1 ack 41 <!sack>"), read(40),
	}},
	{clause: "RFC 2018 section 4", name: "there is room for three blocks beside a timestamp", steps: steps{
		established("mss 1000", "sackok", "ts 100 0"),
		in("A 11:21 ack 1 <ts 102 last>"), out("A 1 ack 1"), in("A 31:41 ack 1 <ts 102 last>"), out("A 1 ack 1"), in("A 51:61 ack 1 <ts 102 last>"), out("A 1 ack 1"),
		in("A 71:81 ack 1 <ts 102 last>"), out("A 1 ack 1 <sack 71-81 51-61 31-41,ts * *>"),
	}},
	{clause: "RFC 2018 section 3", name: "no gap is reported without permission", steps: steps{
		established(), in("A 11:21 ack 1"), out("A 1 ack 1 <!sack>"),
	}},
	{clause: "RFC 2018 section 3", name: "gaps are reported after our side closed for writing", steps: steps{
		established("mss 1000", "sackok"), closeWrite(), out("FA 1 ack 1"), in("A 1 ack 2"), in("A 11:21 ack 2"), out("A 2 ack 1 <sack 11-21>"),
	}},
	{clause: "RFC 2018 section 4", name: "data again is reported as duplicate (RFC 2883 section 4)", steps: steps{
		established("mss 1000", "sackok"), in("A 1:11 ack 1"), out("A 1 ack 11"), settled(), in("A 1:11 ack 1"), out("A 1 ack 11 <sack 1-11>"),
	}},
	{clause: "RFC 2883 section 4", name: "what is there out of order is reported as duplicate, with its block behind", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21>"), settled(), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21 11-21>"),
	}},
	{clause: "RFC 2883 section 4", name: "the end of a segment that is there out of order is reported as duplicate", steps: steps{
		established("mss 1000", "sackok"), in("A 21:31 ack 1"), out("A 1 ack 1 <sack 21-31>"), settled(),
		in("A 11:26 ack 1"), out("A 1 ack 1 <sack 21-26 11-31>"), in("A 1:11 ack 1"), out("A 1 ack 31"), read(30),
	}},
	{clause: "RFC 2883 section 4", name: "the beginning of a segment that is there out of order is reported as duplicate", steps: steps{
		established("mss 1000", "sackok"), in("A 11:21 ack 1"), out("A 1 ack 1 <sack 11-21>"), settled(),
		in("A 16:31 ack 1"), out("A 1 ack 1 <sack 16-21 11-31>"), in("A 1:11 ack 1"), out("A 1 ack 31"), read(30),
	}},
	{clause: "RFC 2883 section 4", name: "the middle of a segment that is there out of order is reported as duplicate", steps: steps{
		established("mss 1000", "sackok"), in("A 21:31 ack 1"), out("A 1 ack 1 <sack 21-31>"), settled(),
		in("A 11:41 ack 1"), out("A 1 ack 1 <sack 21-31 11-41>"), in("A 1:11 ack 1"), out("A 1 ack 41"), read(40),
	}},
	{clause: "RFC 2883 section 4", name: "the part of a segment that came in order is reported as duplicate", steps: steps{
		established("mss 1000", "sackok"), in("A 1:11 ack 1"), out("A 1 ack 11"), settled(), in("A 6:16 ack 1"), out("A 1 ack 16 <sack 6-11>"), read(15),
	}},
}

// burst sends n segments of 1000 bytes at once and expects all acknowledged.
func burst(n int64) step {
	return step{fmt.Sprintf("< %d segments at once", n), func(s *run) error {
		for i := range n {
			if err := s.send(mustParse(fmt.Sprintf("A %d:%d ack 1", 1+i*1000, 1001+i*1000))); err != nil {
				return err
			}
		}
		_, err := s.expect(mustParse(fmt.Sprintf("A 1 ack %d", 1+n*1000)), s.testTimeout())
		return err
	}}
}

// burstWithGaps sends the even segments after the odd ones.
func burstWithGaps(n int64) step {
	return step{fmt.Sprintf("< %d segments, the even ones late", n), func(s *run) error {
		for first := range int64(2) {
			for i := 1 - first; i < n; i += 2 {
				if err := s.send(mustParse(fmt.Sprintf("A %d:%d ack 1", 1+i*1000, 1001+i*1000))); err != nil {
					return err
				}
			}
		}
		_, err := s.expect(mustParse(fmt.Sprintf("A 1 ack %d", 1+n*1000)), s.testTimeout())
		return err
	}}
}
