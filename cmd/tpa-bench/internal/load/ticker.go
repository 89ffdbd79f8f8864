package load

import (
	"context"
	"time"
)

// ticker lets time pass and reports progress meanwhile.
type ticker struct {
	run      *run
	ticks    *time.Ticker
	answered uint64
	at       time.Time
}

func newTicker(r *run) *ticker {
	return &ticker{run: r, ticks: time.NewTicker(time.Second), at: r.start}
}

func (t *ticker) stop() { t.ticks.Stop() }

// wait returns after d, or earlier and with false when ctx is done.
func (t *ticker) wait(ctx context.Context, d time.Duration, warmup bool) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case now := <-t.ticks.C:
			t.report(now, warmup)
		}
	}
}

func (t *ticker) report(now time.Time, warmup bool) {
	if t.run.Progress == nil {
		return
	}
	var answered uint64
	for _, w := range t.run.workers {
		answered += w.answered.Load()
	}
	t.run.Progress(Progress{
		Warmup:  warmup,
		Elapsed: now.Sub(t.run.start),
		Total:   t.run.Warmup + t.run.Duration,
		Rate:    float64(answered-t.answered) / now.Sub(t.at).Seconds(),
		Errors:  t.run.failures.Load(),
	})
	t.answered, t.at = answered, now
}
