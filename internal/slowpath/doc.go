// Package slowpath is what a frame passes that is no plain segment of a flow in the
// engine's table: the hand-over to other shards, gVisor's IP layers, and the engine's
// TCP behind them. gVisor's stack is wrapped here to that end, and path.go tells where
// and why, in the order in which a SYN meets it.
//
// It lies between internal/netif, which it sends through, and internal/shard, which
// makes a Path for each stack. An engine is a TCP to it.
//
// Take is the poller's. gVisor calls the rest, on the poller or on the goroutine of
// whoever sends.
package slowpath
