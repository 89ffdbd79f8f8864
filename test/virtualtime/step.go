package virtualtime

import "time"

// Step sets the wall clock of the bubble forward, or back. Durations and timers
// do not notice. It must be called in a bubble of a test that Main runs, as must
// Suspend and Timers.
func Step(d time.Duration) { step(int64(d), 0) }

// Suspend lets d pass while nobody runs, as when the machine sleeps or is too
// busy: all that was due meanwhile happens late and at once.
func Suspend(d time.Duration) { step(0, int64(d)) }

// Timers returns how many timers of the bubble are running, those of sleeping
// goroutines included.
func Timers() int { return timers() }
