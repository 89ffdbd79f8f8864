package accel

import (
	"fmt"
	"time"
)

// Polling is how a poller behaves when its queue is empty. It first lets other
// goroutines run between polls, then sleeps for times that double up to MaxSleep,
// or until the device wakes it. Any frame starts it over.
type Polling struct {
	// Spin is how long an idle poller keeps polling before it sleeps, at most: if its
	// device can wake it, it spins less, down to 10 µs, while frames take longer to come
	// or other threads want its processor. Longer means less latency after a pause and
	// more processor time. 1 µs to 1 s; negative: never sleep. Default: 1 ms; 10 µs in a
	// control group with a quota of less than two processors.
	Spin time.Duration
	// MaxSleep is the longest sleep between two polls of a device that cannot
	// wake its poller. It bounds the latency of the first frame after a pause.
	// 10 µs to 100 ms. Default: 1 ms, and 4 ms when no frame has come for a second.
	MaxSleep time.Duration
	// LongHandler is how long a handler may run in the poller (Serve) before it is
	// counted and logged: meanwhile no other connection of the shard goes on. 10 µs
	// to 1 min. Default: 10 ms.
	LongHandler time.Duration
}

const (
	minSpin, maxSpin   = time.Microsecond, time.Second
	minSleep, maxSleep = 10 * time.Microsecond, 100 * time.Millisecond
	minLong, maxLong   = 10 * time.Microsecond, time.Minute
)

// check refuses values out of range.
func (p Polling) check() error {
	if p.Spin > 0 && (p.Spin < minSpin || p.Spin > maxSpin) {
		return fmt.Errorf("Polling.Spin is %v: want %v to %v, 0 for the default, or less to never sleep", p.Spin, minSpin, maxSpin)
	}
	if p.MaxSleep != 0 && (p.MaxSleep < minSleep || p.MaxSleep > maxSleep) {
		return fmt.Errorf("Polling.MaxSleep is %v: want %v to %v", p.MaxSleep, minSleep, maxSleep)
	}
	if p.LongHandler != 0 && (p.LongHandler < minLong || p.LongHandler > maxLong) {
		return fmt.Errorf("Polling.LongHandler is %v: want %v to %v", p.LongHandler, minLong, maxLong)
	}
	return nil
}
