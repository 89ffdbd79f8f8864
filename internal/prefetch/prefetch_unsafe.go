// Package prefetch tells the processor what will be needed soon.
//
// With thousands of connections, whatever a segment needs has left the caches since
// the last one: each first touch then costs 100 ns and more, one after the other. What
// is asked for ahead comes at the same time.
//
// It is sound whatever is asked for: the instruction behind it changes nothing that a
// program can see, and does not fault where there is no memory.
package prefetch

import "unsafe"

// Line is the size of a cache line, in bytes. Where it is larger, lines are asked for
// twice.
const Line = 64

// Of asks for what p points to.
func Of[T any](p *T) { Bytes(uintptr(unsafe.Pointer(p)), int(unsafe.Sizeof(*p))) }

// Start asks for the first bytes of what p points to.
func Start[T any](p *T, bytes int) { Bytes(uintptr(unsafe.Pointer(p)), bytes) }

// Bytes asks for n bytes from an address on.
func Bytes(address uintptr, n int) { lines(address, (int(address%Line)+n+Line-1)/Line) }
