package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

// Run is one measurement of one transport.
type Run struct {
	Transport string    `json:"transport"`
	Round     int       `json:"round,omitempty"` // of a comparison, from 1
	Started   time.Time `json:"started"`
	Command   string    `json:"command,omitempty"` // the command line
	Setting

	Seconds    float64 `json:"seconds"` // measured
	Requests   uint64  `json:"requests"`
	Unanswered uint64  `json:"unanswered,omitempty"`
	Unsent     uint64  `json:"unsent,omitempty"`
	Figures
	P90        float64 `json:"p90_us"`
	P9999      float64 `json:"p9999_us"`
	Mean       float64 `json:"mean_us"`
	Bytes      float64 `json:"payload_bytes_per_s"` // one way
	ClientBusy float64 `json:"client_busy"`         // processors in use, 1: one processor all the time
	ServerBusy float64 `json:"server_busy"`         // -1: not known
	// ClientSystem and ServerSystem are the parts of their processor time that the
	// kernel used, 0 to 1, -1: not known. Interrupts is the part of the processors'
	// whole time that interrupts took.
	ClientSystem float64 `json:"client_system"`
	ServerSystem float64 `json:"server_system"`
	Interrupts   float64 `json:"interrupts"`
	// ClientWork and ServerWork are the part of their pollers' time with frames to
	// handle, 0 to 1. -1: nothing polls, or it could not be asked.
	ClientWork float64 `json:"client_work"`
	ServerWork float64 `json:"server_work"`

	Retransmits uint64  `json:"retransmits"`  // segments sent again: by the client over accel, by anyone over the kernel
	Lost        uint64  `json:"lost_frames"`  // dropped on the client's side
	UsefulPolls float64 `json:"useful_polls"` // part of the client's polls that found frames; -1: it does not poll

	Stolen      float64  `json:"stolen"`      // part of the processors' time, 0 to 1
	Others      float64  `json:"others"`      // part that other processes used, 0 to 1
	Load        float64  `json:"load_before"` // load average
	LateP50     float64  `json:"pacer_late_p50_us,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`
	Problems    []string `json:"problems,omitempty"` // different errors
	Warnings    []string `json:"warnings,omitempty"`

	// Series, where a step of 100 ms has passed.
	Series *Series `json:"series,omitempty"`

	// Corrected, of a closed loop, are latencies with those that were left out.
	Corrected *Corrected `json:"corrected,omitempty"`

	// Machine is what a run without a comparison ran on.
	Machine *machine.Facts `json:"machine,omitempty"`

	// Histogram holds all latencies, in ns: HdrHistogram V2, compressed, base64.
	Histogram string `json:"histogram"`
}

// Corrected are latencies of a closed loop as if its requests had been due by a
// timetable, at the rate that it reached: while a reply is late, a closed loop does
// not ask, so that one late reply stands for many requests that were never sent
// ("coordinated omission"). A reply that took several times the mean time between
// two requests of a connection is counted once for each of these. In µs.
type Corrected struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// Setting is what was run.
type Setting struct {
	Workload string  `json:"workload"`
	Conns    int     `json:"conns"`
	Payload  int     `json:"payload"` // bytes
	Pipeline int     `json:"pipeline"`
	Rate     float64 `json:"rate,omitempty"` // requests per second; 0: closed loop, or a schedule
	// Schedule has the steps of a load that changes: requests per second and how long.
	Schedule string `json:"schedule,omitempty"`
	Poisson  bool   `json:"poisson,omitempty"` // at random times
}

// Open says whether requests were due by a timetable.
func (s Setting) Open() bool { return s.Rate > 0 || s.Schedule != "" }

// Series has requests/s over the time of a run, in equal steps.
type Series struct {
	Step float64   `json:"step_s"`
	RPS  []float64 `json:"rps"`
}

// Figures are the ones that comparisons are made of. Latencies are in µs.
type Figures struct {
	RPS       float64 `json:"rps"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	P999      float64 `json:"p999_us"`
	Max       float64 `json:"max_us"`
	ServerCPU float64 `json:"server_cpu_ns_per_req"` // -1: not known
	ClientCPU float64 `json:"client_cpu_ns_per_req"`
	Errors    float64 `json:"errors"`
}

// NewRun makes a Run from what a generator measured.
func NewRun(transport string, res *load.Result) Run {
	cfg, h := res.Config, res.Latency
	seconds := res.Elapsed.Seconds()
	r := Run{
		Transport: transport,
		Started:   res.Started.UTC().Round(time.Second),
		Setting: Setting{
			Workload: cfg.Workload.Name,
			Conns:    cfg.Conns,
			Payload:  cfg.Payload,
			Pipeline: cfg.Pipeline,
			Rate:     cfg.Rate,
			Schedule: steps(cfg.Schedule),
			Poisson:  cfg.Poisson,
		},
		Seconds:    seconds,
		Requests:   res.Requests,
		Unanswered: res.Unanswered,
		Unsent:     res.Unsent,
		Figures: Figures{
			RPS:       float64(res.Requests) / seconds,
			P50:       micros(h, 50),
			P99:       micros(h, 99),
			P999:      micros(h, 99.9),
			Max:       float64(h.Max()) / 1e3,
			ServerCPU: -1,
			ClientCPU: perRequest(res.ClientCPU, res.Requests),
			Errors:    float64(res.Errors),
		},
		P90:          micros(h, 90),
		P9999:        micros(h, 99.99),
		Mean:         h.Mean() / 1e3,
		Bytes:        float64(res.Requests) * float64(cfg.Payload) / seconds,
		ClientBusy:   res.ClientCPU.Seconds() / seconds,
		ServerBusy:   -1,
		ClientSystem: part(res.ClientSystem, res.ClientCPU),
		ServerSystem: part(res.ServerSystem, res.ServerCPU),
		Interrupts:   res.Interrupts,
		ClientWork:   res.Counters.Working(),
		ServerWork:   res.Server.Working(),
		Retransmits:  res.Counters.Retransmits,
		Lost:         res.Counters.Lost,
		UsefulPolls:  -1,
		Stolen:       res.Stolen,
		Others:       res.Others,
		Load:         res.Load,
		Interrupted:  res.Interrupted,
		Problems:     res.Problems,
	}
	if res.ServerCPU >= 0 {
		r.ServerCPU = perRequest(res.ServerCPU, res.Requests)
		r.ServerBusy = res.ServerCPU.Seconds() / seconds
	}
	if polls := res.Counters.Polls; polls > 0 {
		r.UsefulPolls = 1 - float64(res.Counters.Empty)/float64(polls)
	}
	if res.Late != nil {
		r.LateP50 = micros(res.Late, 50)
	}
	if !r.Open() && r.RPS > 0 {
		r.Corrected = correct(h, float64(cfg.Conns*cfg.Pipeline)/r.RPS*1e9)
	}
	if len(res.Series.Requests) > 0 {
		r.Series = &Series{Step: res.Series.Step.Seconds()}
		for _, n := range res.Series.Requests {
			r.Series.RPS = append(r.Series.RPS, float64(n)/r.Series.Step)
		}
	}
	if b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
		r.Histogram = string(b)
	}
	r.Warnings = r.warnings(res)
	return r
}

// correct counts what a closed loop left out. interval is the mean time between
// two requests of a connection, in ns.
func correct(h *hdrhistogram.Histogram, interval float64) *Corrected {
	sum := hdrhistogram.New(h.LowestTrackableValue(), h.HighestTrackableValue(), int(h.SignificantFigures()))
	step := max(int64(interval), 1)
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		for v := bar.To; ; v -= step {
			sum.RecordValues(v, bar.Count)
			if v < 2*step {
				break
			}
		}
	}
	return &Corrected{P50: micros(sum, 50), P99: micros(sum, 99), P999: micros(sum, 99.9)}
}

// steps writes a schedule as flags have it.
func steps(schedule []load.Step) string {
	var all []string
	for _, s := range schedule {
		all = append(all, fmt.Sprintf("%g:%v", s.Rate, s.For))
	}
	return strings.Join(all, ",")
}

// part is a share of a whole, -1 if either is not known.
func part(share, whole time.Duration) float64 {
	if share < 0 || whole <= 0 {
		return -1
	}
	return min(float64(share)/float64(whole), 1)
}

func micros(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtPercentile(percentile)) / 1e3
}

func perRequest(d time.Duration, requests uint64) float64 {
	if requests == 0 {
		return 0
	}
	return float64(d) / float64(requests)
}

// Limits beyond which a run is called what it is.
const (
	maxStolen  = 0.01 // part of processor time
	maxOthers  = 0.05 // part of processor time
	minOffered = 0.99 // part of an open loop's rate
	fullyBusy  = 0.97 // part of a side's processors
	hasSlack   = 0.90 // part of a side's processors
)

// warnings says what a reader must know before believing the figures.
func (r *Run) warnings(res *load.Result) (list []string) {
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if r.Rate > 0 && r.RPS < minOffered*r.Rate && !r.Interrupted {
		if r.saturated(res) {
			warn("the generator is saturated: it reached %s of %s requests/s with nothing of its %s to spare", grouped(r.RPS), grouped(r.Rate), count(res.ClientCores, "processor"))
		} else {
			warn("only %s of %s requests/s were answered: the latencies are those of a queue that grows", grouped(r.RPS), grouped(r.Rate))
		}
	}
	if use := r.serverUse(res); !r.Open() && r.saturated(res) && use >= 0 && use < hasSlack {
		warn("the generator is the limit: it had nothing of its %s to spare, the server used %.0f%% of its %d", count(res.ClientCores, "processor"), 100*use, res.ServerCores)
	}
	if r.Retransmits > r.Requests/1000 {
		warn("%s sent again, so many were lost or late", count(int(r.Retransmits), "segment"))
	}
	if r.Lost > 0 {
		warn("the client's side lost %s", count(int(r.Lost), "frame"))
	}
	if r.LateP50 > 0.2*r.P50 && r.LateP50 > 1 {
		warn("the generator woke %.0f µs late at the median: that much of the latency is its own", r.LateP50)
	}
	if r.Unanswered > 0 {
		warn("%d requests were not answered within 2 s of the end", r.Unanswered)
	}
	if r.Stolen > maxStolen {
		warn("noisy: the hypervisor took %.1f%% of the processors' time", 100*r.Stolen)
	}
	if r.Others > maxOthers {
		warn("noisy: other processes used %.1f%% of the processors' time", 100*r.Others)
	}
	if r.Requests > 0 && r.Requests < 1000 {
		warn("only %d requests: too few for a p99.9", r.Requests)
	}
	return list
}

// serverUse is the part of its processors that the server had work for, -1 if that
// is not known. One that polls uses all of them in any case.
func (r *Run) serverUse(res *load.Result) float64 {
	switch {
	case r.ServerWork >= 0:
		return r.ServerWork
	case r.ServerBusy >= 0 && res.ServerCores > 0:
		return r.ServerBusy / float64(res.ServerCores)
	}
	return -1
}

// saturated says whether the generator was as busy as it can be. A transport that
// polls always uses its processors; there it is busy while it has frames to handle.
func (r *Run) saturated(res *load.Result) bool {
	if r.ClientWork >= 0 {
		return r.ClientWork >= hasSlack
	}
	return r.ClientBusy >= fullyBusy*float64(res.ClientCores)
}

// Failed says whether requests went wrong.
func (r *Run) Failed() error {
	switch {
	case r.Errors > 0 && len(r.Problems) > 0:
		return fmt.Errorf("%.0f errors, such as: %s", r.Errors, r.Problems[0])
	case r.Errors > 0:
		return fmt.Errorf("%.0f errors", r.Errors)
	case r.Unanswered > 0:
		return fmt.Errorf("%d requests were not answered", r.Unanswered)
	case r.Requests == 0:
		return fmt.Errorf("no request was answered")
	}
	return nil
}
