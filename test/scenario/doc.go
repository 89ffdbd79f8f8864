// Package scenario checks TCP clause by clause: in short scenarios a peer,
// played by the test, sends segments and expects others back, while a program uses
// the socket on our side. It holds tests only.
//
//	{clause: "RFC 9293 section 3.10.7.4", name: "data out of order is answered with a duplicate acknowledgement", steps: steps{
//		established(),
//		in("A 11:21 ack 1"),
//		out("A 1 ack 1"),
//		in("A 1:11 ack 1"),
//		out("A 1 ack 21"),
//		read(20),
//	}},
//
// Each scenario runs over IPv4 and over IPv6, against a whole accel.Runtime in
// virtual time and against the kernel of this machine, over a TUN device in a
// network namespace, in real time. What a clause demands is what both must do.
//
// # Segments
//
//	S 0 win 65535 <mss 1460,ws 7,sackok,ts 100 0>
//	PA 1:11 ack 1
//
// Flags (S, A, F, R, P, U, E, C), the sequence number and, for data, the number
// behind its end, then what else there is to say: "ack", "win" (as in the header,
// unscaled), "urg" and options. All numbers are relative to the initial sequence
// number of their direction. Payload is a pattern that depends on the place in
// the stream, so that every byte that arrives is checked.
//
// "#3" is where the third data segment of ours began when it was sent first.
//
// In what is expected, "*" stands for any number, what is not said may be
// anything ("*:*" is any payload or none), "!ws" is an option that must be missing, and PSH does not matter.
// Pure acknowledgements that are not asked for may come in between: stacks differ
// in how many they send.
//
// In what is sent, "ts 100 last" echoes the newest timestamp received, "evil"
// sends other bytes than the pattern, "badsum" a wrong checksum, "doff N" a wrong
// header length in words, "hex 0102" raw options, and "@2" in front of a segment
// means the second connection: the same listener and another port of the peer.
//
// # Where we fail
//
// A scenario that passes on Linux and fails with gVisor's TCP is kept, with the
// reason in known_test.go. The test fails when such a scenario begins to pass.
package scenario
