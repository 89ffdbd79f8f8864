package tcp

import (
	"math/bits"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/prefetch"
)

// A wheel has the timers of a shard's connections that are not about to fire.
//
// With thousands of connections whose timers fire some times a second, the runtime
// would have a heap of as many timers that fits no cache, and start a goroutine for
// each that fires. Here they stand in lists by when they fire, in ticks, and one
// goroutine goes through the list that is due. They fire up to a tick late, so a few
// connections have timers of their own, which are exact.
//
// It is a wheel of two levels (Varghese and Lauck): near has the next 256 ticks, and
// far what comes later, in lists of 256 ticks each, which move to near when their time
// has come. What is later than far reaches stands in its last list and moves on.
type wheel struct {
	clock tcpip.Clock
	now   func() int64

	// mu guards the following fields, and Endpoint.entry. It is taken with
	// Endpoint.mu held.
	mu        sync.Mutex
	near, far level
	tick      int64 // all lists up to this tick are done
	size      int   // timers in all lists
	timer     tcpip.Timer
	armedFor  int64 // the tick at which timer fires, 0 while it is not set
}

const (
	tickShift = 22 // a tick is 2^22 ns, 4.2 ms
	slots     = 256
	farShift  = 8 // slots ticks are one of far
	// wheelLeast is how far away a timer must be to stand in a wheel, in nanoseconds.
	// What is nearer may not be late: the reordering window of RACK may be 0.1 ms.
	wheelLeast = 4 << tickShift
)

// A level is lists of endpoints.
type level struct {
	lists    [slots]*Endpoint
	occupied [slots / 64]uint64 // a bit for each list that is not empty
}

// wheelEntry is an endpoint's place in a wheel.
type wheelEntry struct {
	next, prev *Endpoint
	at         int64  // the tick at which it fires
	level      *level // nil: in none
	list       uint8
}

func (l *level) push(e *Endpoint, list uint8) {
	head := l.lists[list]
	s := &e.entry
	s.level, s.list, s.next, s.prev = l, list, head, nil
	if head != nil {
		head.entry.prev = e
	}
	l.lists[list] = e
	l.occupied[list/64] |= 1 << (list % 64)
}

func (l *level) remove(e *Endpoint) {
	s := &e.entry
	if s.next != nil {
		s.next.entry.prev = s.prev
	}
	if s.prev != nil {
		s.prev.entry.next = s.next
	} else if l.lists[s.list] = s.next; s.next == nil {
		l.occupied[s.list/64] &^= 1 << (s.list % 64)
	}
	s.level, s.next, s.prev = nil, nil, nil
}

// next is how far behind list from the next one is that is not empty, 1 to 256, or 0 if
// all are empty.
func (l *level) next(from int64) int64 {
	for n := int64(1); n <= slots; {
		i := (from + n) % slots
		if word := l.occupied[i/64] >> (i % 64); word != 0 {
			if n += int64(bits.TrailingZeros64(word)); n > slots {
				break
			}
			return n
		}
		n += 64 - i%64
	}
	return 0
}

// set has e.fire called at some time, in nanoseconds, and at no other that was set
// before. Endpoint.mu may be held.
func (w *wheel) set(e *Endpoint, at int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(e)
	if w.size == 0 {
		w.tick = max(w.tick, w.now()>>tickShift) // it stood still
	}
	e.entry.at = max(at>>tickShift, w.tick) + 1
	w.insertLocked(e)
	w.armLocked()
}

// remove has e.fire not called any more, unless that is about to happen just now.
// Endpoint.mu may be held.
func (w *wheel) remove(e *Endpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.removeLocked(e); w.size == 0 && w.armedFor != 0 {
		w.timer.Stop()
		w.armedFor = 0
	}
}

func (w *wheel) insertLocked(e *Endpoint) {
	w.size++
	at := e.entry.at
	if at-w.tick < slots {
		w.near.push(e, uint8(at%slots))
		return
	}
	w.far.push(e, uint8(min(at>>farShift, w.tick>>farShift+slots-1)%slots))
}

func (w *wheel) removeLocked(e *Endpoint) {
	if l := e.entry.level; l != nil {
		l.remove(e)
		w.size--
	}
}

// nextLocked is the next tick at which there is something to do, 0 if there is none.
func (w *wheel) nextLocked() (tick int64) {
	if n := w.near.next(w.tick); n > 0 {
		tick = w.tick + n
	}
	if n := w.far.next(w.tick >> farShift); n > 0 {
		if at := (w.tick>>farShift + n) << farShift; tick == 0 || at < tick {
			tick = at
		}
	}
	return tick
}

func (w *wheel) armLocked() {
	next := w.nextLocked()
	if next == 0 || w.armedFor != 0 && w.armedFor <= next {
		return
	}
	if w.armedFor != 0 && !w.timer.Stop() {
		return // it fires just now, and will set itself anew
	}
	w.armedFor = next
	wait := time.Duration(max(next<<tickShift-w.now(), 0))
	if w.timer == nil {
		w.timer = w.clock.AfterFunc(wait, w.turn)
	} else {
		w.timer.Reset(wait)
	}
}

// turnBatch is how many endpoints are taken out at once. What the first ones do has
// time to be fetched for the last.
const turnBatch = 32

// turn fires what is due. It runs in a goroutine of its own.
func (w *wheel) turn() {
	var batch [turnBatch]*Endpoint
	for more := true; more; {
		var n int
		w.mu.Lock()
		w.armedFor = 0
		n, more = w.dueLocked(batch[:])
		if !more {
			w.armLocked()
		}
		w.mu.Unlock()
		for _, e := range batch[:n] {
			prefetch.Start(e, hotPart)
		}
		for i, e := range batch[:n] {
			e.fire()
			batch[i] = nil
		}
	}
}

// dueLocked takes out endpoints that are due, and tells whether there may be more.
func (w *wheel) dueLocked(batch []*Endpoint) (n int, more bool) {
	now := w.now() >> tickShift
	for {
		for e := w.near.lists[w.tick%slots]; e != nil; e = w.near.lists[w.tick%slots] {
			if n == len(batch) {
				return n, true
			}
			w.removeLocked(e)
			batch[n] = e
			n++
		}
		next := w.nextLocked()
		if next == 0 || next > now {
			w.tick = max(w.tick, now)
			return n, false
		}
		w.tick = next
		if next%slots == 0 {
			w.bringNearLocked(uint8(next >> farShift % slots))
		}
	}
}

// bringNearLocked moves a list of far to near, as far as its time has come.
func (w *wheel) bringNearLocked(list uint8) {
	e := w.far.lists[list]
	w.far.lists[list] = nil
	w.far.occupied[list/64] &^= 1 << (list % 64)
	for e != nil {
		next := e.entry.next
		w.size--
		w.insertLocked(e)
		e = next
	}
}
