// Package clock gives a TCP stack the time without asking the system for it.
//
// TCP reads the clock several times per request (gVisor's 13 times), at 40 ns each.
// The poller reads it once per poll instead and everybody else sees that value. It is at
// most one poll old while the poller runs; while the poller sleeps, the clock
// answers with the system's time.
package clock

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Clock is a tcpip.Clock. Refresh and Stop belong to one goroutine, the poller;
// everybody may call the rest.
type Clock struct {
	std tcpip.Clock
	// base is where the time is counted from.
	base time.Time
	// cached is the time in nanoseconds, 0 while the clock is not cached.
	cached atomic.Int64
}

var _ tcpip.Clock = (*Clock)(nil)

// New returns a clock that asks the system until the first Refresh.
func New() *Clock { return &Clock{std: tcpip.NewStdClock(), base: time.Now()} }

// Refresh takes the time and returns it in nanoseconds since some fixed moment.
func (c *Clock) Refresh() int64 {
	t := c.ask()
	c.cached.Store(t)
	return t
}

// Nanos returns the time as Refresh does, cached or not. Anyone may call it.
func (c *Clock) Nanos() int64 {
	if t := c.cached.Load(); t != 0 {
		return t
	}
	return c.ask()
}

// ask is not inlined, so that Nanos can be.
//
//go:noinline
func (c *Clock) ask() int64 { return int64(time.Since(c.base)) }

// Stop makes the clock ask the system again, because nobody will refresh it.
func (c *Clock) Stop() { c.cached.Store(0) }

// Now implements tcpip.Clock. Wall time is asked for rarely and never cached.
func (c *Clock) Now() time.Time { return c.std.Now() }

// NowMonotonic implements tcpip.Clock.
func (c *Clock) NowMonotonic() tcpip.MonotonicTime {
	return monotonic(c.Nanos())
}

// AfterFunc implements tcpip.Clock. Timers look at the clock when they fire: it
// must not be older than they are.
func (c *Clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.std.AfterFunc(d, func() {
		if t := c.cached.Load(); t != 0 {
			// Not Store: the poller may have refreshed or stopped it meanwhile.
			c.cached.CompareAndSwap(t, c.ask())
		}
		f()
	})
}
