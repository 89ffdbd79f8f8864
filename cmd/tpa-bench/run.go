package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

// loadFlags are the flags that run and compare share.
type loadFlags struct {
	workload string
	conns    int
	payload  int
	pipeline int
	rate     float64
	duration time.Duration
	warmup   time.Duration
	threads  int
	verify   bool
	quiet    bool
	output   output
}

func (l *loadFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.workload, "workload", "get", "what the connections do, see above")
	f.IntVar(&l.conns, "conns", 50, "`N` connections")
	f.IntVar(&l.payload, "payload", 0, "`BYTES` of a value or message (default: 64; 16384 for read, write and rw)")
	f.IntVar(&l.pipeline, "pipeline", 0, "`P` requests under way on each connection (default: 1; 16 for read and rw)")
	f.Float64Var(&l.rate, "rate", 0, "`R` requests per second over all connections, by a timetable: an open loop (default: a closed loop)")
	f.DurationVar(&l.duration, "duration", 5*time.Second, "how long to measure, `D` such as 10s")
	f.DurationVar(&l.warmup, "warmup", time.Second, "how long to run before")
	f.IntVar(&l.threads, "threads", 0, "`T` processors for the generator, GOMAXPROCS (default: those it may run on)")
	f.BoolVar(&l.verify, "verify", false, "compare every byte that comes back with what was sent")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "no live line")
}

// args returns the flags as arguments for a child.
func (l *loadFlags) args() []string {
	return []string{
		"--workload", l.workload,
		"--conns", fmt.Sprint(l.conns),
		"--payload", fmt.Sprint(l.payload),
		"--pipeline", fmt.Sprint(l.pipeline),
		"--rate", fmt.Sprint(l.rate),
		"--duration", l.duration.String(),
		"--warmup", l.warmup.String(),
		"--threads", fmt.Sprint(l.threads),
		fmt.Sprintf("--verify=%t", l.verify),
	}
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
	cfg := load.Config{
		Workload: w,
		Dial:     dial,
		Conns:    l.conns,
		Payload:  l.payload,
		Pipeline: l.pipeline,
		Rate:     l.rate,
		Warmup:   l.warmup,
		Duration: l.duration,
		Verify:   l.verify,
	}
	if err := cfg.Check(); err != nil {
		return load.Config{}, usageError{err}
	}
	return cfg, nil
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
	var name, addr string
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

` + workloadHelp(),
		Example: `  tpa-bench run --transport kernel --addr 127.0.0.1:6379 --workload get --conns 50
  tpa-bench run --transport kernel --addr 127.0.0.1:6379 --workload mixed --rate 20000
  tpa-bench run --transport accel --addr 10.0.0.2:7 --workload rr --payload 1 --conns 1 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := checkTransport(name); err != nil {
				return err
			}
			if err := l.output.check(); err != nil {
				return err
			}
			var tr transport.Transport
			cfg, err := l.config(func(ctx context.Context) (net.Conn, error) { return tr.Dial(ctx, addr) })
			if err != nil {
				return err
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
			cfg.Polls = tr.Polls()
			cfg.Counters = func() load.Counters { return load.Counters(tr.Counters()) }
			cfg.ServerPID = pid
			cfg.ServerCounters = pollersOf(cmd.Context(), pid)
			live := newProgress(cmd.ErrOrStderr(), cfg.Warmup+cfg.Duration, l.quiet)
			live.next(l.workload+" over "+name, 0)
			cfg.Progress = live.update
			if l.output.format == formatStream {
				enc := json.NewEncoder(cmd.OutOrStdout())
				cfg.Progress = func(p load.Progress) { enc.Encode(streamed{Progress: &p}) }
			}
			res, err := load.Run(cmd.Context(), cfg)
			live.done()
			if err != nil {
				return err
			}
			r := report.NewRun(name, res)
			if err := l.output.write(cmd.OutOrStdout(), &r); err != nil {
				return err
			}
			return r.Failed()
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "transport", transport.Kernel, "whose TCP: "+strings.Join(transport.Names, " or "))
	f.StringVar(&addr, "addr", "127.0.0.1:6379", "`ADDR` of the server")
	l.add(cmd)
	f.IntVar(&pid, "server-pid", 0, "`PID` of the server, if it runs here, to measure its processor time too")
	l.output.add(cmd, formatTable, formatJSON, formatBenchstat)
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
