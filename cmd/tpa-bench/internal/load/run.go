package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

const (
	// grace is how long requests under way may take after the end.
	grace = 2 * time.Second
	// dialsAtOnce is how many connections are opened at the same time.
	dialsAtOnce = 64
	// connectTimeout is how long the first connections may take to become usable.
	connectTimeout = 10 * time.Second
	// maxProblems is how many different errors are kept.
	maxProblems = 5
)

// Result is what a run measured.
type Result struct {
	Config      Config        // with all defaults set
	Started     time.Time     // of the measurement
	Elapsed     time.Duration // of the measurement
	Interrupted bool          // ctx ended it early

	Requests   uint64   // answered while measuring
	Errors     uint64   // in the whole run
	Problems   []string // the first few different errors
	Unanswered uint64   // under way at the end, and not answered within 2 s
	Unsent     uint64   // open loop: due while measuring, never sent

	// Series has the requests of the measurement by time: how many were answered in
	// each of its steps.
	Series Series

	Latency *hdrhistogram.Histogram // ns
	Late    *hdrhistogram.Histogram // open loop: how late the pacer woke, ns

	Counters Counters // of the client's side, while measuring
	Server   Counters // of the server's pollers, if they could be asked

	ClientCPU time.Duration // processor time while measuring
	ServerCPU time.Duration // -1: not known
	// ClientSystem and ServerSystem are the parts of it that the kernel used, to
	// within 10 ms; -1: not known.
	ClientSystem, ServerSystem time.Duration
	// Interrupts is the part of the processors' time that interrupts and soft
	// interrupts took, 0 to 1, as far as the kernel counts it apart.
	Interrupts float64
	// ClientCores and ServerCores are how many processors each side may use.
	ClientCores, ServerCores int
	// Watched are the processors of both.
	Watched []int
	// Stolen is the part of their time that the hypervisor took, 0 to 1; Others
	// the part that other processes used.
	Stolen, Others float64
	Load           float64 // load average before the run
}

// Series counts requests in equal steps of time.
type Series struct {
	Step     time.Duration
	Requests []uint64
}

// run is a run under way.
type run struct {
	Config
	ctx   context.Context // of dials: ends with the grace
	start time.Time

	// from and to bound the measurement, in ns since start. They are the greatest
	// number until they are known. Written by Run only.
	from, to atomic.Int64

	workers []*worker
	// latency and late have what the workers' samplers hand on.
	latency, late []collector

	mu sync.Mutex
	// mu guards the following fields
	problems []string

	failures atomic.Uint64
}

func (r *run) now() int64 { return int64(time.Since(r.start)) }
func (r *run) over() bool { return r.to.Load() != math.MaxInt64 }

// failed notes an error for the report.
func (r *run) failed(n uint64, err error) {
	r.failures.Add(n)
	text := problem(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.problems) < maxProblems && !slices.Contains(r.problems, text) {
		r.problems = append(r.problems, text)
	}
}

// problem words an error without the addresses of its connection, so that equal
// errors of different connections are equal.
func problem(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// Run connects, warms up and measures. When ctx is done it stops early and
// returns what there is. The error says why nothing could be measured.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	load := machine.LoadAverage()
	dialCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r := newRun(dialCtx, cfg)
	defer func() {
		for _, w := range r.workers {
			w.hangUp()
			w.pacer.close()
		}
	}()
	if err := r.connect(ctx); err != nil {
		return nil, err
	}

	r.start = time.Now()
	var working sync.WaitGroup
	for _, w := range r.workers {
		switch cfg.Handler {
		case Goroutine:
			working.Go(w.work)
		case Callback:
			working.Go(func() {
				if w.workByCallbacks() != nil {
					w.hangUp()
				}
				w.work() // what is left
			})
		case Coroutine:
			working.Add(1)
			accel.Go(w.conn, func(net.Conn) {
				defer working.Done()
				w.work()
			})
		}
	}
	live := newTicker(r)
	defer live.stop()
	interrupted := !live.wait(ctx, cfg.Warmup, true)
	res := &Result{Config: cfg, Load: load, Started: time.Now()}
	if !interrupted {
		before := r.sample()
		r.from.Store(r.now())
		live.begin()
		interrupted = !live.wait(ctx, cfg.Duration, false)
		r.to.Store(r.now())
		res.Elapsed = time.Duration(r.to.Load() - r.from.Load())
		res.Series = live.series
		r.since(before, r.sample(), res)
	} else {
		r.to.Store(r.now())
	}
	res.Interrupted = interrupted

	deadline := time.Now().Add(grace)
	for _, w := range r.workers {
		w.expire(deadline)
	}
	stopDials := time.AfterFunc(grace, cancel)
	working.Wait()
	stopDials.Stop()
	if res.Elapsed == 0 {
		return nil, errors.New("interrupted before the first measurement")
	}
	r.collect(res)
	return res, nil
}

// newRun returns a run that has no workers yet. Dials end with ctx.
func newRun(ctx context.Context, cfg Config) *run {
	r := &run{Config: cfg, ctx: ctx, start: time.Now(), latency: newCollectors(), late: newCollectors()}
	r.from.Store(math.MaxInt64)
	r.to.Store(math.MaxInt64)
	return r
}

// connect makes the workers and their connections.
func (r *run) connect(ctx context.Context) error {
	for i := range r.Conns {
		w, err := newWorker(r, i)
		if err != nil {
			return err
		}
		r.workers = append(r.workers, w)
	}
	first := make(chan error, r.Conns)
	tokens := make(chan struct{}, dialsAtOnce)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var dialling sync.WaitGroup
	for _, w := range r.workers {
		tokens <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		dialling.Go(func() {
			defer func() { <-tokens }()
			err := w.dialFirst(ctx)
			if err == nil {
				w.expire(time.Now().Add(connectTimeout))
				err = w.prepare()
				w.expire(time.Time{})
			}
			if err != nil {
				cancel()
				first <- err
			}
			if r.Workload.fresh {
				w.hangUp()
			}
		})
	}
	dialling.Wait()
	select {
	case err := <-first:
		return fmt.Errorf("connect: %w", err)
	default:
	}
	return ctx.Err()
}

// dialFirst dials, and dials again while the way to the server is not there yet,
// as when a link has just come up.
func (w *worker) dialFirst(ctx context.Context) error {
	start, pause := time.Now(), firstPause
	for {
		err := w.dial(ctx)
		noWay := errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, os.ErrDeadlineExceeded)
		if !noWay || time.Since(start) > connectTimeout {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

func newWorker(r *run, i int) (*worker, error) {
	w := &worker{
		run:   r,
		index: i,
		depth: r.Pipeline,
		pacer: goPacer{},
		in:    make([]byte, firstBuffer),
	}
	w.latency.to, w.late.to = &r.latency[i%len(r.latency)], &r.late[i%len(r.late)]
	if r.duplex() {
		w.depth = 1
	}
	w.batch = make([]request, 0, w.depth)
	if r.Workload.Protocol == "resp" {
		w.codec = newRedisCodec(&r.Config, i)
	} else {
		w.codec = newStreamCodec(&r.Config, i)
	}
	if r.open() {
		w.timetable = newTimetable(&r.Config, i)
		if !r.Polls {
			p, err := newKernelPacer()
			if err != nil {
				return nil, err
			}
			w.pacer = p
		}
	}
	return w, nil
}

// sample is a reading of clocks.
type sample struct {
	client, server time.Duration
	// Of these, in the kernel; -1: not known.
	clientSystem, serverSystem time.Duration
	watched                    []int
	cpus                       machine.Times
	counters                   Counters
	pollers                    Counters // of the server
}

func (r *run) sample() (s sample) {
	s.client, _ = machine.ProcessTime(0)
	s.server = -1
	s.clientSystem, s.serverSystem = systemTime(0), -1
	s.watched = machine.CPUs(0)
	if r.ServerPID != 0 {
		if d, err := machine.ProcessTime(r.ServerPID); err == nil {
			s.server = d
			s.serverSystem = systemTime(r.ServerPID)
		}
		s.watched = append(s.watched, machine.CPUs(r.ServerPID)...)
		slices.Sort(s.watched)
		s.watched = slices.Compact(s.watched)
	}
	s.cpus, _ = machine.CPUTimes(s.watched)
	if r.Counters != nil {
		s.counters = r.Counters()
	}
	if r.ServerCounters != nil {
		s.pollers = r.ServerCounters()
	}
	return s
}

func systemTime(pid int) time.Duration {
	_, system, err := machine.ModeTimes(pid)
	if err != nil {
		return -1
	}
	return system
}

// since writes the differences between two samples into res.
func (r *run) since(before, s sample, res *Result) {
	res.Counters = s.counters.Sub(before.counters)
	res.Server = s.pollers.Sub(before.pollers)
	res.ClientCPU = s.client - before.client
	res.ServerCPU = -1
	res.ClientSystem, res.ServerSystem = -1, -1
	if s.clientSystem >= 0 && before.clientSystem >= 0 {
		res.ClientSystem = s.clientSystem - before.clientSystem
	}
	if s.serverSystem >= 0 && before.serverSystem >= 0 {
		res.ServerSystem = s.serverSystem - before.serverSystem
	}
	ours := res.ClientCPU
	if s.server >= 0 && before.server >= 0 {
		res.ServerCPU = s.server - before.server
		ours += res.ServerCPU
	}
	res.ClientCores = len(machine.CPUs(0))
	res.ServerCores = len(machine.CPUs(r.ServerPID))
	res.Watched = s.watched
	times := s.cpus.Sub(before.cpus)
	if times.Total <= 0 {
		return
	}
	res.Interrupts = float64(times.Interrupts) / float64(times.Total)
	res.Stolen = float64(times.Stolen) / float64(times.Total)
	// Interrupts count as ours: most are, and some kernels charge them to the
	// process that they interrupt.
	others := times.Busy - times.Interrupts - ours
	if res.ServerCPU >= 0 && others > 0 {
		res.Others = float64(others) / float64(times.Total)
	}
}

// collect merges what the workers counted.
func (r *run) collect(res *Result) {
	res.Latency = merged(r.latency)
	if r.Rate > 0 {
		res.Late = merged(r.late)
	}
	for _, w := range r.workers {
		res.Requests += w.requests
		res.Errors += w.errors
		res.Unanswered += w.unanswered
		res.Unsent += w.unsent
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	res.Problems = r.problems
}
