// Package sim runs whole programs over two runtimes in virtual time, under a
// seed: accel, connections, deadlines, pollers, shards and TCP as they are, over
// software network cards with a bad network between them. It holds tests only.
//
// A seed draws a set-up (queues, MTU, offloads, buffers, impairments, fault events,
// middleboxes) and a program of conversations, runs it, and checks what must hold
// whatever was drawn:
//
//   - what one side reads is what the other wrote, and a stream that was cut off
//     never ends as if it were whole;
//   - everything ends within a bounded time, with the error that package net
//     would give, whatever routers, firewalls, NAT and hosts that start again do;
//   - every frame on the wire has right checksums and fits the MTU, a sequence
//     number never stands for two different bytes, and each side that closes sends
//     one FIN, or a RST;
//   - when all is closed, no flow, endpoint, packet buffer, goroutine or timer is
//     left;
//   - the same seed gives the same frames at the same times, on any machine.
//
// The matrix runs one small program over every combination of what a device, a
// stack and a network can be set to. Runs are shared out to as many processes as
// there are processors.
//
// # Running it
//
//	go test ./test/sim                    1,000 seeds, 166 rows of the matrix
//	make sim SEEDS=1000000 FIRST=5000     more seeds, and from where on
//	make matrix                           all rows
//	SEED=1234 go test ./test/sim -run '^TestPrograms$' -v
//
// A failure prints the last form. It also writes the frames of that run to the
// file named by PCAP, if set.
package sim
