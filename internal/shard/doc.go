// Package shard runs one device queue: one gVisor stack, one flow table, one
// poller goroutine. Shards share no state on the data path.
//
// # The way of a packet
//
// The poller takes a burst from the queue. Segments of flows in the table go
// straight to their connection; all other frames go through package link to
// gVisor's IP layer, and from there to TCP. A segment that belongs to another
// shard is handed over to it. Then the goroutines that were woken run, held
// acknowledgements leave, and one flush sends what was staged. When nothing came,
// the poller yields, and later sleeps.
//
// # Threads
//
// Package accel makes a shard with New and starts its poller with Start. The rest
// may be called by any goroutine; Established and Closed are called by package net
// as connections come and go.
package shard
