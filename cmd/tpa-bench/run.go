package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/server"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

// loadFlags are the flags that run and compare share.
//
// The short ones are redis-benchmark's. Workloads, connections and rates may be
// several: a sweep, which settings takes apart.
type loadFlags struct {
	workloads   []string
	connections []int
	rates       []float64
	// One setting of the sweep.
	workload string
	conns    int
	rate     float64

	schedule schedule
	arrivals string
	payload  int
	pipeline int
	requests uint64
	duration time.Duration
	warmup   time.Duration
	threads  int
	handler  string
	verify   bool
	quiet    bool
	csv      bool
	slo      slo
	output   output
}

func (l *loadFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&l.workloads, "workload", "t", []string{"get"}, "what the connections do, see above; several for one after the other")
	f.IntSliceVarP(&l.connections, "conns", "c", []int{50}, "`N` connections, or a sweep: 1,8,64")
	f.Uint64VarP(&l.requests, "requests", "n", 0, "end when `N` requests are answered (default: after --duration)")
	f.IntVarP(&l.payload, "payload", "d", 0, "`BYTES` of a value or message (default: 64; 16384 for read, write and rw)")
	f.IntVarP(&l.pipeline, "pipeline", "P", 0, "`P` requests under way on each connection (default: 1; 16 for read and rw)")
	f.Float64SliceVar(&l.rates, "rate", []float64{0}, "`R` requests per second over all connections, by a timetable: an open loop; or several, one after the other (default 0: a closed loop)")
	f.Var(&l.schedule, "schedule", "rates that follow each other in one run, such as `10000:5s,40000:1s,10000:5s`; instead of --rate and --duration")
	f.StringVar(&l.arrivals, "arrivals", arrivalsEven, "how the requests of an open loop are spaced: even, or poisson for random times as of many users")
	f.DurationVar(&l.duration, "duration", 5*time.Second, "how long to measure, `D` such as 10s")
	f.DurationVar(&l.warmup, "warmup", time.Second, "how long to run before")
	f.IntVar(&l.threads, "threads", 0, "`T` processors for the generator, GOMAXPROCS (default: those it may run on)")
	f.StringVar(&l.handler, "handler", server.Handlers[0], "where accelerated connections are worked on: "+strings.Join(server.Handlers, ", ")+"")
	f.BoolVar(&l.verify, "verify", false, "compare every byte that comes back with what was sent; of write, a digest at the end")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "no live line")
	f.BoolVar(&l.csv, "csv", false, "the same as -o csv")
	f.Lookup("conns").DefValue, f.Lookup("rate").DefValue = "50", "[]" // as a user writes them: no rate is none
	f.Var(&l.slo, "slo", "what must hold, such as `p99<200us`,rps>100000: else the exit status is 3")
}

// settings takes a sweep apart: every workload with every number of connections at
// every rate.
func (l *loadFlags) settings(cmd *cobra.Command) (all []loadFlags) {
	if l.csv {
		l.output.format = formatCSV
	}
	if l.schedule.steps != nil {
		l.duration = l.schedule.length()
	}
	if l.requests > 0 && !cmd.Flags().Changed("duration") {
		l.duration = time.Hour
	}
	for _, workload := range l.workloads {
		for _, conns := range l.connections {
			for _, rate := range l.rates {
				one := *l
				one.workload, one.conns, one.rate = workload, conns, rate
				all = append(all, one)
			}
		}
	}
	return all
}

// length is how long a measurement takes with its warm-up, 0 if it ends by a number
// of requests.
func (l *loadFlags) length() time.Duration {
	if l.requests > 0 {
		return 0
	}
	return l.warmup + l.duration
}

// args returns the flags as arguments for a child.
func (l *loadFlags) args() []string {
	args := []string{
		"--workload", l.workload,
		"--conns", fmt.Sprint(l.conns),
		"--payload", fmt.Sprint(l.payload),
		"--pipeline", fmt.Sprint(l.pipeline),
		"--rate", fmt.Sprint(l.rate),
		"--requests", fmt.Sprint(l.requests),
		"--duration", l.duration.String(),
		"--warmup", l.warmup.String(),
		"--threads", fmt.Sprint(l.threads),
		"--arrivals", l.arrivals,
		"--handler", l.handler,
		fmt.Sprintf("--verify=%t", l.verify),
	}
	if l.schedule.steps != nil {
		args = append(args, "--schedule", l.schedule.text)
	}
	return args
}

// config returns the run that the flags describe; dial may be nil to check the
// flags only.
func (l *loadFlags) config(dial func(context.Context) (net.Conn, error)) (load.Config, error) {
	w, err := load.Find(l.workload)
	if err != nil {
		return load.Config{}, usageError{err}
	}
	if l.threads < 0 || l.threads > 1024 {
		return load.Config{}, usageError{fmt.Errorf("--threads %d: want 1 to 1024", l.threads)}
	}
	if l.arrivals != arrivalsEven && l.arrivals != arrivalsPoisson {
		return load.Config{}, usageError{fmt.Errorf("--arrivals %s: want %s or %s", l.arrivals, arrivalsEven, arrivalsPoisson)}
	}
	if !slices.Contains(server.Handlers, l.handler) {
		return load.Config{}, usageError{fmt.Errorf("--handler %s: want one of %s", l.handler, strings.Join(server.Handlers, ", "))}
	}
	cfg := load.Config{
		Handler:  load.Handler(slices.Index(server.Handlers, l.handler)),
		Workload: w,
		Dial:     dial,
		Conns:    l.conns,
		Payload:  l.payload,
		Pipeline: l.pipeline,
		Rate:     l.rate,
		Schedule: l.schedule.steps,
		Poisson:  l.arrivals == arrivalsPoisson,
		Requests: l.requests,
		Warmup:   l.warmup,
		Duration: l.duration,
		Verify:   l.verify,
	}
	if err := cfg.Check(); err != nil {
		return load.Config{}, usageError{err}
	}
	return cfg, nil
}

// commandLine is how this program was called, as a shell would take it.
func commandLine() string {
	words := []string{"tpa-bench"}
	for _, w := range os.Args[1:] {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`<>|&;*?()[]{}~#!") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// workloadHelp is the table of workloads.
func workloadHelp() string {
	var b strings.Builder
	b.WriteString("Workloads, and the protocol of serve that each needs:\n\n")
	for _, w := range load.Workloads {
		fmt.Fprintf(&b, "  %-6s %-8s %s\n", w.Name, w.Protocol, w.About)
	}
	return strings.TrimRight(b.String(), "\n")
}

func newRun() *cobra.Command {
	var l loadFlags
	var name, addr, pages string
	var pid int
	cmd := &cobra.Command{
		Use:   "run --transport kernel|accel --addr ADDR --workload NAME",
		Short: "Generate load and measure how it is answered",
		Long: `run opens connections to a server, warms up, measures, and prints what it saw.
Ctrl-C ends the measurement early and still prints.

A closed loop sends the next requests when the last are answered. With --rate the
loop is open: requests are due by a timetable, whatever the server does, and
latency counts from the time that a request was due, so that a server which
stalls shows every request that its stall delayed. A request answered by an error
counts as an error and not as a request.

In a closed loop, a late reply holds up requests that are then never sent, nor
counted. Beside what was measured stand percentiles corrected for that: as if
requests had been due at the rate that the loop reached.

Several workloads, connections or rates make a sweep, one run after the other.

` + workloadHelp(),
		Example: `  tpa-bench run --transport kernel --addr 127.0.0.1:6379 --workload get --conns 50
  tpa-bench run --transport kernel --addr 127.0.0.1:6379 --workload mixed --rate 20000
  tpa-bench run --addr 127.0.0.1:6379 -t get,set -c 1,8,64 -n 100000 --csv
  tpa-bench run --addr 127.0.0.1:6379 --rate 10000,20000,40000 --slo 'p99<1ms'
  tpa-bench run --addr 127.0.0.1:6379 --schedule 10000:5s,40000:1s,10000:5s --arrivals poisson
  tpa-bench run --transport accel --addr 10.0.0.2:7 --workload rr --payload 1 --conns 1 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkTransport(name); err != nil {
				return err
			}
			settings := l.settings(cmd)
			if err := l.output.check(); err != nil {
				return err
			}
			var tr transport.Transport
			var cfgs []load.Config
			for i := range settings {
				cfg, err := settings[i].config(func(ctx context.Context) (net.Conn, error) { return tr.Dial(ctx, addr) })
				if err != nil {
					return err
				}
				cfgs = append(cfgs, cfg)
			}
			if err := setDevice(cmd); err != nil {
				return err
			}
			if l.threads > 0 {
				runtime.GOMAXPROCS(l.threads)
			}
			if tr, err = transport.Open(name); err != nil {
				return err
			}
			defer closing(tr.Close, &err)
			if pages != "" {
				stop, err := servePages(tr, pages)
				if err != nil {
					return err
				}
				defer stop()
			}
			live := newProgress(cmd.ErrOrStderr(), time.Duration(len(cfgs))*l.length(), l.quiet)
			var all []results
			var failed error
			for i, cfg := range cfgs {
				cfg.Polls = tr.Polls()
				cfg.Counters = func() load.Counters { return load.Counters(tr.Counters()) }
				cfg.ServerPID = pid
				cfg.ServerCounters = pollersOf(cmd.Context(), pid)
				live.next(fmt.Sprintf("%s, %d connections over %s", cfg.Workload.Name, cfg.Conns, name), time.Duration(i)*l.length())
				cfg.Progress = live.update
				if l.output.format == formatStream {
					enc := json.NewEncoder(cmd.OutOrStdout())
					cfg.Progress = func(p load.Progress) { enc.Encode(streamed{Progress: &p}) }
				}
				res, err := load.Run(cmd.Context(), cfg)
				if err != nil && len(all) == 0 {
					return err
				}
				if err != nil {
					failed = cmp.Or(failed, err)
					break
				}
				r := report.NewRun(name, res)
				if l.output.format != formatStream {
					facts := machine.Read(transport.DPDKVersion())
					r.Command, r.Machine = commandLine(), &facts
				}
				all = append(all, &r)
				failed = cmp.Or(failed, r.Failed(), l.slo.check(&r))
				if res.Interrupted {
					break
				}
			}
			live.done()
			return cmp.Or(l.output.write(cmd.OutOrStdout(), all...), failed)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "transport", transport.Kernel, "whose TCP: "+strings.Join(transport.Names, " or "))
	f.StringVar(&addr, "addr", "127.0.0.1:6379", "`ADDR` of the server")
	l.add(cmd)
	f.IntVar(&pid, "server-pid", 0, "`PID` of the server, if it runs here, to measure its processor time too")
	f.StringVar(&pages, "http", "", "serve /metrics and /debug/tpa/ of the accelerated side by the kernel's TCP on `ADDR` meanwhile")
	l.output.add(cmd, formatTable, formatJSON, formatCSV, formatHDR, formatBenchstat)
	l.output.formats = append(l.output.formats, formatStream)
	addDeviceFlags(cmd)
	return cmd
}

// pollersOf returns what asks a server on accel, by its debug socket, for the time
// of its pollers: nil for a process that has none, or 0.
func pollersOf(ctx context.Context, pid int) func() load.Counters {
	if pid == 0 {
		return nil
	}
	c, base, err := (&target{pid: pid}).client()
	if err != nil {
		return nil // the kernel's server, or another program
	}
	return func() (sum load.Counters) {
		var s accel.Status
		body, err := get(ctx, c, base+"status.json")
		if err != nil || json.Unmarshal(body, &s) != nil {
			return load.Counters{}
		}
		for _, sh := range s.Shards {
			sum.Busy += sh.Poller.Busy
			sum.Idle += sh.Poller.Idle
		}
		return sum
	}
}

// streamed is a line of the output format stream, by which compare follows its
// client: any number of progress reports, then the run.
type streamed struct {
	Progress *load.Progress `json:"progress,omitempty"`
	Run      *report.Run    `json:"run,omitempty"`
}

// writeStream writes the last line of the format stream.
func writeStream(w io.Writer, r *report.Run) error {
	return json.NewEncoder(w).Encode(streamed{Run: r})
}
