package report

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

// Comparison is what compare measured.
type Comparison struct {
	Setting
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"` // of a measurement
	Queues  int     `json:"queues"`
	// Link is what lay between server and client, Client the client's transport in
	// the rounds of accel. Empty in results of old: memif and accel.
	Link   string `json:"link,omitempty"`
	Client string `json:"client,omitempty"`
	// MTU of the link, in bytes; 0: the usual one, 1500.
	MTU int `json:"mtu,omitempty"`
	// Command is the command line; ServerCPUs and ClientCPUs are the processors of
	// each side. Empty where they are not known.
	Command    string `json:"command,omitempty"`
	ServerCPUs []int  `json:"server_cpus,omitempty"`
	ClientCPUs []int  `json:"client_cpus,omitempty"`

	// Transports has the medians over the rounds; errors are summed.
	Transports map[string]Figures `json:"transports"`
	// Ratio is accel to kernel, if both were run.
	Ratio *Ratio `json:"ratio,omitempty"`
	// RedisRatio is accel to a redis-server on the kernel, if both were run.
	RedisRatio *Ratio        `json:"ratio_redis,omitempty"`
	Runs       []Run         `json:"runs"`
	Machine    machine.Facts `json:"machine"`
	Stolen     float64       `json:"stolen"` // greatest of any run
	Warnings   []string      `json:"warnings,omitempty"`
}

// Ratio compares accel with another column: the ratios of the medians, and the least and
// greatest ratio of any round.
type Ratio struct {
	RPS    float64 `json:"rps"`
	RPSMin float64 `json:"rps_min"`
	RPSMax float64 `json:"rps_max"`
	P99    float64 `json:"p99"`
	P99Min float64 `json:"p99_min"`
	P99Max float64 `json:"p99_max"`
	// RPSChance and P99Chance are how likely rounds lie at least that far apart where
	// there is no difference (Mann-Whitney, both sides).
	RPSChance float64 `json:"rps_chance"`
	P99Chance float64 `json:"p99_chance"`
}

// maxSpread is how far the rounds of a transport may lie apart, as a part of
// their median, before the comparison is called noisy.
const maxSpread = 0.15

// shortRound is a round, in seconds, that is too short to be believed alone.
const shortRound = 1

// Started is when the first run began.
func (c *Comparison) Started() time.Time { return c.Runs[0].Started }

// NewComparison makes a Comparison from runs of one setting, which must not be
// empty.
func NewComparison(runs []Run, queues int, facts machine.Facts) *Comparison {
	c := &Comparison{
		Setting:    runs[0].Setting,
		Seconds:    runs[0].Seconds,
		Queues:     queues,
		Transports: make(map[string]Figures),
		Runs:       runs,
		Machine:    facts,
	}
	for _, r := range runs {
		c.Rounds = max(c.Rounds, r.Round)
		c.Seconds = max(c.Seconds, r.Seconds)
		c.Stolen = max(c.Stolen, r.Stolen)
	}
	c.Command = runs[0].Command
	if c.Rounds < 2 {
		c.Warnings = append(c.Warnings, fmt.Sprintf("one round of %.3g s: nothing here tells chance from a difference; several rounds do", c.Seconds))
	} else if c.Seconds < shortRound {
		c.Warnings = append(c.Warnings, fmt.Sprintf("rounds of %.3g s are short: the beginning of each weighs much", c.Seconds))
	}
	for _, name := range c.Names() {
		of := c.of(name)
		c.Transports[name] = medians(of)
		if least, most := extent(of, func(r Run) float64 { return r.RPS }); len(of) > 1 && most-least > maxSpread*c.Transports[name].RPS {
			c.Warnings = append(c.Warnings, fmt.Sprintf("noisy: the rounds of %s lie between %s and %s requests/s", name, grouped(least), grouped(most)))
		}
		for _, r := range of {
			for _, w := range r.Warnings {
				c.Warnings = append(c.Warnings, fmt.Sprintf("%s, round %d: %s", name, r.Round, w))
			}
		}
	}
	c.Ratio, c.RedisRatio = c.ratio("kernel"), c.ratio("redis")
	if c.Ratio != nil {
		if note := difference("requests/s", c.Ratio.RPSChance, len(c.of("kernel")), len(c.of("accel"))); note != "" {
			c.Warnings = append(c.Warnings, note)
		}
		if note := difference("p99", c.Ratio.P99Chance, len(c.of("kernel")), len(c.of("accel"))); note != "" {
			c.Warnings = append(c.Warnings, note)
		}
	}
	return c
}

// Names lists the transports in the order in which they first ran.
func (c *Comparison) Names() (names []string) {
	for _, r := range c.Runs {
		if !slices.Contains(names, r.Transport) {
			names = append(names, r.Transport)
		}
	}
	return names
}

// Failed returns why the first run that went wrong did.
func (c *Comparison) Failed() error {
	for i := range c.Runs {
		if err := c.Runs[i].Failed(); err != nil {
			return fmt.Errorf("%s, round %d: %w", c.Runs[i].Transport, c.Runs[i].Round, err)
		}
	}
	return nil
}

func (c *Comparison) of(transport string) (runs []Run) {
	for _, r := range c.Runs {
		if r.Transport == transport {
			runs = append(runs, r)
		}
	}
	return runs
}

// histogram merges the latencies of all rounds of a transport.
func (c *Comparison) histogram(transport string) (*hdrhistogram.Histogram, error) {
	var sum *hdrhistogram.Histogram
	for _, r := range c.of(transport) {
		h, err := hdrhistogram.Decode([]byte(r.Histogram))
		if err != nil {
			return nil, fmt.Errorf("the histogram of %s, round %d: %w", transport, r.Round, err)
		}
		if sum == nil {
			sum = h
		} else {
			sum.Merge(h)
		}
	}
	return sum, nil
}

// ratio compares accel with base.
func (c *Comparison) ratio(base string) *Ratio {
	others, accel := c.of(base), c.of("accel")
	if len(others) == 0 || len(accel) == 0 {
		return nil
	}
	k, a := c.Transports[base], c.Transports["accel"]
	r := &Ratio{RPS: quotient(a.RPS, k.RPS), P99: quotient(a.P99, k.P99)}
	r.RPSMin, r.P99Min = math.MaxFloat64, math.MaxFloat64
	for _, a := range accel {
		for _, k := range others {
			if a.Round == k.Round {
				rps, p99 := quotient(a.RPS, k.RPS), quotient(a.P99, k.P99)
				r.RPSMin, r.RPSMax = min(r.RPSMin, rps), max(r.RPSMax, rps)
				r.P99Min, r.P99Max = min(r.P99Min, p99), max(r.P99Max, p99)
			}
		}
	}
	rps, p99 := func(r Run) float64 { return r.RPS }, func(r Run) float64 { return r.P99 }
	r.RPSChance = chance(values(accel, rps), values(others, rps))
	r.P99Chance = chance(values(accel, p99), values(others, p99))
	if r.RPSMax == 0 { // no round has both
		r.RPSMin, r.RPSMax, r.P99Min, r.P99Max = r.RPS, r.RPS, r.P99, r.P99
	}
	return r
}

// medians takes each figure by itself; errors are summed, for an error must not
// vanish in a median.
func medians(runs []Run) Figures {
	of := func(figure func(Figures) float64) float64 {
		return medianOf(runs, func(r Run) float64 { return figure(r.Figures) })
	}
	f := Figures{
		RPS:       of(func(f Figures) float64 { return f.RPS }),
		P50:       of(func(f Figures) float64 { return f.P50 }),
		P99:       of(func(f Figures) float64 { return f.P99 }),
		P999:      of(func(f Figures) float64 { return f.P999 }),
		Max:       of(func(f Figures) float64 { return f.Max }),
		ServerCPU: of(func(f Figures) float64 { return f.ServerCPU }),
		ClientCPU: of(func(f Figures) float64 { return f.ClientCPU }),
	}
	for _, r := range runs {
		f.Errors += r.Errors
	}
	return f
}

func medianOf(runs []Run, figure func(Run) float64) float64 { return median(values(runs, figure)) }

func values(runs []Run, figure func(Run) float64) []float64 {
	all := make([]float64, len(runs))
	for i, r := range runs {
		all[i] = figure(r)
	}
	return all
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func extent(runs []Run, figure func(Run) float64) (least, most float64) {
	least, most = math.MaxFloat64, 0
	for _, r := range runs {
		least, most = min(least, figure(r)), max(most, figure(r))
	}
	return least, most
}

func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
