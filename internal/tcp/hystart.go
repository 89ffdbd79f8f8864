package tcp

import (
	"math"
	"time"
)

// The methods of this file need Endpoint.mu held.

// hystart ends the first slow start before it fills a queue to the brim (HyStart++, RFC
// 9406): when round trips become longer, the window grows by a quarter as much for a
// while (conservative slow start), and then as congestion avoidance has it.
//
// Times are those of the scoreboard, so it needs SACK. Of what one acknowledgement
// adds to the window there is no limit (L of section 4.2): acknowledgements come
// joined to whoever polls.
type hystart struct {
	end           uint32 // of the round
	samples       uint8
	rounds        uint8 // of conservative slow start
	last, current int64 // the shortest round trip of the round before, and of this one
	baseline      int64 // that of the round before conservative slow start, 0 outside
}

const (
	hystartSamples = 8
	hystartRounds  = 5
	cssDivisor     = 4

	leastRise, mostRise = int64(4 * time.Millisecond), int64(16 * time.Millisecond)
)

// sample takes the round trip of what has arrived.
func (h *hystart) sample(rtt int64) {
	h.samples++
	if h.current == 0 || rtt < h.current {
		h.current = rtt
	}
}

// slowStart returns by how much the window grows in slow start for acknowledged bytes.
func (e *Endpoint) slowStart(bytes int) int {
	h := &e.hystart
	if e.threshold != math.MaxInt32 || !e.sackOK {
		return bytes
	}
	if h.samples >= hystartSamples && h.last > 0 {
		switch {
		case h.baseline == 0 && h.current >= h.last+min(max(h.last/8, leastRise), mostRise):
			h.baseline, h.rounds = h.current, 0
		case h.baseline != 0 && h.current < h.baseline:
			h.baseline = 0 // it was jitter
		}
	}
	if !before(e.unacknowledged, h.end) {
		h.last, h.current, h.samples, h.end = h.current, 0, 0, e.sendNext
		if h.baseline != 0 {
			if h.rounds++; h.rounds >= hystartRounds {
				e.threshold = e.window
				return 0
			}
		}
	}
	if h.baseline != 0 {
		return bytes / cssDivisor
	}
	return bytes
}
