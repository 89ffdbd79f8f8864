package recorder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/gotpa/tpa/internal/transport"
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
	level := slog.LevelInfo
	if c.reason == ResetIn || c.reason == ResetOut {
		level = slog.LevelDebug // every day peers give up
	}
	r.log.Log(context.Background(), level, "connection in trouble, recording kept", "reason", c.reason, "id", id, "local", local, "remote", remote)
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
		if int(s.shard) == shard {
			if r := s.last((*row).received); r != nil {
				return r.time
			}
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

// received and sent are the segments of a row.
func (r *row) received() *segment { return &r.in }
func (r *row) sent() *segment     { return &r.out }

// last returns the latest row with such a segment, nil when there is none.
func (s *slot) last(which func(*row) *segment) *row {
	var last *row
	for i := range s.rows {
		r := &s.rows[i]
		if r.number != 0 && which(r).kind != 0 && (last == nil || int32(r.number-last.number) > 0) {
			last = r
		}
	}
	return last
}

// findStalls captures connections of which one end keeps its window shut.
func (r *Recorder) findStalls() {
	now := r.clock.Nanos()
	shut := func(s *slot, which func(*row) *segment) bool {
		r := s.last(which)
		if r == nil {
			return false
		}
		return which(r).window == 0 && which(r).flags&flagRST == 0 && now-r.time > int64(time.Second)
	}
	stalled := make(map[*Trace]Reason)
	r.mu.Lock()
	for t := range r.open {
		switch s := t.slot.Load(); {
		case shut(s, (*row).received):
			stalled[t] = Stall
		case shut(s, (*row).sent):
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
	closed := slices.Concat(r.closed, r.failed)
	r.mu.Unlock()
	for _, t := range closed {
		if state := t.noticeState(t.now(), 0, 0); state == transport.StateClosed || state == transport.StateError {
			t.endpoint.Store(nil)
		}
	}
}
