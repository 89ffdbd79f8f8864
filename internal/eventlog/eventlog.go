// Package eventlog stands between a runtime's logger and its user's. It keeps the
// latest records in memory, where a status page shows them, and it holds back
// what repeats: a fault on the data path can log once per packet, and must not
// become a flood.
package eventlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// kept is the number of records that a log remembers.
	kept = 256
	// burst records with the same message pass in each window, the rest are
	// counted.
	burst  = 10
	window = 10 * time.Second
	// maxMessages bounds the messages that are told apart. Messages are constants
	// in the program, so that there are far fewer.
	maxMessages = 1024
)

// An Event is one record.
type Event struct {
	Time    time.Time  `json:"time"`
	Level   slog.Level `json:"level"`
	Message string     `json:"message"`
	// Attrs are the attributes in the order of the record, values as text.
	Attrs []Attr `json:"attrs,omitempty"`
}

// An Attr is an attribute of an Event.
type Attr struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// A Log remembers records. The zero value is empty. All methods may be
// called by any goroutine.
type Log struct {
	// level, if there is one, decides what is passed on, instead of the next handler.
	level atomic.Pointer[slog.Leveler]

	// mu guards the following fields.
	mu     sync.Mutex
	events []Event // a ring once it is full
	next   int
	limits map[string]*limit
}

// limit is what a message has used of its window.
type limit struct {
	start      time.Time
	passed     int
	suppressed uint64
}

// Events returns the records kept, oldest first.
func (j *Log) Events() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append(append([]Event(nil), j.events[j.next:]...), j.events[:j.next]...)
}

// SetLevel sets the least level of records that are passed on; nil leaves that to the
// handler that they are passed to. A handler that refuses a record when it gets it
// goes on to do so.
func (j *Log) SetLevel(l slog.Leveler) {
	if l == nil {
		j.level.Store(nil)
		return
	}
	j.level.Store(&l)
}

// Audit keeps a record and passes it on, however often it comes.
func (j *Log) Audit(next slog.Handler, level slog.Level, message string, attrs ...slog.Attr) {
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.AddAttrs(attrs...)
	_ = (&handler{log: j, next: next}).pass(context.Background(), r)
}

// Handler returns a handler that keeps each record, whatever its level, and
// passes those on that next wants. Of records with one message, burst pass in
// each window; the first of a later window then says, in the attribute
// suppressed, how many did not.
func (j *Log) Handler(next slog.Handler) slog.Handler {
	return &handler{log: j, next: next}
}

// admit tells whether a record passes, and how many before it did not.
func (j *Log) admit(message string, now time.Time) (suppressed uint64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.limits[message]
	if l == nil {
		if j.limits == nil || len(j.limits) >= maxMessages {
			j.limits = make(map[string]*limit)
		}
		l = &limit{start: now}
		j.limits[message] = l
	}
	if now.Sub(l.start) >= window {
		suppressed = l.suppressed
		*l = limit{start: now}
	}
	if l.passed == burst {
		l.suppressed++
		return 0, false
	}
	l.passed++
	return suppressed, true
}

func (j *Log) keep(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) < kept {
		j.events = append(j.events, e)
		return
	}
	j.events[j.next] = e
	j.next = (j.next + 1) % kept
}

type handler struct {
	log  *Log
	next slog.Handler
	// prefix and attrs come from WithGroup and WithAttrs.
	prefix string
	attrs  []Attr
}

// Enabled implements slog.Handler: the log wants everything.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	suppressed, ok := h.log.admit(r.Message, r.Time)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Uint64("suppressed", suppressed))
	}
	return h.pass(ctx, r)
}

// pass keeps a record and passes it on.
func (h *handler) pass(ctx context.Context, r slog.Record) error {
	e := Event{Time: r.Time, Level: r.Level, Message: r.Message, Attrs: h.attrs[:len(h.attrs):len(h.attrs)]}
	r.Attrs(func(a slog.Attr) bool {
		e.Attrs = appendAttr(e.Attrs, h.prefix, a)
		return true
	})
	h.log.keep(e)
	wanted := h.next.Enabled(ctx, r.Level)
	if l := h.log.level.Load(); l != nil {
		wanted = r.Level >= (*l).Level()
	}
	if !wanted {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func appendAttr(to []Attr, prefix string, a slog.Attr) []Attr {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		return append(to, Attr{prefix + a.Key, v.String()})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, inner := range v.Group() {
		to = appendAttr(to, prefix, inner)
	}
	return to
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	c.attrs = c.attrs[:len(c.attrs):len(c.attrs)]
	for _, a := range attrs {
		c.attrs = appendAttr(c.attrs, h.prefix, a)
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	if name != "" {
		c.prefix += name + "."
	}
	return &c
}
