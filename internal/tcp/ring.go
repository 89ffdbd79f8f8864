package tcp

import (
	"math"
	"sync/atomic"
	"time"
)

// A ring is the device's receive ring, as far as frames are lost that find it full.
// What peers may have under way together has to fit it: connections that receive
// much share it by their windows. Those over a longer path than ringPath have their
// frames spread over the round trip, and no share.
//
// It is bounded by what is known of the moment: how many connections received much in
// this interval and in the one before.
type ring struct {
	frames int // 0: none are lost, or nobody knows

	interval    atomic.Int64 // its number
	busy, other atomic.Int32 // connections that received much in it, and in the one before
}

const (
	ringInterval = int64(10 * time.Millisecond)
	ringPath     = int64(10 * time.Millisecond)
	// ringMuch is how much a connection receives in an interval, in bytes, to have a
	// share of the ring. One that receives less needs no more than ringLittle.
	ringMuch, ringLittle = 32 << 10, 128 << 10
)

// shared is what the ring knows of a connection: the interval, RCV.NXT when it began,
// and whether the connection was counted in it, and in the one before.
type shared struct {
	interval        int64
	from            uint32
	counted, before bool
}

// share returns how many frames a connection may have under way, of n that receive
// much. The rest of the ring is for those that receive little, and for segments
// without data.
func (r *ring) share(n int) int { return max(r.frames*3/4/max(n, 1), 2) }

// turn begins the interval in which now is, unless it has begun.
func (r *ring) turn(now int64) int64 {
	interval := now / ringInterval
	if last := r.interval.Load(); interval > last && r.interval.CompareAndSwap(last, interval) {
		busy := r.busy.Swap(0)
		if interval-last > 1 {
			busy = 0
		}
		r.other.Store(busy)
	}
	return interval
}

// ringShareLocked returns how many bytes the connection may have under way. mu is held.
func (e *Endpoint) ringShareLocked() int {
	r := &e.p.ring
	if r.frames == 0 || e.rack.least > ringPath {
		return math.MaxInt
	}
	s := &e.shared
	if interval := r.turn(e.p.now()); s.interval != interval {
		*s = shared{interval: interval, from: e.receiveNext, before: s.counted && interval == s.interval+1}
	}
	if !s.counted && e.receiveNext-s.from >= ringMuch {
		s.counted = true
		r.busy.Add(1)
	}
	n := int(max(r.busy.Load(), r.other.Load()))
	share := r.share(n) * e.mss
	if s.counted || s.before {
		return share
	}
	return min(share, ringLittle)
}
