package tcp

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held, but for fire and fireTimer.

// timers are the moments at which a connection has something to do, in
// nanoseconds as Protocol.now has them, 0 for none.
//
// One timer serves them all: one of the connection's own or, with many connections and
// unless there is little time, the shard's wheel. It is lazy: a moment that moves further away, as that of the
// RTO does with each acknowledgement, leaves it alone. It finds out when it fires.
type timers struct {
	rtoAt     int64 // retransmission
	lossAt    int64 // tail loss probe, or the end of the reordering window
	persistAt int64 // zero-window probe
	keepAt    int64 // keep-alive
	endAt     int64 // the end of FIN-WAIT-2 without a program, or of TIME-WAIT
	idleAt    int64 // a look whether the connection is idle

	firesAt  int64       // when fire is called, 0 while nothing is set
	timer    tcpip.Timer // for what is too near for the wheel, nil before the first
	timerSet bool

	// userTimeout, if any, is how long the peer may owe us an acknowledgement, or an
	// open window; since owedAt it does, unless nothing is in flight nor waits.
	userTimeout time.Duration
	owedAt      int64
	// attempts counts what was sent in vain since the peer was last heard.
	attempts uint32

	scratch [header.TCPHeaderMaximumSize]byte // of the segment that is being sent
}

// retryLimits is when a connection gives up, and how it asks before.
type retryLimits struct {
	retries    uint32
	synRetries uint32

	keepAliveIdle, keepAliveInterval time.Duration
	keepAliveCount                   int
	probes                           int   // keep-alive probes without answer
	probedAt                         int64 // when the last one left

	finWait2 time.Duration // how long FIN-WAIT-2 lasts without a program
}

func (t *retryLimits) init(s *settings) {
	t.retries, t.synRetries = s.retries, uint32(s.synRetries)
	t.finWait2 = s.linger
	t.keepAliveIdle, t.keepAliveInterval, t.keepAliveCount = 2*time.Hour, 75*time.Second, 9
}

// schedule makes sure that the timer fires no later than the next moment. mu is
// held.
func (e *Endpoint) schedule() {
	next := e.rtoAt
	if e.lossAt != 0 {
		next = earliest(next, e.lossAt)
	}
	next = earliest(earliest(next, e.persistAt), earliest(e.keepAt, e.endAt))
	next = earliest(next, e.idleAt)
	if e.userTimeout > 0 {
		next = earliest(next, e.userTimeoutAt())
	}
	if next == 0 || e.firesAt != 0 && e.firesAt <= next {
		return
	}
	if e.timerSet {
		if !e.timer.Stop() {
			return // it fires just now, and will set itself anew
		}
		e.timerSet = false
	}
	e.firesAt = next
	wait := next - e.p.now()
	if wait >= wheelLeast && e.p.flows.Len() >= manyFlows {
		e.p.wheel.set(e, next)
		return
	}
	e.p.wheel.remove(e)
	e.timerSet = true
	if e.timer == nil {
		e.timer = e.p.clock.AfterFunc(time.Duration(max(wait, 0)), e.fireTimer)
	} else {
		e.timer.Reset(time.Duration(max(wait, 0)))
	}
}

func earliest(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// stopTimer ends all.
func (e *Endpoint) stopTimer() {
	e.rtoAt, e.lossAt, e.persistAt, e.keepAt, e.endAt, e.idleAt = 0, 0, 0, 0, 0, 0
	e.firesAt = 0
	e.p.wheel.remove(e)
	if e.timerSet && e.timer.Stop() {
		e.timerSet = false
	}
}

// fireTimer runs when the connection's own timer fires, in a goroutine of its own.
func (e *Endpoint) fireTimer() {
	e.mu.Lock()
	defer e.unlock()
	e.timerSet = false
	e.fireLocked()
}

// fire runs when the wheel says so, in the wheel's goroutine. After stopTimer, and
// after a moment that has moved, it may run in vain.
func (e *Endpoint) fire() {
	e.mu.Lock()
	defer e.unlock()
	e.fireLocked()
}

func (e *Endpoint) fireLocked() {
	e.firesAt = 0
	if e.current().Over() {
		return
	}
	now := e.p.now()
	due := func(at int64) bool { return at != 0 && at <= now }
	if due(e.endAt) {
		e.finish(transport.StateClosed, nil)
		return
	}
	if due(e.userTimeoutAt()) {
		e.giveUp()
		return
	}
	if due(e.lossAt) {
		e.lossAt = 0
		e.lossTimer(now) // a probe puts the RTO off
	}
	if due(e.rtoAt) {
		e.rtoAt = 0
		if !e.tryAgain() {
			return
		}
	}
	if due(e.persistAt) {
		e.persistAt = 0
		e.probe(now)
	}
	if due(e.keepAt) {
		e.keepAt = 0
		e.keepAlive(now)
	}
	e.lookIdle(now)
	e.schedule()
}

// idleAfter is how long nothing has come or gone when a connection counts as idle, in
// nanoseconds. Its next request may take a microsecond longer.
const idleAfter = int64(time.Second)

// lookIdle gives the memory back that an idle connection does not need. The first look
// is the timer's of the last segment, so that no segment has to see to it.
func (e *Endpoint) lookIdle(now int64) {
	e.idleAt = 0
	if e.in.small == nil && e.out.small == nil || !open(e.current()) {
		return
	}
	if at := max(e.heard, e.sentAt) + idleAfter; at > now {
		e.idleAt = at
		return
	}
	e.in.shrink()
	e.out.shrink()
}

// timeout is the RTO in nanoseconds, doubled as often as it has passed in vain
// (RFC 6298 section 5.5).
func (e *Endpoint) timeout() int64 { return int64(min(e.rto<<min(e.backoff, 10), e.maxRTO)) }

// userTimeoutAt is when the user timeout ends, 0 for never (RFC 9293 section 3.10.8).
func (e *Endpoint) userTimeoutAt() int64 {
	if e.userTimeout == 0 || e.unacknowledged == e.sendMax && e.persistAt == 0 {
		return 0
	}
	return e.owedAt + int64(e.userTimeout)
}

// exhausted counts an attempt and tells whether it was one too many. With a user
// timeout their number does not count, as in Linux.
func (e *Endpoint) exhausted(limit uint32) bool {
	e.attempts++
	return e.attempts > limit && (e.userTimeout == 0 || connecting(e.current()))
}

// tryAgain handles the end of the RTO. It reports false when the connection is
// given up.
func (e *Endpoint) tryAgain() bool {
	switch s := e.current(); {
	case connecting(s):
		limit := e.synRetries
		if s == transport.StateSynReceived {
			limit = min(limit, 5) // Linux's tcp_synack_retries
		}
		if e.exhausted(limit) {
			e.giveUp()
			return false
		}
		e.rto = min(2*e.rto, e.maxRTO)
		e.p.stats.Retransmits.Increment()
		e.timeouts.Increment()
		e.doubt()
		e.sendSyn()
	case e.unacknowledged == e.sendMax && !e.stalled:
	case e.exhausted(e.retries):
		e.giveUp()
		return false
	default:
		e.timedOut()
	}
	return true
}

// doubtAfter is how many attempts in a row are in vain before the next hop's address
// is in doubt: Linux's tcp_retries1.
const doubtAfter = 3

// doubt has the next hop confirmed when the peer has been silent for long.
func (e *Endpoint) doubt() {
	if e.attempts >= doubtAfter {
		e.p.out.DoubtTCP(&e.path)
	}
}

// giveUp ends a connection whose peer does not answer.
func (e *Endpoint) giveUp() {
	if open(e.current()) {
		e.p.stats.EstablishedTimedout.Increment()
	}
	err := e.soft
	if err == nil {
		err = &tcpip.ErrTimeout{}
	}
	e.fail(err)
}

// probe asks a peer whose window is closed (RFC 9293 section 3.8.6.1), as Linux
// does: with a sequence number that it has, which it must answer.
func (e *Endpoint) probe(now int64) {
	if !open(e.current()) || e.out.len() == 0 || e.sendNext != e.unacknowledged {
		return
	}
	if e.sendWindow > 0 {
		// A window too small for a good segment is used in the end (RFC 9293 section
		// 3.8.6.2.1).
		e.override = true
		e.output()
		e.override = false
		return
	}
	if e.exhausted(e.retries) {
		e.giveUp()
		return
	}
	e.backoff++
	e.sendControl(e.unacknowledged-1, ack)
	e.persistAt = now + e.timeout()
}

// restartKeepAlive begins to wait for silence.
func (e *Endpoint) restartKeepAlive() {
	e.probes, e.keepAt = 0, 0
	if !e.keepAliveOn {
		return
	}
	switch e.current() {
	case transport.StateEstablished, transport.StateCloseWait, transport.StateFinWait1, transport.StateFinWait2:
		e.keepAt = e.p.now() + int64(e.keepAliveIdle)
		e.schedule()
	}
}

// keepAlive probes a peer that was silent for long (RFC 9293 section 3.8.4).
func (e *Endpoint) keepAlive(now int64) {
	if !e.keepAliveOn || !open(e.current()) || e.current() == transport.StateTimeWait {
		return
	}
	if e.heard >= e.probedAt { // a clock that is read once per poll may show both alike
		e.probes = 0
	}
	if at := e.heard + int64(e.keepAliveIdle); at > now {
		e.keepAt = at
		return
	}
	if e.unacknowledged != e.sendMax {
		// Retransmission looks after a connection with data in flight.
		e.keepAt = now + int64(e.keepAliveInterval)
		return
	}
	if e.userTimeout > 0 && e.probes > 0 && time.Duration(now-e.heard) >= e.userTimeout || e.userTimeout == 0 && e.probes >= e.keepAliveCount {
		e.sendControl(e.bareSeq(), rst|ack)
		e.giveUp()
		return
	}
	e.probes++
	e.probedAt = now
	e.sendControl(e.sendNext-1, ack)
	e.keepAt = now + int64(e.keepAliveInterval)
}

// timeWait begins TIME-WAIT, or begins it anew.
func (e *Endpoint) timeWait() {
	e.setState(transport.StateTimeWait)
	e.rtoAt, e.lossAt, e.persistAt, e.keepAt, e.idleAt = 0, 0, 0, 0, 0
	e.events |= transport.Ended | transport.Readable | transport.Writable
	wait := e.p.options().timeWait
	e.endAt = e.p.now() + int64(wait)
	if wait == 0 {
		e.finish(transport.StateClosed, nil)
		return
	}
	if e.leaveLocked(); e.current() == transport.StateTimeWait {
		e.schedule()
	}
}

// startFinWait2 bounds the wait for the FIN of a peer to whom nobody listens.
func (e *Endpoint) startFinWait2() {
	e.endAt = e.p.now() + int64(e.finWait2)
	if e.finWait2 == 0 {
		e.finish(transport.StateClosed, nil)
		return
	}
	e.schedule()
}
