package tcp

import "time"

// The methods of this file need Endpoint.mu held.

// tail is a tail loss probe under way (TLP, RFC 8985 section 7): when the last
// segments of a flight are lost, nothing arrives behind them that would tell. The
// probe makes the peer tell, long before the RTO ends.
type tail struct {
	open  bool
	again bool   // it was no new data
	end   uint32 // TLP.end_seq
}

const (
	// tailPause is granted beyond two round trips: timers and peers are not faster,
	// and a connection that is busy looks at its timer that often.
	tailPause = int64(10 * time.Millisecond)
	// delayedAck is how long the peer may keep the acknowledgement of a lone segment
	// back (RFC 8985's TLP.max_ack_delay), before the round trips show it: Linux and
	// Windows do so for 40 ms. Who takes longer gets a segment twice.
	delayedAck = int64(50 * time.Millisecond)
)

// awaitTail sets the time of a probe, when one is in order: something is in flight
// and nothing is known to be missing.
func (e *Endpoint) awaitTail(now int64) {
	if !e.sackOK || e.inRecovery || e.tail.open || e.flights.sacked > 0 || e.backoff > 0 || e.srtt == 0 {
		e.lossAt = 0
		return
	}
	wait := 2*int64(e.srtt) + tailPause
	if int(e.sendNext-e.unacknowledged) <= e.mss {
		wait += delayedAck
	}
	e.lossAt = min(now+wait, e.rtoAt)
}

// lossTimer handles the end of the wait for segments that may be merely late, or
// for the acknowledgement of a flight's tail.
func (e *Endpoint) lossTimer(now int64) {
	switch {
	case !open(e.current()) || e.sendNext == e.unacknowledged || e.stalled:
	case e.flights.sacked > 0 || e.inRecovery:
		e.findLost(now)
		if e.inRecovery && !e.slowly && e.sackOK {
			e.reduceByRate(0, false)
		}
		e.output()
	default:
		e.probeTail(now)
	}
}

// probeTail sends new data, if there is any that the peer's window allows, else
// the last segment again (RFC 8985 section 7.3).
func (e *Endpoint) probeTail(now int64) {
	flight := e.sendNext - e.unacknowledged
	left := e.out.len() - int(flight)
	n := min(left, int(int32(e.sendWindow-flight)), e.mss)
	e.tail.again = n <= 0
	e.tail.open = true // before transmit sets the time of the next one
	if e.trace != nil {
		e.trace.TailProbe()
	}
	if n > 0 {
		e.transmit(n, e.finQueued && !e.finSent && n == left)
	} else {
		from := uint32(min(e.out.len(), int(flight)))
		e.resend(e.unacknowledged+max(from, uint32(e.mss))-uint32(e.mss), e.sendNext)
	}
	e.tail.end = e.sendNext
	e.rtoAt = now + int64(e.rto)
}

// tailAnswered ends a probe that was acknowledged (RFC 8985 section 7.4). again is
// what the peer has reported as duplicate.
func (e *Endpoint) tailAnswered(s *segment, again span, bare bool) {
	t := &e.tail
	if before(s.ack, t.end) {
		return
	}
	switch {
	case !t.again, again.first != again.end && again.end == t.end:
	case after(s.ack, t.end):
		// It repaired a loss.
		e.p.stats.TLPRecovery.Increment()
		if e.undo != nil {
			e.undo.armed = false
		}
		e.reduce(e.window)
		e.window = e.threshold
	case bare && len(s.sack) == 0:
		// Both have arrived.
	default:
		return
	}
	t.open = false
}
