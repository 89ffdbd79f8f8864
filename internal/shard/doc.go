// Package shard runs one device queue: one stack, one TCP with its flow table, one
// poller goroutine. Shards share no state on the data path.
//
// # The path of a packet
//
// The poller takes a burst from the queue and gives it to the Engine, the shard's
// TCP. Segments of flows in its table go straight to their connection: the fast
// path. All other frames take the slow path (internal/slowpath), through the stack's
// IP layer to TCP, or to the shard that they belong to. Then the goroutines that were
// woken run, acknowledgements that waited for them leave, and one flush sends what
// was staged. When nothing came, the poller yields, and later sleeps, as
// internal/processor says.
//
// # Where things are
//
// shard.go has the shard's life: it puts together a poller (poller.go), which runs
// handlers besides (handlers.go), an engine (engine.go has what is asked of one), the
// choice of local ports (dial.go), the connections of programs (conns.go), and what the
// limits see (host.go). Those files do not know the Shard. These do, and add methods to
// it: routes.go has addresses and routes, join.go makes shards one runtime's, sharing.go
// has what a device needs that the kernel has, too, stats.go counts. Limits are in
// internal/limits, hand-over is in internal/handover.
//
// # Threads
//
// Package accel makes a shard with New and starts its poller with Start. The rest
// may be called by any goroutine; Established and Closed are called by package net
// as connections come and go.
package shard
