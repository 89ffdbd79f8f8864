package shard

import (
	"log/slog"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// logLongEvery is how often a shard tells of handlers that ran too long. What is
// not told is counted.
const logLongEvery = time.Second

// newRunQueue makes the queue of handlers.
func (s *Shard) newRunQueue() *transport.RunQueue {
	start := time.Now()
	long := longLog{log: s.log, queue: s.index}
	return transport.NewRunQueue(transport.RunOptions{
		Clock: func() int64 { return int64(time.Since(start)) },
		Wake:  s.wake, OnLong: long.tell,
		Long: func() time.Duration { return s.polling.Load().LongHandler },
	})
}

// RunQueue implements transport.Stack.
func (s *Shard) RunQueue() *transport.RunQueue { return s.handlers }

// A longLog tells of handlers that ran too long. It is the poller's.
type longLog struct {
	log    *slog.Logger
	queue  int
	told   time.Time
	untold int
}

func (l *longLog) tell(name string, took time.Duration) {
	now := time.Now()
	if now.Sub(l.told) < logLongEvery {
		l.untold++
		return
	}
	l.log.Warn("a handler ran long and kept its poller from all other connections: use tpa's Detach for what waits or computes",
		"queue", l.queue, "handler", name, "took", took, "untold", l.untold)
	l.told, l.untold = now, 0
}

// A stuckWatch finds a handler that does not come back. It belongs to who calls
// CheckHandlers.
type stuckWatch struct {
	polls uint64
	since time.Time
	told  bool
}

// CheckHandlers tells, once, of a handler that has kept the poller since the call
// before. Somebody has to call it now and then.
func (s *Shard) CheckHandlers() {
	w, now := &s.stuck, time.Now()
	polls := s.counters.polls.Load()
	if polls != w.polls || s.parked.Load() || s.handlers.Running() == "" {
		*w = stuckWatch{polls: polls, since: now}
		return
	}
	if !w.told && now.Sub(w.since) >= s.polling.Load().LongHandler {
		w.told = true
		s.log.Error("a handler does not return: no connection of its poller goes on", "queue", s.index, "handler", s.handlers.Running(), "for", now.Sub(w.since))
	}
}
