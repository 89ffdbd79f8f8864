package load

import (
	"math/rand/v2"
	"time"
)

// timetable says when the requests of one connection of an open loop are due. Times
// are in ns since the run began.
type timetable struct {
	next int64 // when the next request is due

	steps   []step // those to come; the first is under way
	poisson *rand.Rand
}

// step has the mean time between two requests of a connection until its end. The end
// of the last step is never reached.
type step struct {
	interval float64
	end      float64
}

// newTimetable returns that of connection i. Evenly spaced requests of all
// connections are evenly spaced together, too.
func newTimetable(c *Config, i int) *timetable {
	interval := func(rate float64) float64 { return max(float64(c.Conns)/rate*float64(time.Second), 1) }
	t := &timetable{steps: []step{{interval: interval(c.Rate)}}}
	if len(c.Schedule) > 0 {
		t.steps = nil
		end := c.Warmup
		for _, s := range c.Schedule {
			end += s.For
			t.steps = append(t.steps, step{interval(s.Rate), float64(end)})
		}
	}
	if c.Poisson {
		t.poisson = rand.New(rand.NewPCG(uint64(i), uint64(c.Conns)))
		t.advance()
	} else {
		t.next = int64(t.steps[0].interval / float64(c.Conns) * float64(i))
	}
	return t
}

// advance goes on to the next request. The part of a gap that reaches into another
// step stretches or shrinks as its interval does.
func (t *timetable) advance() {
	gap := 1.0 // in intervals
	if t.poisson != nil {
		gap = t.poisson.ExpFloat64()
	}
	now := float64(t.next)
	for len(t.steps) > 1 {
		left := max(t.steps[0].end-now, 0) / t.steps[0].interval
		if gap < left {
			break
		}
		gap -= left
		now = max(t.steps[0].end, now)
		t.steps = t.steps[1:]
	}
	t.next = int64(now + max(gap*t.steps[0].interval, 1))
}
