package tcp

import (
	"encoding/binary"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// A timeWait is what a connection needs to be in TIME-WAIT, in 112 bytes: the
// endpoint goes when the program is done with it. It has no pointers, which the
// garbage collector would follow for a minute. Times are in nanoseconds, as
// Protocol.now has them.
type timeWait struct {
	key   flow.Key
	endAt int64
	// heard is when the last segment of the connection came, challenged when the last
	// unacceptable one was answered, 0 for never.
	heard, challenged int64
	// receiveNext and receiveEdge bound what the peer may still send, sequence is ours
	// in answers. A new connection begins beyond last.
	receiveNext, receiveEdge, sequence, last uint32
	tsRecent, tsOffset                       uint32
	window                                   uint16
	tsOK                                     bool
	place                                    int32 // in timeWaits.order
}

// What a segment means to a connection in TIME-WAIT.
type waitAnswer int

const (
	waitNothing   waitAnswer = iota
	waitChallenge            // acknowledge, unless that was done just now
	waitAnew                 // the peer's FIN again: acknowledge, and wait anew
	waitOver                 // a new connection begins in its place
)

// judge tells what a segment means. Those that begin a new connection are beyond what
// the old one had, by timestamp or, unless that is an old one, by sequence number (RFC
// 6191). cookie tells whether a segment acknowledges a cookie.
func (w *timeWait) judge(s *segment, cookie func() bool) waitAnswer {
	switch {
	case s.flags&rst != 0:
		// RFC 1337: it must not cut the wait short.
	case s.flags&syn != 0 && s.flags&ack == 0:
		o := header.ParseSynOptions(s.options, false)
		stamped := w.tsOK && o.TS
		if stamped && after(o.TSVal, w.tsRecent) || after(s.seq, w.receiveNext) && !(stamped && before(o.TSVal, w.tsRecent)) {
			return waitOver
		}
		return waitChallenge
	case s.flags&(syn|ack) == 0:
		// RFC 9293 section 3.10.7.4, fifth: without an acknowledgement it is dropped.
	case s.flags&fin != 0 && s.seq+s.length() == w.receiveNext:
		return waitAnew // our acknowledgement was lost
	case s.flags&syn == 0 && after(s.seq, w.receiveNext) && cookie():
		// The filter of the device answered a SYN without our knowledge.
		return waitOver
	case s.length() > 0 || s.seq-w.receiveNext > w.receiveEdge-w.receiveNext:
		return waitChallenge
	}
	return waitNothing
}

// mayChallenge tells whether a segment is answered now (RFC 5961 section 7).
func (w *timeWait) mayChallenge(s *segment, now int64) bool {
	if (s.length() == 0 || s.flags&syn != 0) && w.challenged != 0 && now-w.challenged < challengeEvery {
		return false
	}
	w.challenged = now
	return true
}

// timeWaitLocked is the connection as it is in TIME-WAIT. mu is held.
func (e *Endpoint) timeWaitLocked() (w timeWait, ok bool) {
	w = timeWait{
		endAt: e.endAt, heard: e.heard, challenged: e.challenged,
		receiveNext: e.receiveNext, receiveEdge: e.receiveEdge, sequence: e.bareSeq(), last: e.sendMax + e.maxWindow,
		tsRecent: e.tsRecent, tsOffset: e.tsOffset, window: e.advertise(), tsOK: e.tsOK,
	}
	w.key, ok = netstack.Key(&e.ID)
	return w, ok
}

// leaveLocked has a record wait in place of the endpoint, if the program is done with
// it and nothing is left to be sent. mu is held.
func (e *Endpoint) leaveLocked() {
	if !e.closed || e.stalled || e.ackOwed.Load() || e.current() != transport.StateTimeWait {
		return
	}
	if w, ok := e.timeWaitLocked(); ok && e.p.waits.add(&w, e.p) {
		e.finish(transport.StateClosed, nil)
	}
}

// timeWaits has the records. They are found by their keys, and end in the order of
// endAt, which a heap has.
//
// A connection is in the table of the connections until its record is here, and one
// that begins looks here when it is in there: no two have the same addresses.
type timeWaits struct {
	// n is len(order): who finds 0 has nothing to look for.
	n atomic.Int64

	mu      sync.Mutex
	at      map[flow.Key]int32 // in records
	records []timeWait
	free    []int32 // unused ones
	order   []int32 // a heap of the used ones
	timer   tcpip.Timer
	firesAt int64 // when the timer fires, 0 while it is not set
	ended   bool
}

// add begins a wait. It reports false where there is a record of the same key, or no
// time for one.
func (t *timeWaits) add(w *timeWait, p *Protocol) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.at[w.key]; taken || t.ended {
		return false
	}
	if t.at == nil {
		t.at = make(map[flow.Key]int32)
	}
	i := int32(len(t.records))
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
		t.records[i] = *w
	} else {
		t.records = append(t.records, *w)
	}
	t.at[w.key] = i
	t.records[i].place = int32(len(t.order))
	t.order = append(t.order, i)
	t.fixLocked(len(t.order) - 1)
	t.n.Store(int64(len(t.order)))
	t.scheduleLocked(p)
	return true
}

// has tells whether there is a record of a connection.
func (t *timeWaits) has(k *flow.Key) bool {
	if t.n.Load() == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.at[*k]
	return ok
}

// taken tells whether a new connection from here cannot have the addresses. It may take
// the place of a record that is old enough, and has timestamps that tell old segments
// from new ones.
func (t *timeWaits) taken(k *flow.Key, now int64) bool {
	if t.n.Load() == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.at[*k]
	return ok && !t.records[i].reusable(now)
}

func (w *timeWait) reusable(now int64) bool { return w.tsOK && now-w.heard > reuseAfter }

// reuse ends a wait in whose place a new connection from here begins, beyond last. It
// reports false where there is none, or it must go on.
func (t *timeWaits) reuse(k *flow.Key, now int64) (last uint32, ok bool) {
	if t.n.Load() == 0 {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.at[*k]
	if !ok || !t.records[i].reusable(now) {
		return 0, false
	}
	last = t.records[i].last
	t.removeLocked(i)
	return last, true
}

// removeLocked ends a wait.
func (t *timeWaits) removeLocked(i int32) {
	w := &t.records[i]
	delete(t.at, w.key)
	place, end := int(w.place), len(t.order)-1
	if t.order[place], t.order = t.order[end], t.order[:end]; place < end {
		t.records[t.order[place]].place = int32(place)
		t.fixLocked(place)
	}
	t.free = append(t.free, i)
	t.n.Store(int64(end))
	if end == 0 { // nothing is left of many
		t.at, t.records, t.free, t.order = nil, nil, nil, nil
	}
}

// fixLocked moves the record at a place of the heap to where it belongs.
func (t *timeWaits) fixLocked(place int) {
	o := t.order
	put := func(place int, i int32) { o[place], t.records[i].place = i, int32(place) }
	sooner := func(i, j int32) bool { return t.records[i].endAt < t.records[j].endAt }
	i := o[place]
	for place > 0 && sooner(i, o[(place-1)/2]) {
		put(place, o[(place-1)/2])
		place = (place - 1) / 2
	}
	for {
		child := 2*place + 1
		if child >= len(o) {
			break
		}
		if child+1 < len(o) && sooner(o[child+1], o[child]) {
			child++
		}
		if !sooner(o[child], i) {
			break
		}
		put(place, o[child])
		place = child
	}
	put(place, i)
}

// scheduleLocked makes sure that the timer fires. It may be late by a part of the wait:
// one firing ends many then.
func (t *timeWaits) scheduleLocked(p *Protocol) {
	if len(t.order) == 0 || t.ended {
		return
	}
	now, first := p.now(), t.records[t.order[0]].endAt
	wait := max(first-now, 0)
	wait += max(wait/256, int64(time.Millisecond)/64)
	if t.firesAt != 0 && t.firesAt <= now+wait {
		return
	}
	if t.timer == nil {
		t.firesAt = now + wait
		t.timer = p.clock.AfterFunc(time.Duration(wait), func() { t.fire(p) })
		return
	}
	if t.firesAt != 0 && !t.timer.Stop() {
		return // it fires just now, and will set itself anew
	}
	t.firesAt = now + wait
	t.timer.Reset(time.Duration(wait))
}

// fire ends the waits that are over.
func (t *timeWaits) fire(p *Protocol) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.firesAt = 0
	for now := p.now(); len(t.order) > 0 && t.records[t.order[0]].endAt <= now; {
		t.removeLocked(t.order[0])
	}
	t.scheduleLocked(p)
}

// end ends all waits for good.
func (t *timeWaits) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.at, t.records, t.free, t.order = nil, nil, nil, nil
	t.n.Store(0)
	if t.timer != nil {
		t.timer.Stop()
	}
}

// keys are those of all records.
func (t *timeWaits) keys() iter.Seq[flow.Key] {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]flow.Key, len(t.order))
	for n, i := range t.order {
		all[n] = t.records[i].key
	}
	return func(yield func(flow.Key) bool) {
		for _, k := range all {
			if !yield(k) {
				return
			}
		}
	}
}

// waited handles a segment to a connection of which there is a record only, and reports
// false where there is none. No lock must be held.
func (p *Protocol) waited(k *flow.Key, s *segment, a *arrival) bool {
	t := &p.waits
	if t.n.Load() == 0 {
		return false
	}
	t.mu.Lock()
	i, ok := t.at[*k]
	if !ok {
		t.mu.Unlock()
		return false
	}
	w, now := &t.records[i], p.now()
	reply := false
	switch w.judge(s, func() bool { return p.isCookie(s, &a.id) }) {
	case waitOver:
		a.beyond = w.last
		t.removeLocked(i)
		t.mu.Unlock()
		p.anew(s, a)
		return true
	case waitChallenge:
		reply = w.mayChallenge(s, now)
	case waitAnew:
		reply = true
		w.endAt = now + int64(p.options().timeWait)
		t.fixLocked(int(w.place))
	}
	told := *w
	t.mu.Unlock()
	p.stats.ValidSegmentsReceived.Increment()
	if reply {
		p.acknowledge(&told, a, now)
	}
	return true
}

// acknowledge answers for a record. No lock must be held.
func (p *Protocol) acknowledge(w *timeWait, a *arrival, now int64) {
	to, err := p.findDestination(p.routes.Load(), 0, a.id.LocalAddress, a.id.RemoteAddress, a.proto)
	if err != nil {
		return
	}
	defer to.route.Release()
	var b [header.TCPMinimumSize + timestampLen]byte
	n := header.TCPMinimumSize
	if w.tsOK {
		binary.BigEndian.PutUint32(b[n:], timestampOption)
		binary.BigEndian.PutUint32(b[n+4:], timestampAt(now, w.tsOffset))
		binary.BigEndian.PutUint32(b[n+8:], w.tsRecent)
		n += timestampLen
	}
	header.TCP(b[:]).Encode(&header.TCPFields{
		SrcPort: a.id.LocalPort, DstPort: a.id.RemotePort, SeqNum: w.sequence, AckNum: w.receiveNext,
		DataOffset: uint8(n), Flags: ack, WindowSize: w.window,
	})
	p.sendSlow(to.route, b[:n], nil, uint32(p.hash('h', &a.id, 0)))
}
