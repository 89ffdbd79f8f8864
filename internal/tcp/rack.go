package tcp

import "time"

// The methods of this file need Endpoint.mu held.

// rack is what loss is found by in time (RACK, RFC 8985 section 6): of all that
// arrived, when what left last did. What left before that and has not arrived, a
// round trip and the reordering window later, is lost.
type rack struct {
	at  int64  // RACK.xmit_ts
	end uint32 // RACK.end_seq
	rtt int64  // RACK.rtt

	// least is the shortest round trip of the last minutes, taken at leastAt.
	least, leastAt int64

	furthest  uint32 // RACK.fack
	reordered bool
	// reorderingMultiplier is the reordering window in quarters of least
	// (RACK.reo_wnd_mult). It grows once per
	// round trip, which ends at roundEnd, while the peer reports duplicates, until
	// persist recoveries without one.
	reorderingMultiplier, persist uint8
	inRound                       bool
	roundEnd                      uint32
}

const (
	// leastMemory is how long the shortest round trip counts.
	leastMemory = int64(5 * time.Minute)
	// leastReordering is the least reordering window, for round trips so short that
	// a poll is longer.
	leastReordering = int64(250 * time.Microsecond)
	// reorderingPersists is RFC 8985's RACK.reo_wnd_persist.
	reorderingPersists = 16
)

func (r *rack) sample(rtt, now int64) {
	if rtt <= r.least || r.least == 0 || now-r.leastAt > leastMemory {
		r.least, r.leastAt = rtt, now
	}
}

// ackFlights takes what s acknowledges out of the scoreboard. It is called before
// SND.UNA moves.
func (e *Endpoint) ackFlights(s *segment, now int64) {
	f, first := &e.flights, e.unacknowledged
	for f.head < len(f.list) {
		if first == s.ack {
			return // nothing of what left next has arrived
		}
		x := &f.list[f.head]
		end := x.end
		part := after(end, s.ack)
		if part {
			end = s.ack
		}
		if x.state != 0 {
			f.count(x.state, -(end - first))
		}
		if x.state&sacked == 0 {
			e.delivered(x, end, s, now)
		}
		if part {
			return
		}
		first = end
		f.head++
	}
	f.list, f.head = f.list[:0], 0
}

// delivered notes that a flight has arrived, up to end (RFC 8985 section 6.2,
// steps 2 and 3).
func (e *Endpoint) delivered(x *flight, end uint32, s *segment, now int64) {
	r := &e.rack
	rtt := now - x.at
	if !before(end, r.furthest) {
		r.furthest = end
	} else if x.state&resent == 0 {
		r.reordered = true
	}
	if x.state&resent != 0 && (rtt < r.least || e.tsOK && s.timestamp && before(s.tsEcr, timestampAt(x.at, e.tsOffset))) {
		return // what was sent first has arrived
	}
	if x.state&resent == 0 {
		e.hystart.sample(rtt)
	}
	if x.at > r.at || x.at == r.at && after(end, r.end) {
		r.at, r.end, r.rtt = x.at, end, rtt
	}
}

// reported handles what an acknowledgement says of what arrived and what did not.
// bare: it is one without data, of nothing new.
func (e *Endpoint) reported(s *segment, now int64, bare bool) {
	if !open(e.current()) {
		return
	}
	again := e.onSACK(s, now)
	if e.tail.open {
		e.tailAnswered(s, again, bare)
	}
	if e.flights.sacked > 0 || e.inRecovery {
		e.findLost(now)
	}
}

// onSACK takes over what the peer reports. It returns what that has received
// onDSACK (RFC 2883 section 4), if anything.
func (e *Endpoint) onSACK(s *segment, now int64) (again span) {
	f := &e.flights
	for i, b := range s.sack {
		x := span{uint32(b.Start), uint32(b.End)}
		if !before(x.first, x.end) {
			continue
		}
		if i == 0 && (!after(x.end, s.ack) || len(s.sack) > 1 && !before(x.first, uint32(s.sack[1].Start)) && !after(x.end, uint32(s.sack[1].End))) {
			again = x
			e.onDSACK(x)
			continue
		}
		if !after(x.first, e.unacknowledged) || after(x.end, e.sendMax) || f.head == len(f.list) {
			continue // nonsense, or overtaken
		}
		if last := f.list[len(f.list)-1].end; after(x.end, last) {
			x.end = last
		}
		news := false
		for j, at := f.find(x.first), x.first; before(at, x.end); j++ {
			y := &f.list[j]
			end := y.end
			if after(end, x.end) {
				end = x.end
			}
			if y.state&sacked == 0 {
				news = true
				e.delivered(y, end, s, now)
			}
			at = end
		}
		if news && !f.crowded() {
			f.set(e.unacknowledged, x, sacked, 0)
		}
	}
	return again
}

// onDSACK handles the report of a duplicate: perhaps it was sent again too soon (RFC
// 8985 section 6.2, step 4).
func (e *Endpoint) onDSACK(x span) {
	if r := &e.rack; !r.inRound || !before(e.unacknowledged, r.roundEnd) {
		r.inRound, r.roundEnd = true, e.sendNext
		r.reorderingMultiplier, r.persist = min(r.reorderingMultiplier+1, 64), reorderingPersists
	}
	e.undoRecovery(x)
}

// recovered is called when a recovery ends.
func (r *rack) recovered() {
	if r.persist > 0 {
		if r.persist--; r.persist == 0 {
			r.reorderingMultiplier = 1
		}
	}
}

// reordering is for how long what arrives out of order may be merely late.
func (e *Endpoint) reordering() int64 {
	r := &e.rack
	if !r.reordered && (e.inRecovery || e.manySACKed()) {
		return 0
	}
	return max(min(int64(r.reorderingMultiplier)*r.least/4, int64(e.srtt)), leastReordering)
}

// manySACKed tells whether more than two segments were reported, or three pieces
// (RFC 6675 section 4, IsLost).
func (e *Endpoint) manySACKed() bool {
	if int(e.flights.sacked) > (duplicatesForLoss-1)*e.mss {
		return true
	}
	pieces := 0
	for _, x := range e.flights.list[e.flights.head:] {
		if x.state&sacked != 0 {
			pieces++
		}
	}
	return pieces >= duplicatesForLoss
}

// findLost marks what is lost by now, begins recovery if anything is, and sets the
// time at which more will be (RFC 8985 section 6.2, step 5).
func (e *Endpoint) findLost(now int64) {
	r, f := &e.rack, &e.flights
	window, wait := r.rtt+e.reordering(), int64(0)
	first := e.unacknowledged
	for i := f.head; i < len(f.list); i++ {
		x := &f.list[i]
		n := x.end - first
		first = x.end
		if x.state&(sacked|lost) != 0 || x.at > r.at || x.at == r.at && (x.state&resent != 0 || !before(x.end, r.end)) {
			continue // what was sent again at that very moment may have left later
		}
		if left := x.at + window - now; left > 0 {
			wait = max(wait, left)
			continue
		}
		x.state |= lost
		f.lost += n
	}
	e.lossAt = 0
	if wait > 0 {
		e.lossAt = now + wait
	}
	if f.lost > 0 && !e.inRecovery {
		e.recover()
	}
}
