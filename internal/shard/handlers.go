package shard

import (
	"log/slog"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// logLongEvery is how often a shard tells of handlers that ran too long. What is
// not told is counted.
const logLongEvery = time.Second

// newRunQueue makes a poller's queue of handlers. wake ends the poller's sleep, limit
// is how long a handler may run before that is told of.
func newRunQueue(queue int, log *slog.Logger, wake func(), limit func() time.Duration) *transport.RunQueue {
	start := time.Now()
	long := longLog{log: log, queue: queue}
	return transport.NewRunQueue(transport.RunOptions{
		Clock: func() int64 { return int64(time.Since(start)) },
		Wake:  wake, OnLong: long.tell, Long: limit,
	})
}

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

// check tells, once, of a handler that has kept the poller since the call before.
// polls is how often the poller has looked at its queue, running the handler that it
// runs now, "" for none, and limit how long it may.
func (w *stuckWatch) check(log *slog.Logger, queue int, polls uint64, running string, limit time.Duration) {
	now := time.Now()
	if polls != w.polls || running == "" {
		*w = stuckWatch{polls: polls, since: now}
		return
	}
	if !w.told && now.Sub(w.since) >= limit {
		w.told = true
		log.Error("a handler does not return: no connection of its poller goes on", "queue", queue, "handler", running, "for", now.Sub(w.since))
	}
}
