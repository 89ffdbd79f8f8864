package tcp

import (
	"math"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// recovery is what a sender knows of loss, congestion and time.
type recovery struct {
	// window is the congestion window, threshold the slow start threshold, in
	// bytes. counted is what was acknowledged towards the next growth.
	window, threshold, counted int
	congestion                 string
	cubic                      cubic

	// duplicates counts duplicate acknowledgements in a row. inRecovery: loss was
	// found and what was sent before recoverSeq is being repaired.
	duplicates int
	inRecovery bool
	recoverSeq uint32
	// sacked is what the peer has beyond unacknowledged. repaired is up to where
	// holes were sent again.
	sacked   []span
	repaired uint32

	// One segment at a time is timed (RFC 6298 section 3, Karn's algorithm): it
	// began at timedSeq and left at timedAt.
	timing   bool
	timedSeq uint32
	timedAt  int64
	openedAt int64

	srtt, rttvar, rto time.Duration
	minRTO, maxRTO    time.Duration
	// rtoGrown: the RTO is that of a retransmission, nothing was measured since.
	rtoGrown bool
	// backoff is how often the RTO was doubled.
	backoff uint
}

const duplicatesForLoss = 3

// startCongestion sets the initial window (RFC 6928) when a connection is
// established.
// initialWindow is RFC 6928's.
func (e *Endpoint) initialWindow() int { return min(10*e.mss, max(2*e.mss, 14600)) }

func (e *Endpoint) startCongestion() {
	e.window = e.initialWindow()
	e.threshold = math.MaxInt32
	e.recoverSeq = e.unacknowledged - 1
	e.repaired = e.unacknowledged
	e.cubic = cubic{}
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
}

// extra is how much more than the congestion window may be in flight: one segment
// for each of the first two duplicate acknowledgements (RFC 3042).
func (e *Endpoint) extra() int {
	if e.inRecovery || e.duplicates == 0 {
		return 0
	}
	return min(e.duplicates, duplicatesForLoss-1) * e.mss
}

// acknowledged handles the acknowledgement and window of an acceptable segment
// (RFC 9293 section 3.10.7.4, RFC 5681). mu is held.
func (e *Endpoint) acknowledged(s *segment, now int64) {
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
	news := false
	if e.sackOK && len(s.sack) > 0 {
		news = e.noteSACK(s.sack)
	}
	if e.persistAt != 0 && !e.closed {
		e.attempts = 0 // the peer lives: probing may go on while the program cares
	}
	if n := s.ack - e.unacknowledged; int32(n) > 0 {
		e.advance(n, now)
		if e.tsOK && !e.timing && s.tsEcr != 0 {
			// RFC 7323 section 4: with timestamps, what was sent again measures too.
			if rtt := time.Duration(int32(e.timestamp()-s.tsEcr)) * time.Millisecond; rtt >= 0 && rtt < time.Minute && e.rtoGrown {
				e.sampleRTT(rtt)
			}
		}
	} else if n == 0 && before(e.unacknowledged, e.sendNext) && len(s.payload) == 0 && s.flags&(fin|syn) == 0 &&
		(news || !e.sackOK && window == oldWindow) {
		e.duplicate()
	}
}

// advance handles the acknowledgement of n more.
func (e *Endpoint) advance(n uint32, now int64) {
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
	e.backoff, e.attempts = 0, 0
	if e.timing && after(una, e.timedSeq) {
		e.timing = false
		e.sampleRTT(time.Duration(now - e.timedAt))
	}
	if una == e.sendMax {
		e.rtoAt = 0
	} else {
		e.rtoAt = now + int64(e.rto)
	}
	if len(e.sacked) > 0 {
		e.sacked = trimSpans(e.sacked, una)
	}
	switch {
	case e.inRecovery && !before(una, e.recoverSeq):
		e.inRecovery, e.duplicates = false, 0
		e.window = max(min(e.threshold, int(e.sendMax-una)+e.mss), 2*e.mss)
	case e.inRecovery && !e.sackOK:
		// RFC 6582 section 3.2: a partial acknowledgement shows the next hole.
		e.window = max(e.window-bytes, 0) + e.mss
		e.resend(una)
	case e.inRecovery:
		if before(e.repaired, una) {
			e.repaired = una
		}
	default:
		e.duplicates = 0
		e.growWindow(bytes, now)
	}
	if e.blocked && 3*(int(e.ops.GetSendBufferSize())-e.out.len()) >= int(e.ops.GetSendBufferSize()) {
		e.blocked = false
		e.events |= waiter.WritableEvents
	}
	if e.finSent && after(una, e.finSeq) {
		e.finAcknowledged()
	}
}

func (e *Endpoint) finAcknowledged() {
	switch e.current() {
	case gtcp.StateFinWait1:
		e.setState(gtcp.StateFinWait2)
		if e.closed {
			e.startFinWait2()
		}
	case gtcp.StateClosing:
		e.timeWait()
	case gtcp.StateLastAck:
		e.finish(gtcp.StateClose, nil)
	}
}

// duplicate handles an acknowledgement that says that something is missing.
func (e *Endpoint) duplicate() {
	e.duplicates++
	switch {
	case e.inRecovery && !e.sackOK:
		e.window += e.mss
	case e.inRecovery:
	case e.beyondRecovery() && (e.duplicates >= duplicatesForLoss || e.sackOK && before(e.unacknowledged, e.lossEdge())):
		e.recover()
	}
}

// beyondRecovery tells whether what is missing may be a new loss. Without SACK a
// duplicate acknowledgement of all that was repaired may still be due to what was
// sent again (RFC 6582 section 3.2, step 2).
func (e *Endpoint) beyondRecovery() bool {
	return after(e.unacknowledged, e.recoverSeq) || e.sackOK && e.unacknowledged == e.recoverSeq
}

// recover begins fast recovery (RFC 5681 section 3.2, RFC 6675 section 5).
func (e *Endpoint) recover() {
	e.reduce()
	e.inRecovery = true
	e.recoverSeq = e.sendMax
	e.window = e.threshold
	e.repaired = e.unacknowledged
	e.stats.SendErrors.FastRetransmit.Increment()
	stats := e.p.stack.Stats().TCP
	stats.FastRetransmit.Increment()
	if e.sackOK {
		stats.SACKRecovery.Increment()
	} else {
		stats.FastRecovery.Increment()
		e.window += duplicatesForLoss * e.mss
	}
	e.repaired = e.resend(e.unacknowledged)
	e.rtoAt = e.p.now() + int64(e.rto)
}

// resend sends one segment from seq on again, and returns where it ends.
func (e *Endpoint) resend(seq uint32) uint32 {
	at := int(seq - e.unacknowledged)
	n := min(e.out.len()-at, e.mss)
	for _, x := range e.sacked {
		if after(x.first, seq) {
			n = min(n, int(x.first-seq))
			break
		}
	}
	end := seq + uint32(max(n, 0))
	last := e.finSent && end == e.finSeq
	if n <= 0 && !last {
		return seq
	}
	e.timing = false
	sent, finished := e.sendData(seq, max(n, 0), last)
	if sent == 0 && !finished {
		return seq
	}
	e.countRetransmit()
	if end = seq + uint32(sent); finished {
		end++
	}
	return end
}

// noteSACK takes over what the peer reports, and tells whether any of it is new.
func (e *Endpoint) noteSACK(blocks []header.SACKBlock) (news bool) {
	for _, b := range blocks {
		x := span{uint32(b.Start), uint32(b.End)}
		if !before(x.first, x.end) || !after(x.first, e.unacknowledged) || after(x.end, e.sendMax) {
			continue // a duplicate's (RFC 2883), or nonsense
		}
		known := false
		for _, y := range e.sacked {
			known = known || !before(x.first, y.first) && !after(x.end, y.end)
		}
		if known {
			continue
		}
		news = true
		if len(e.sacked) < maxSacked {
			e.sacked, _ = insertSpan(e.sacked, x)
		}
	}
	return news
}

// maxSacked bounds the scoreboard against peers that report every other byte.
const maxSacked = 256

// lossEdge is the sequence number below which all that is not SACKed is lost:
// more than two segments beyond it have arrived (RFC 6675 section 4, IsLost).
func (e *Endpoint) lossEdge() uint32 {
	need, pieces := (duplicatesForLoss-1)*e.mss, 0
	for i := len(e.sacked) - 1; i >= 0; i-- {
		x := e.sacked[i]
		pieces++
		if need -= int(x.end - x.first); need < 0 || pieces >= duplicatesForLoss {
			return x.first
		}
	}
	return e.unacknowledged
}

// pipe is how much is in the network (RFC 6675 section 4).
func (e *Endpoint) pipe() int {
	edge, n, at := e.lossEdge(), 0, e.unacknowledged
	count := func(first, end uint32) {
		// Below edge only what was sent again is under way.
		if before(first, edge) {
			lost := edge
			if before(end, lost) {
				lost = end
			}
			if after(e.repaired, first) {
				r := e.repaired
				if after(r, lost) {
					r = lost
				}
				n += int(r - first)
			}
			first = lost
		}
		if before(first, end) {
			n += int(end - first)
		}
	}
	for _, x := range e.sacked {
		count(at, x.first)
		at = x.end
	}
	if before(at, e.sendNext) {
		count(at, e.sendNext)
	}
	return n
}

// repair sends lost segments again, then new ones, as the window allows (RFC 6675
// section 5, step C).
func (e *Endpoint) repair() {
	for pipe := e.pipe(); e.window-pipe >= e.mss; {
		if seq, ok := e.hole(); ok {
			end := e.resend(seq)
			if end == seq {
				return
			}
			e.repaired = end
			pipe += int(end - seq)
			continue
		}
		flight := e.sendNext - e.unacknowledged
		left := e.out.len() - int(flight)
		n := min(left, int(int32(e.sendWindow-flight)), e.mss)
		last := e.finQueued && !e.finSent && n == left
		if left < 0 || n < 0 || n == 0 && !last {
			return
		}
		if !e.transmit(n, last) {
			return
		}
		pipe += max(n, 1)
	}
}

// hole finds the next lost segment that was not sent again.
func (e *Endpoint) hole() (seq uint32, ok bool) {
	seq = e.unacknowledged
	if after(e.repaired, seq) {
		seq = e.repaired
	}
	edge := e.lossEdge()
	for _, x := range e.sacked {
		if !before(seq, x.first) && before(seq, x.end) {
			seq = x.end
		}
	}
	return seq, before(seq, edge)
}

// timedOut handles the end of the RTO (RFC 6298 section 5, RFC 5681 section 3.1):
// everything is sent again, slowly.
func (e *Endpoint) timedOut() {
	stats := e.p.stack.Stats().TCP
	stats.Timeouts.Increment()
	e.stats.SendErrors.Timeouts.Increment()
	if e.backoff == 0 {
		e.reduce()
	}
	e.window = e.mss
	e.counted = 0
	e.inRecovery, e.duplicates = false, 0
	e.recoverSeq = e.sendMax
	// What the peer SACKed it may drop (RFC 2018 section 8): all is sent again.
	e.sacked = e.sacked[:0]
	e.repaired = e.unacknowledged
	e.sendNext = e.unacknowledged
	e.timing = false
	e.rtoAt = 0
	e.backoff++
	e.output()
	if e.rtoAt == 0 && before(e.unacknowledged, e.sendMax) {
		// The window has closed on what was in flight.
		e.rtoAt = e.p.now() + e.timeout()
	}
}
