package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
)

// Values of --arrivals.
const (
	arrivalsEven    = "even"
	arrivalsPoisson = "poisson"
)

// schedule is a flag: rates that follow each other, each for some time.
type schedule struct {
	text  string
	steps []load.Step
}

func (s *schedule) String() string { return s.text }
func (s *schedule) Type() string   { return "STEPS" }

// Set takes steps apart: 10000:5s,40000:1s.
func (s *schedule) Set(text string) error {
	s.text, s.steps = text, nil
	for _, part := range strings.Split(text, ",") {
		rate, length, _ := strings.Cut(part, ":")
		r, err := strconv.ParseFloat(rate, 64)
		if err != nil || !(r > 0) {
			return fmt.Errorf("%q: want requests per second and a time, such as 10000:5s", part)
		}
		d, err := time.ParseDuration(length)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q: want requests per second and a time, such as 10000:5s", part)
		}
		s.steps = append(s.steps, load.Step{Rate: r, For: d})
	}
	return nil
}

// length of all steps.
func (s *schedule) length() (d time.Duration) {
	for _, step := range s.steps {
		d += step.For
	}
	return d
}
