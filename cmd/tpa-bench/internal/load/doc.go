// Package load generates requests and measures how they are answered.
//
// Each connection has one goroutine with blocking reads and writes (two, where
// reading and writing must overlap) and its own counters; it hands latencies by
// the dozen to a histogram that it shares with others. In the steady state a
// request allocates nothing.
//
// A closed loop sends the next requests when the last are answered. An open loop
// (Config.Rate) sends by a timetable, whatever the server does, and counts
// latency from the time a request was due: a server that stalls shows every
// request that its stall delayed, sent or not.
//
// A run connects, warms up, measures for a while, and then waits shortly for
// what is still under way. Requests per second are the replies that came while
// it measured; latencies are those of the requests that were due while it
// measured, with the age of those never answered.
package load
