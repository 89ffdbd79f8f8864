//go:build !(amd64 || arm64) || race

package counter

import "sync/atomic"

// A Counter counts. The zero value is ready to use.
type Counter struct{ n atomic.Uint64 }

// Add adds n. Of those who call it, one does so at a time, under a lock for example.
func (c *Counter) Add(n uint64) { c.n.Store(c.n.Load() + n) }

// Load returns the count. Anyone may call it.
func (c *Counter) Load() uint64 { return c.n.Load() }

// A Flag is on or off, for who may miss a change by some nanoseconds. The zero value
// is off.
type Flag struct{ on atomic.Bool }

// Set sets the flag. Of those who call it, one does so at a time.
func (f *Flag) Set(on bool) { f.on.Store(on) }

// Load tells whether the flag is on. Anyone may call it.
func (f *Flag) Load() bool { return f.on.Load() }
