// Package shard runs one device queue: one stack, one TCP with its flow table, one
// poller goroutine. Shards share no state on the data path.
//
// # The way of a packet
//
// The poller takes a burst from the queue and gives it to the Engine, the shard's
// TCP. Segments of flows in its table go straight to their connection: the fast
// path. All other frames take the slow path (slowpath.go), through the stack's IP
// layer to TCP, or to the shard that they belong to. Then the goroutines that were
// woken run, acknowledgements that waited for them leave, and one flush sends what
// was staged. When nothing came, the poller yields, and later sleeps.
//
// # Where things are
//
// engine.go has what a shard asks of a TCP, poller.go the poller, shard.go the
// shard's life, dial.go the choice of local ports, join.go what makes shards one
// runtime's, sharing.go what a device needs that the kernel has, too. Limits are in
// internal/limits, which sees a shard as a host (host.go), hand-over is in
// internal/handover.
//
// # Threads
//
// Package accel makes a shard with New and starts its poller with Start. The rest
// may be called by any goroutine; Established and Closed are called by package net
// as connections come and go.
package shard
