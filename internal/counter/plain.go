//go:build (amd64 || arm64) && !race

package counter

import "sync/atomic"

// A Counter counts. The zero value is ready to use.
type Counter struct{ n uint64 }

// Add adds n. Of those who call it, one does so at a time, under a lock for example.
func (c *Counter) Add(n uint64) { c.n += n }

// Load returns the count. Anyone may call it.
func (c *Counter) Load() uint64 { return atomic.LoadUint64(&c.n) }

// A Flag is on or off, for who may miss a change by some nanoseconds. The zero value
// is off.
type Flag struct{ on uint32 }

// Set sets the flag. Of those who call it, one does so at a time.
func (f *Flag) Set(on bool) {
	if on {
		f.on = 1
	} else {
		f.on = 0
	}
}

// Load tells whether the flag is on. Anyone may call it.
func (f *Flag) Load() bool { return atomic.LoadUint32(&f.on) != 0 }
