package tcp

import (
	"math"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held.

// recovery is what a sender knows of loss, congestion and time.
type recovery struct {
	// window is the congestion window, threshold the slow start threshold, in
	// bytes. counted is what was acknowledged towards the next growth.
	window, threshold, counted int

	// duplicates counts duplicate acknowledgements in a row, without SACK.
	// inRecovery: loss was found and what was sent before recoverSeq is being
	// repaired; slowly: after a time-out, the window grows meanwhile.
	duplicates         int
	inRecovery, slowly bool
	recoverSeq         uint32 // the sendMax of when loss was found

	// With SACK.
	flights flights
	rack    rack
	tail    tail

	// One segment at a time is timed (RFC 6298 section 3, Karn's algorithm): it
	// began at timedSeq and left at timedAt.
	timing   bool
	timedSeq uint32
	timedAt  int64

	srtt, rttvar, rto time.Duration
	minRTO, maxRTO    time.Duration
	// rtoGrown: the RTO is that of a retransmission, nothing was measured since.
	rtoGrown bool
	// backoff is how often the RTO was doubled.
	backoff uint
}

// lossState is what only loss, the handshake and CUBIC need of that.
type lossState struct {
	congestion string
	cubic      cubic
	hystart    hystart
	prr        prr
	hole       *blackHole // nil as long as large segments get through
	undo       *undo      // nil before the first reduction of the window
	openedAt   int64
}

const duplicatesForLoss = 3

// initialWindow is RFC 6928's.
func (e *Endpoint) initialWindow() int { return min(10*e.mss, max(2*e.mss, 14600)) }

// startCongestion sets what a connection starts with when it is established.
func (e *Endpoint) startCongestion() {
	e.window = e.initialWindow()
	e.threshold = math.MaxInt32
	e.recoverSeq = e.unacknowledged - 1
	e.cubic, e.hystart = cubic{}, hystart{end: e.sendNext}
	e.rack.furthest, e.rack.reorderingMultiplier = e.unacknowledged, 1
}

// sampleHandshake takes the time of the handshake, if its SYN went once.
func (e *Endpoint) sampleHandshake() {
	if e.attempts == 0 && e.openedAt != 0 {
		e.sampleRTT(time.Duration(e.p.now() - e.openedAt))
	} else {
		e.rto = max(time.Second, e.minRTO)
	}
}

// sampleRTT is RFC 6298 section 2.
func (e *Endpoint) sampleRTT(rtt time.Duration) {
	rtt, e.rtoGrown = max(rtt, time.Microsecond), false
	if e.srtt == 0 {
		e.srtt, e.rttvar = rtt, rtt/2
	} else {
		e.rttvar += ((e.srtt - rtt).Abs() - e.rttvar) / 4
		e.srtt += (rtt - e.srtt) / 8
	}
	// The shortest RTO is granted beyond the round trip, as Linux does: with steady
	// ones the variance comes near to nothing.
	e.rto = min(e.srtt+max(4*e.rttvar, e.minRTO), e.maxRTO)
	e.rack.sample(int64(rtt), e.p.now())
	e.flights.grain = int64(e.srtt) / 64
}

// extra is how much more than the congestion window may lie between SND.UNA and
// SND.NXT: what the peer has of it by SACK, else one segment for each of the first
// two duplicate acknowledgements (RFC 3042).
func (e *Endpoint) extra() int {
	if e.inRecovery || e.duplicates == 0 {
		return int(e.flights.sacked)
	}
	return min(e.duplicates, duplicatesForLoss-1) * e.mss
}

// onAck handles the acknowledgement and window of an acceptable segment
// (RFC 9293 section 3.10.7.4, RFC 5681).
func (e *Endpoint) onAck(s *segment, now int64) {
	sacked, lost := e.flights.sacked, e.flights.lost
	oldWindow := e.sendWindow
	window := s.window << e.sendShift
	if before(s.ack, e.unacknowledged) {
		// An old acknowledgement: its window is not counted from here.
	} else if before(e.windowSeq, s.seq) || e.windowSeq == s.seq && !after(e.windowAck, s.ack) {
		e.sendWindow, e.windowSeq, e.windowAck = window, s.seq, s.ack
		e.maxWindow = max(e.maxWindow, window)
		if oldWindow == 0 && window > 0 {
			e.persistAt, e.backoff = 0, 0
		}
	}
	if e.persistAt != 0 && !e.closed {
		e.attempts = 0 // the peer lives: probing may go on while the program cares
	}
	n := int32(s.ack - e.unacknowledged)
	if n > 0 {
		e.advance(uint32(n), s, now)
		if e.tsOK && s.timestamp && !e.timing && s.tsEcr != 0 {
			// RFC 7323 section 4: with timestamps, what was sent again measures too.
			if rtt := time.Duration(int32(e.timestamp()-s.tsEcr)) * time.Millisecond; rtt >= 0 && rtt < time.Minute && e.rtoGrown {
				e.sampleRTT(rtt)
			}
		}
	}
	bare := n == 0 && before(e.unacknowledged, e.sendNext) && len(s.payload) == 0 && s.flags&(fin|syn) == 0
	switch {
	case !e.sackOK && bare && window == oldWindow:
		e.duplicate()
	case e.sackOK && (len(s.sack) > 0 || e.flights.sacked > 0 || e.inRecovery || e.tail.open):
		e.reported(s, now, bare)
		if e.inRecovery && !e.slowly {
			e.reduceByRate(int(max(n, 0))+int(int32(e.flights.sacked-sacked)), n > 0 && e.flights.lost <= lost)
		}
	}
}

// prr is proportional rate reduction (RFC 6937 and its revision): during fast recovery
// the window comes down with what arrives, so that sending never pauses. Bytes.
type prr struct {
	delivered, out int // since recovery began: what arrived, and what was sent
	flight         int // what was in the network then (RecoverFS)
}

// reduceByRate sets the window after an acknowledgement in fast recovery by which
// delivered bytes have arrived. safe: it has moved SND.UNA, and shows no new loss.
func (e *Endpoint) reduceByRate(delivered int, safe bool) {
	p, pipe := &e.prr, e.pipe()
	p.delivered += max(delivered, 0)
	send := 0
	if pipe > e.threshold {
		send = (p.delivered*e.threshold+p.flight-1)/max(p.flight, 1) - p.out
	} else {
		most := p.delivered - p.out
		if safe {
			most = max(most, delivered) + e.mss
		}
		send = min(e.threshold-pipe, most)
	}
	e.window = pipe + max(send, 0)
}

// advance handles the acknowledgement of n more.
func (e *Endpoint) advance(n uint32, s *segment, now int64) {
	early := e.spurious(s)
	if e.sackOK {
		e.ackFlights(s, now)
	}
	e.unacknowledged += n
	una := e.unacknowledged
	bytes := min(int(n), e.out.len())
	e.out.discard(bytes)
	if before(e.sendNext, una) {
		e.sendNext = una
	}
	if e.attempts > 0 {
		// RFC 6298 section 5.7 and Karn's algorithm: what was sent again measures
		// nothing, and the RTO stays as long as it grew until something does.
		e.rto, e.rtoGrown = time.Duration(e.timeout()), true
	}
	if early {
		e.undoSpurious()
	}
	if e.hole != nil {
		e.holeAdvanced(now)
	}
	e.backoff, e.attempts = 0, 0
	if e.timing && after(una, e.timedSeq) {
		e.timing = false
		e.sampleRTT(time.Duration(now - e.timedAt))
	}
	if una == e.sendMax {
		e.rtoAt, e.lossAt = 0, 0
	} else {
		e.rtoAt, e.owedAt = now+int64(e.rto), now
	}
	switch {
	case e.inRecovery && !before(una, e.recoverSeq):
		e.inRecovery, e.duplicates = false, 0
		if !e.slowly {
			e.window = max(e.threshold, 2*e.mss) // RFC 6582 section 3.2, step 3
		}
		e.rack.recovered()
	case e.inRecovery && !e.sackOK:
		// RFC 6582 section 3.2: a partial acknowledgement shows the next hole.
		e.window = max(e.window-bytes, 0) + e.mss
		e.resend(una, e.sendMax)
	case e.inRecovery && !e.slowly:
	default:
		e.duplicates = 0
		e.growWindow(bytes, now)
	}
	if una != e.sendMax {
		e.awaitTail(now)
	}
	if e.tuned {
		e.moderateSend(bytes, now)
	}
	if e.blocked && 3*(e.sendSize-e.out.len()) >= e.sendSize {
		e.blocked = false
		e.events |= transport.Writable
	}
	if e.finSent && after(una, e.finSeq) {
		e.finAcknowledged()
	}
}

func (e *Endpoint) finAcknowledged() {
	switch e.current() {
	case transport.StateFinWait1:
		e.setState(transport.StateFinWait2)
		if e.closed {
			e.startFinWait2()
		}
	case transport.StateClosing:
		e.timeWait()
	case transport.StateLastAck:
		e.finish(transport.StateClosed, nil)
	}
}

// duplicate handles an acknowledgement without SACK that says that something is
// missing.
func (e *Endpoint) duplicate() {
	e.duplicates++
	switch {
	case e.inRecovery:
		e.window += e.mss
	case e.duplicates >= duplicatesForLoss && after(e.unacknowledged, e.recoverSeq):
		// Before recoverSeq it may still be due to what was sent again (RFC 6582
		// section 3.2, step 2).
		e.recover()
	}
}

// recover begins fast recovery (RFC 5681 section 3.2, RFC 6675 section 5).
func (e *Endpoint) recover() {
	e.saveUndo()
	if e.probeLost() {
		e.threshold = e.window
	} else {
		e.reduce(int(e.sendMax - e.unacknowledged))
	}
	e.inRecovery, e.slowly = true, false
	e.recoverSeq = e.sendMax
	e.window = e.threshold
	e.prr = prr{flight: int(e.sendMax - e.unacknowledged - e.flights.sacked)}
	e.fastRetransmits++
	stats := &e.p.stats
	stats.FastRetransmit.Increment()
	if e.sackOK {
		stats.SACKRecovery.Increment()
		if _, x, ok := e.flights.nextLost(e.flights.head, e.unacknowledged); ok {
			e.prr.out = int(e.resend(x.first, x.end) - x.first)
		}
	} else {
		stats.FastRecovery.Increment()
		e.window += duplicatesForLoss * e.mss
		e.resend(e.unacknowledged, e.sendMax)
	}
	e.rtoAt = e.p.now() + int64(e.rto)
}

// resend sends one segment from seq on again, of what lies before limit, and
// returns where it ends.
func (e *Endpoint) resend(seq, limit uint32) uint32 {
	at := int(seq - e.unacknowledged)
	n := max(min(e.out.len()-at, e.mss, int(limit-seq)), 0)
	end := seq + uint32(n)
	last := e.finSent && end == e.finSeq && after(limit, e.finSeq)
	if n == 0 && !last {
		return seq
	}
	e.timing = false
	sent, finished := e.sendData(seq, n, last)
	if sent == 0 && !finished {
		return seq
	}
	e.countRetransmit(sent)
	if end = seq + uint32(sent); finished {
		end++
	}
	if e.sackOK {
		e.flights.set(e.unacknowledged, span{seq, end}, resent, e.p.now())
	}
	return end
}

// pipe is how much is in the network (RFC 6675 section 4), with SACK.
func (e *Endpoint) pipe() int {
	return int(e.sendNext - e.unacknowledged - e.flights.sacked - e.flights.lost)
}

// repair sends lost segments again, then new ones, as the window allows (RFC 6675
// section 5, step C).
func (e *Endpoint) repair() {
	i := e.flights.head
	for e.window-e.pipe() >= e.mss {
		var x span
		var ok bool
		if i, x, ok = e.flights.nextLost(i, e.unacknowledged); ok {
			end := e.resend(x.first, x.end)
			if end == x.first {
				return
			}
			e.prr.out += int(end - x.first)
			i = max(i-1, e.flights.head) // it may have become one with the one before
			continue
		}
		flight := e.sendNext - e.unacknowledged
		left := e.out.len() - int(flight)
		n := min(left, int(int32(e.sendWindow-flight)), e.mss)
		last := e.finQueued && !e.finSent && n == left
		if left < 0 || n < 0 || n == 0 && !last {
			return
		}
		whole := e.transmit(n, last)
		if e.prr.out += int(e.sendNext - e.unacknowledged - flight); !whole {
			return
		}
	}
}

// timedOut handles the end of the RTO (RFC 6298 section 5, RFC 5681 section 3.1):
// everything is sent again, slowly.
func (e *Endpoint) timedOut() {
	stats := &e.p.stats
	stats.Timeouts.Increment()
	e.timeouts.Increment()
	flight := e.sendMax - e.unacknowledged
	if e.backoff == 0 {
		e.saveUndo()
		e.reduce(int(flight))
	}
	if e.hole != nil {
		e.hole.probe = span{}
	}
	if e.backoff >= blackHoleAfter {
		e.suspectBlackHole()
	}
	e.doubt()
	e.window = e.mss
	e.counted = 0
	e.inRecovery, e.duplicates = false, 0
	e.recoverSeq = e.sendMax
	e.timing = false
	e.rtoAt, e.lossAt = 0, 0
	e.tail.open = false
	e.backoff++
	if f := &e.flights; e.sackOK && e.sendNext == e.sendMax && flight <= e.sendWindow && f.head < len(f.list) {
		// All that the peer did not report is lost. When it reported the very next
		// segment it has dropped what it had (RFC 2018 section 8): all is.
		e.inRecovery, e.slowly = true, true
		f.lose(e.unacknowledged, f.list[f.head].state&sacked != 0)
	} else {
		f.clear()
		e.sendNext = e.unacknowledged
	}
	e.output()
	if e.rtoAt == 0 && before(e.unacknowledged, e.sendMax) {
		// What was sent again is not new, or the window has closed on it.
		e.rtoAt = e.p.now() + e.timeout()
	}
}

// undo is what a reduction of the window is taken back with, when it shows that
// nothing was lost: the peer reports all that was sent again as duplicates (RFC 3708),
// or echoes a timestamp from before it was (Eifel, RFC 3522).
type undo struct {
	armed bool
	// stamped: something was sent again, at stamp by our timestamps first.
	stamped           bool
	stamp             uint32
	window, threshold int
	cubic             cubic
	// what was sent again is part of scope, and left bytes of it were not reported.
	scope span
	left  int
}

// saveUndo keeps what a reduction of the window changes.
func (e *Endpoint) saveUndo() {
	if e.undo == nil {
		e.undo = new(undo)
	}
	*e.undo = undo{
		armed: true, window: e.window, threshold: e.threshold, cubic: e.cubic,
		scope: span{e.unacknowledged, e.sendMax},
	}
}

// undoRecovery handles the peer's report of a duplicate.
func (e *Endpoint) undoRecovery(x span) {
	u := e.undo
	if u == nil || !u.armed || before(x.first, u.scope.first) || after(x.end, u.scope.end) {
		return
	}
	if u.left -= int(x.end - x.first); u.left > 0 {
		return
	}
	e.restoreWindow()
}

// restoreWindow takes a reduction of the window back, and what was taken for lost.
// undo must be armed.
func (e *Endpoint) restoreWindow() {
	u := e.undo
	u.armed = false
	e.window, e.threshold, e.cubic = max(e.window, u.window), max(e.threshold, u.threshold), u.cubic
	e.inRecovery = false
	e.flights.found()
}

// undoSpurious goes on as if nothing had been sent again.
func (e *Endpoint) undoSpurious() {
	if stats := &e.p.stats; e.attempts > 0 {
		stats.SpuriousRTORecovery.Increment()
	} else {
		stats.SpuriousRecovery.Increment()
	}
	e.restoreWindow()
	e.rack.reordered = true
	e.duplicates = 0
	if !e.sackOK {
		e.sendNext = e.sendMax // nothing of what a time-out began to send again
	}
}

// spurious tells whether what s acknowledges first had arrived before it was sent
// again, by the timestamp that s echoes (RFC 3522 section 3.2).
func (e *Endpoint) spurious(s *segment) bool {
	u := e.undo
	return u != nil && u.armed && u.stamped && e.tsOK && s.timestamp && s.tsEcr != 0 && e.unacknowledged == u.scope.first && before(s.tsEcr, u.stamp)
}
