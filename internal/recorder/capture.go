package recorder

import (
	"fmt"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A capture is one that is due: trace got into trouble.
type capture struct {
	trace  *Trace
	reason Reason
	due    time.Time
}

// capture takes captures when they are due.
func (r *Recorder) capture() {
	defer close(r.done)
	sweep := time.NewTicker(time.Second)
	defer sweep.Stop()
	for {
		select {
		case c := <-r.captures:
			select {
			case <-time.After(time.Until(c.due)):
			case <-r.stop:
				return
			}
			r.take(c)
		case <-sweep.C:
			r.findStalls()
			r.findStates()
		case <-r.stop:
			return
		}
	}
}

// take copies a slot to the archive.
func (r *Recorder) take(c capture) {
	r.mu.Lock()
	s := c.trace.slot.Load()
	if s == nil { // its slot has gone to another connection
		r.mu.Unlock()
		return
	}
	r.keep(s, c.reason)
	local, remote := s.addrs()
	id := s.id
	r.mu.Unlock()
	r.log.Info("connection in trouble, recording kept", "reason", c.reason, "id", id, "local", local, "remote", remote)
}

// keep puts a slot into the archive.
func (r *Recorder) keep(s *slot, why Reason) {
	to := &r.store[r.stored%archived]
	r.stored++
	*to = *s
	to.reason, to.taken = why, r.clock.Nanos()
	r.taken.Add(1)
}

// Panicked notes in the file that a poller panicked, and keeps the connections of
// its shard that were in its last burst. It is for a program that is about to die:
// it takes no time and no lock that could be held.
func (r *Recorder) Panicked(shard int, value any) {
	h := r.header
	h.panicShard = uint32(shard)
	copy(h.panicText[:], fmt.Sprint(value))
	h.panicked = r.clock.Nanos()
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	latest := func(s *slot) int64 {
		if n := s.pos[laneIn]; n > 0 && int(s.shard) == shard {
			return s.records[(n-1)%laneRecords][laneIn].time
		}
		return 0
	}
	var burst int64
	for t := range r.open {
		burst = max(burst, latest(t.slot.Load()))
	}
	kept := 0
	for t := range r.open {
		if s := t.slot.Load(); burst > 0 && latest(s) == burst && kept < archived {
			r.keep(s, Panic)
			kept++
		}
	}
}

// findStalls captures connections of which one end keeps its window shut.
func (r *Recorder) findStalls() {
	now := r.clock.Nanos()
	shut := func(s *slot, lane int) bool {
		n := s.pos[lane]
		if n == 0 {
			return false
		}
		last := &s.records[(n-1)%laneRecords][lane]
		return uint16(last.rest>>32) == 0 && uint8(last.rest>>48)&flagRST == 0 && now-last.time > int64(time.Second)
	}
	stalled := make(map[*Trace]Reason)
	r.mu.Lock()
	for t := range r.open {
		switch s := t.slot.Load(); {
		case shut(s, laneIn):
			stalled[t] = Stall
		case shut(s, laneOut):
			stalled[t] = Unread
		}
	}
	r.mu.Unlock()
	for t, why := range stalled {
		t.trouble(why)
	}
}

// findStates notices the states of connections that the program closed, and lets
// go of those that have ended.
func (r *Recorder) findStates() {
	r.mu.Lock()
	closed := slices.Clone(r.closed)
	r.mu.Unlock()
	for _, t := range closed {
		if state := t.noticeState(t.clock.Nanos()); state == tcp.StateClose || state == tcp.StateError {
			t.endpoint.Store(nil)
		}
	}
}
