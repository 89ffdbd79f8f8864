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

	// While measuring:
	series  Series
	counted uint64 // in the series, and before it
}

// The series of a run has steps of 100 ms, or a hundred of them if it is long.
const (
	leastStep = 100 * time.Millisecond
	mostSteps = 100
)

// begin starts the series.
func (t *ticker) begin() {
	t.series.Step = max(leastStep, (t.run.Duration / mostSteps).Round(leastStep))
	t.counted = t.run.answered()
}

// lookEvery is how often a run that ends by Config.Requests counts them. It reads a
// counter of each connection.
const lookEvery = 5 * time.Millisecond

// answered is how many requests were answered so far, in the warm-up, too.
func (r *run) answered() (n uint64) {
	for _, w := range r.workers {
		n += w.answered.Load()
	}
	return n
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
	var steps, look <-chan time.Time // look: at how many were answered
	if t.series.Step > 0 {
		every := time.NewTicker(t.series.Step)
		defer every.Stop()
		steps = every.C
	}
	var enough uint64
	if t.run.Requests > 0 && !warmup {
		often := time.NewTicker(lookEvery)
		defer often.Stop()
		look, enough = often.C, t.run.answered()+t.run.Requests
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-steps:
			if len(t.series.Requests) < 2*mostSteps { // else a run by number of requests that goes on and on
				n := t.run.answered()
				t.series.Requests = append(t.series.Requests, n-t.counted)
				t.counted = n
			}
		case <-look:
			if t.run.answered() >= enough {
				return true
			}
		case now := <-t.ticks.C:
			t.report(now, warmup)
		}
	}
}

func (t *ticker) report(now time.Time, warmup bool) {
	if t.run.Progress == nil {
		return
	}
	answered := t.run.answered()
	t.run.Progress(Progress{
		Warmup:  warmup,
		Elapsed: now.Sub(t.run.start),
		Total:   t.run.Warmup + t.run.Duration,
		Rate:    float64(answered-t.answered) / now.Sub(t.at).Seconds(),
		Errors:  t.run.failures.Load(),
	})
	t.answered, t.at = answered, now
}
