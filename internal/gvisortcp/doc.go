// Package gvisortcp is gVisor's TCP as an engine of a shard, with everything that
// exists for it alone: it is selectable, and the reference in tests.
//
//   - conntrack keeps back what its peers cannot have sent, which gVisor's TCP
//     believes.
//   - gro joins the segments of a flow that follow each other in a burst: a packet
//     costs gVisor's TCP much, whatever its size.
//   - guard keeps the limits where a segment comes to a listener or to nobody.
//   - endpoint is what package net calls.
//   - held_unsafe reads how much a connection holds, which gVisor does not tell.
//
// gVisor's TCP has goroutines of its own: what the poller hands over is handled
// there, and readers are woken from there.
package gvisortcp
