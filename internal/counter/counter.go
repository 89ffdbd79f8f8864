// Package counter has counters for hot paths, which one goroutine writes at a time
// and anybody reads.
//
// A store of sync/atomic is a locked instruction (XCHG on amd64), 5 ns or more each.
// A Counter is written with an ordinary store where the processor writes a word of
// memory in one piece: what is read is then a value that was written, as Go's memory
// model has it for words ("Implementation Restrictions for Programs Containing Data
// Races"), at most some nanoseconds late. The race detector is shown the atomic
// store.
package counter
