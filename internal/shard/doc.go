// Package shard runs one device queue: one gVisor stack, one flow table, one
// poller goroutine. Shards share no state on the data path.
package shard
