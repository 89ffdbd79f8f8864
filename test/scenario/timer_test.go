package scenario

import (
	"syscall"
	"time"
)

var timers = []scenario{
	{clause: "RFC 1122 section 4.2.3.6", name: "an idle connection is probed", steps: steps{
		established(), keepAlive(time.Second, time.Second, 3), between(900*ms, 1200*ms, "A 0 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "an answered probe starts the time anew", slow: true, steps: steps{
		established(), keepAlive(time.Second, time.Second, 3), between(900*ms, 1200*ms, "A 0 ack 1"), in("A 1 ack 1"), between(900*ms, 1200*ms, "A 0 ack 1"), in("A 1 ack 1"), between(900*ms, 1200*ms, "A 0 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "probes without an answer end the connection", steps: steps{
		established(), keepAlive(time.Second, time.Second, 3), out0("A 0 ack 1"), out0("A 0 ack 1"), out0("A 0 ack 1"), wait(1200 * ms), readFails(syscall.ETIMEDOUT),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "data puts the probe off", slow: true, steps: steps{
		established(), keepAlive(time.Second, time.Second, 3), wait(700 * ms), in("PA 1:11 ack 1"), out("A 1 ack 11"), quiet(700 * ms), out0("A 0 ack 11"),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "nothing is probed unless the program asks for it", slow: true, steps: steps{
		established(), quiet(3 * time.Hour), in("PA 1:11 ack 1"), out("A 1 ack 11"),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "the peer's probe is answered", steps: steps{
		established(), settled(), in("A 0 ack 1"), out("A 1 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.6", name: "the peer's probe with a byte of garbage is answered and not taken", steps: steps{
		established(), settled(), in("A 0:1 ack 1 evil"), out("A 1 ack 1"), nothingToRead(), in("PA 1:11 ack 1"), out("A 1 ack 11"), read(10),
	}},
	{clause: "RFC 9293 section 3.10.8", name: "the user timeout ends a connection whose data is not acknowledged (RFC 5482)", steps: steps{
		established(), userTimeout(time.Second), wait(1100 * ms), write(100), takeSegments(1), wait(500 * ms), nothingToRead(), wait(700 * ms), readFails(syscall.ETIMEDOUT),
	}},
	{clause: "RFC 9293 section 3.10.8", name: "the user timeout ends a connection whose peer keeps its window shut", steps: steps{
		peerWindow(0), established(), userTimeout(time.Second), write(100), wait(300 * ms), in("A 1 ack 1 win 0"), wait(400 * ms), nothingToRead(), wait(700 * ms), readFails(syscall.ETIMEDOUT),
	}},
	{clause: "RFC 9293 section 3.10.8", name: "the user timeout begins anew with each acknowledgement of something", steps: steps{
		established(), userTimeout(time.Second), write(2000), takeSegments(2), wait(700 * ms), in("A 1 ack 1001"), wait(600 * ms), nothingToRead(), in("A 1 ack 2001"), wait(1500 * ms), nothingToRead(),
	}},
	{clause: "RFC 1122 section 4.2.3.4", name: "Nagle: small writes wait for the acknowledgement of the one before", steps: steps{
		established(), noDelay(false), write(10), out("PA 1:11 ack 1"), write(10), write(10), quiet(100 * ms), in("A 1 ack 11"), out("PA 11:31 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.4", name: "Nagle: a full segment does not wait", steps: steps{
		established(), noDelay(false), write(10), out("PA 1:11 ack 1"), write(1000), out("A 11:1011 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.4", name: "Nagle: a FIN does not make data wait", steps: steps{
		established(), noDelay(false), write(10), out("PA 1:11 ack 1"), write(10), closeWrite(), out("FA 11:21 ack 1"),
	}},
	{clause: "RFC 1122 section 4.2.3.4", name: "without Nagle small writes do not wait", steps: steps{
		established(), noDelay(true), write(10), out("PA 1:11 ack 1"), write(10), out("PA 11:21 ack 1"), write(10), out("PA 21:31 ack 1"),
	}},
}

// out0 is between for keep-alive probes of the shortest kind, a second apart.
func out0(text string) step { return between(0, 1300*ms, text) }
