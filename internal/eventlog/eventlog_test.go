package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"
)

func TestKeepsTheLatest(t *testing.T) {
	var j Log
	// Passed on are errors only; kept is everything.
	var out strings.Builder
	log := slog.New(j.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	for i := range kept + 5 {
		log.Debug(fmt.Sprintf("message %d", i))
	}
	log.With("queue", 3).WithGroup("nic").Error("queue failed", "port", "eth0", slog.Group("at", "frame", 7))
	events := j.Events()
	if len(events) != kept {
		t.Fatalf("got %d events, want %d", len(events), kept)
	}
	if got, want := events[0].Message, "message 6"; got != want {
		t.Errorf("oldest: got %q, want %q", got, want)
	}
	last := events[kept-1]
	want := Event{Time: last.Time, Level: slog.LevelError, Message: "queue failed", Attrs: []Attr{{"queue", "3"}, {"nic.port", "eth0"}, {"nic.at.frame", "7"}}}
	if got := fmt.Sprint(last); got != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "queue=3 nic.port=eth0 nic.at.frame=7") {
		t.Errorf("passed on: got %q, want the error alone", got)
	}
}

func TestHoldsBackRepetitions(t *testing.T) {
	var j Log
	var out strings.Builder
	h := j.Handler(slog.NewTextHandler(&out, nil))
	start := time.Unix(1000, 0)
	log := func(after time.Duration, message string) {
		h.Handle(context.Background(), slog.NewRecord(start.Add(after), slog.LevelWarn, message, 0))
	}
	for range 100 {
		log(0, "ring full")
	}
	log(0, "another")
	if got, want := len(j.Events()), burst+1; got != want {
		t.Errorf("got %d events in one window, want %d", got, want)
	}
	log(window, "ring full")
	log(window, "ring full")
	events := j.Events()
	if got, want := len(events), burst+3; got != want {
		t.Fatalf("got %d events after the window, want %d", got, want)
	}
	if got, want := fmt.Sprint(events[burst+1].Attrs), "[{suppressed 90}]"; got != want {
		t.Errorf("first of the next window: got %s, want %s", got, want)
	}
	if len(events[burst+2].Attrs) != 0 {
		t.Errorf("second of the next window: got %v, want no attributes", events[burst+2].Attrs)
	}
	if got := strings.Count(out.String(), "suppressed=90"); got != 1 {
		t.Errorf("passed on %d times that 90 were suppressed, want once:\n%s", got, out.String())
	}
}

// TestHandler checks that the user's handler sees what slog promises.
func TestHandler(t *testing.T) {
	var out strings.Builder
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return new(Log).Handler(slog.NewTextHandler(&out, nil))
	}, func(*testing.T) map[string]any { return parse(out.String()) })
}

// parse reads a line of slog's text format without quoted values.
func parse(line string) map[string]any {
	top := make(map[string]any)
	for field := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(field, "=")
		m := top
		for {
			group, rest, ok := strings.Cut(key, ".")
			if !ok {
				break
			}
			inner, ok := m[group].(map[string]any)
			if !ok {
				inner = make(map[string]any)
				m[group] = inner
			}
			m, key = inner, rest
		}
		m[key] = value
	}
	return top
}
