package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
)

// progress is the live line: a bar on a terminal, a line a second elsewhere.
type progress struct {
	w     io.Writer
	bar   *progressbar.ProgressBar // nil: plain lines
	total time.Duration
	// label says what runs, base how much was done before it.
	label string
	base  time.Duration
}

// newProgress shows total on w, or nothing if quiet. total is 0 where the end is
// not known.
func newProgress(w io.Writer, total time.Duration, quiet bool) *progress {
	p := &progress{w: w, total: total}
	if quiet {
		p.w = io.Discard
		return p
	}
	if f, ok := w.(*os.File); ok && total > 0 && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(total.Milliseconds(),
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetWidth(24),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionUseANSICodes(true),
		)
	}
	return p
}

// next begins a part of the total.
func (p *progress) next(label string, base time.Duration) { p.label, p.base = label, base }

func (p *progress) update(l load.Progress) {
	what := p.label
	if l.Warmup {
		what += ", warming up"
	}
	text := fmt.Sprintf("%s: %.0f requests/s", what, l.Rate)
	if l.Errors > 0 {
		text += fmt.Sprintf(", %d errors", l.Errors)
	}
	if p.total == 0 {
		fmt.Fprintln(p.w, text)
		return
	}
	done := min(p.base+l.Elapsed, p.total)
	left := (p.total - done).Round(time.Second)
	if p.bar == nil {
		fmt.Fprintf(p.w, "%s, %v left\n", text, left)
		return
	}
	p.bar.Describe(fmt.Sprintf("%s, %v left", text, left))
	p.bar.Set64(done.Milliseconds())
}

func (p *progress) done() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
