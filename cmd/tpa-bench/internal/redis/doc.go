// Package redis is a small Redis server: strings, counters and lists in
// memory, spread over locks so that the store is never what a benchmark
// measures; on one processor under one lock, taken once for all commands that have
// arrived. It does what redis-cli, redis-benchmark and client libraries need
// and answers everything else with Redis' own error.
//
// A connection's goroutine parses what has arrived, runs it, and sends all the
// replies when the input is used up. GET, SET and PING allocate nothing once
// the key exists and buffers have grown.
//
// There is no authentication, no persistence and no limit on the data set: it
// belongs on a test network.
package redis
