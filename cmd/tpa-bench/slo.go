package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
)

// slo is a flag: bounds that a measurement must keep.
type slo struct {
	text   string
	bounds []bound
}

// bound is one of them: less, or else more, than a value.
type bound struct {
	text   string
	figure string
	less   bool
	value  float64 // µs for latencies
}

// sloFigures are what bounds may name, and whether it is a latency.
var sloFigures = map[string]bool{"p50": true, "p99": true, "p99.9": true, "max": true, "rps": false, "errors": false}

// sloError says which bounds were broken.
type sloError struct{ error }

func (e sloError) Unwrap() error { return e.error }

func (s *slo) String() string { return s.text }
func (s *slo) Type() string   { return "BOUNDS" }

// Set takes bounds apart: p99<200us,rps>100000.
func (s *slo) Set(text string) error {
	s.text, s.bounds = text, nil
	for _, part := range strings.Split(text, ",") {
		at := strings.IndexAny(part, "<>")
		if at < 0 {
			return fmt.Errorf("%q: want a figure, < or >, and a value, such as p99<200us", part)
		}
		b := bound{text: part, figure: strings.TrimSpace(part[:at]), less: part[at] == '<'}
		latency, known := sloFigures[b.figure]
		if !known {
			return fmt.Errorf("%q: want one of p50, p99, p99.9, max, rps, errors", b.figure)
		}
		value := strings.TrimSpace(part[at+1:])
		if latency {
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 {
				return fmt.Errorf("%q: want a time such as 200us or 1.5ms", value)
			}
			b.value = float64(d) / 1e3
		} else {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return fmt.Errorf("%q: want a number", value)
			}
			b.value = n
		}
		s.bounds = append(s.bounds, b)
	}
	return nil
}

// check returns what of the bounds a run broke.
func (s *slo) check(r *report.Run) error {
	return s.checkFigures(r.Title()+" over "+r.Transport, r.Figures)
}

// checkFigures does likewise. what names the measurement.
func (s *slo) checkFigures(what string, f report.Figures) error {
	figures := map[string]float64{"p50": f.P50, "p99": f.P99, "p99.9": f.P999, "max": f.Max, "rps": f.RPS, "errors": f.Errors}
	var broken []error
	for _, b := range s.bounds {
		got := figures[b.figure]
		if b.less && got < b.value || !b.less && got > b.value {
			continue
		}
		shown := strconv.FormatFloat(got, 'f', 0, 64)
		if sloFigures[b.figure] {
			shown = time.Duration(got * 1e3).String()
		}
		broken = append(broken, fmt.Errorf("%s is broken by %s: %s", b.text, what, shown))
	}
	if broken == nil {
		return nil
	}
	return sloError{errors.Join(broken...)}
}
