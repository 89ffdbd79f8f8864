package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/redis"
)

// The tests run in virtual time (testing/synctest) over pipes, so that every
// latency is exact: a message takes no time, only what a server sleeps.

// hosted dials pipes to a server function, which gets the far ends.
func hosted(serve func(net.Conn)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			serve(far)
		}()
		return near, nil
	}
}

// echoer returns messages of size bytes after whatever wait does.
func echoer(size int, wait func()) func(net.Conn) {
	return func(c net.Conn) {
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			wait()
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
}

func find(t *testing.T, name string) Workload {
	t.Helper()
	w, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustRun(t *testing.T, cfg Config) *Result {
	t.Helper()
	cfg.Polls = true // Go's timers, which the virtual time has
	res, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // lets the server's goroutines end
	return res
}

// millis returns a percentile in ms.
func millis(r *Result, percentile float64) float64 {
	return float64(r.Latency.ValueAtPercentile(percentile)) / 1e6
}

func near(got, want, tolerance float64) bool { return got >= want-tolerance && got <= want+tolerance }

// TestStall lets a server that answers within 1 ms stall once for 2 s. An open
// loop must show the requests that were due meanwhile: a fifth of all, which
// waited for up to 2 s. A closed loop sees one slow request, and says so.
func TestStall(t *testing.T) {
	stalling := func() func() {
		start, stalled := time.Now(), false
		return func() {
			time.Sleep(time.Millisecond)
			if !stalled && time.Since(start) > 5*time.Second {
				stalled = true
				time.Sleep(2 * time.Second)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		res := mustRun(t, Config{
			Workload: find(t, "rr"), Conns: 1, Rate: 100, Duration: 10 * time.Second,
			Dial: hosted(echoer(smallPayload, stalling())),
		})
		if res.Requests < 990 || res.Requests > 1000 || res.Unanswered != 0 || res.Errors != 0 {
			t.Errorf("open loop: %d requests, %d unanswered, %d errors, want 1000, 0, 0", res.Requests, res.Unanswered, res.Errors)
		}
		// 200 of 1000 requests waited, for 0 to 2 s; those behind the stall a
		// little longer, while the server caught up.
		for _, want := range []struct{ percentile, ms, tolerance float64 }{
			{50, 1, 0.1}, {75, 1, 300}, {90, 1000, 200}, {99, 1900, 120}, {100, 2001, 10},
		} {
			if got := millis(res, want.percentile); !near(got, want.ms, want.tolerance) {
				t.Errorf("open loop: p%v is %.1f ms, want about %.0f", want.percentile, got, want.ms)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		res := mustRun(t, Config{
			Workload: find(t, "rr"), Conns: 1, Duration: 10 * time.Second,
			Dial: hosted(echoer(smallPayload, stalling())),
		})
		if p, most := millis(res, 99.9), millis(res, 100); !near(p, 1, 0.1) || !near(most, 2001, 10) {
			t.Errorf("closed loop: p99.9 %.1f ms and max %.1f ms, want 1 and 2001", p, most)
		}
	})
}

// TestHang lets the server stop answering for good: what was due until the end
// must be in the latencies, sent or not.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		res := mustRun(t, Config{
			Workload: find(t, "rr"), Conns: 1, Rate: 100, Duration: 10 * time.Second,
			Dial: hosted(echoer(smallPayload, func() {
				if time.Since(start) >= 5*time.Second {
					time.Sleep(time.Hour)
				}
			})),
		})
		if res.Unanswered != 1 || !near(float64(res.Unsent), 500, 3) || !near(float64(res.Requests), 500, 3) {
			t.Errorf("%d answered, %d unanswered, %d unsent, want 500, 1, 500", res.Requests, res.Unanswered, res.Unsent)
		}
		if n := res.Latency.TotalCount(); !near(float64(n), 1000, 3) {
			t.Errorf("%d latencies, want one for each of 1000 requests that were due", n)
		}
		// The run waits 2 s for the last reply: the oldest request is 7 s old.
		if most := millis(res, 100); !near(most, 7000, 50) {
			t.Errorf("max %.0f ms, want 7000", most)
		}
		time.Sleep(2 * time.Hour) // lets the server's goroutine end
	})
}

// TestTimetable looks at when requests arrive: evenly, over all connections.
func TestTimetable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var arrivals []time.Duration
		start := time.Now()
		res := mustRun(t, Config{
			Workload: find(t, "rr"), Conns: 10, Rate: 1000, Warmup: time.Second, Duration: 2 * time.Second,
			Dial: hosted(echoer(smallPayload, func() {
				mu.Lock()
				arrivals = append(arrivals, time.Since(start))
				mu.Unlock()
				time.Sleep(3 * time.Millisecond)
			})),
		})
		if !near(float64(res.Requests), 2000, 1) || res.Elapsed != 2*time.Second {
			t.Errorf("%d requests in %v, want 2000 in 2s", res.Requests, res.Elapsed)
		}
		if p50, most := millis(res, 50), millis(res, 100); !near(p50, 3, 0.01) || !near(most, 3, 0.01) {
			t.Errorf("p50 %v ms, max %v ms, want 3 and 3", p50, most)
		}
		for i := range arrivals[1:] {
			if gap := arrivals[i+1] - arrivals[i]; gap != time.Millisecond {
				t.Fatalf("request %d came %v after the one before, want 1ms", i+1, gap)
			}
		}
	})
}

// TestPipeline counts how many requests are under way.
func TestPipeline(t *testing.T) {
	for _, name := range []string{"rr", "rw"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const pipeline = 4
				var most int
				res := mustRun(t, Config{
					Workload: find(t, name), Conns: 1, Pipeline: pipeline, Payload: 100, Duration: time.Second, Verify: true,
					Dial: hosted(func(c net.Conn) {
						// Takes in all that comes, and echoes one message every 10 ms.
						arrived := make(chan []byte, 100)
						go func() {
							defer close(arrived)
							for {
								buf := make([]byte, 100)
								if _, err := io.ReadFull(c, buf); err != nil {
									return
								}
								arrived <- buf
							}
						}()
						for buf := range arrived {
							time.Sleep(10 * time.Millisecond)
							most = max(most, len(arrived)+1)
							if _, err := c.Write(buf); err != nil {
								return
							}
						}
					}),
				})
				if most != pipeline {
					t.Errorf("%d requests under way, want %d", most, pipeline)
				}
				if !near(float64(res.Requests), 100, 4) || res.Errors != 0 {
					t.Errorf("%d requests and %d errors, want 100 and 0: %q", res.Requests, res.Errors, res.Problems)
				}
				if p50 := millis(res, 50); p50 < 10 || p50 > 40.1 {
					t.Errorf("p50 %v ms, want 10 to 40", p50)
				}
			})
		})
	}
}

// slowed delays a server's writes, so that virtual time passes.
type slowed struct{ net.Conn }

func (c slowed) Write(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return c.Conn.Write(p)
}

// TestWorkloads runs each workload with every byte verified against a real
// server, and sees that nothing is wrong and the counts are.
func TestWorkloads(t *testing.T) {
	echo := func(c net.Conn) { io.Copy(slowed{c}, c) }
	store := redis.NewStore()
	servers := map[string]func(net.Conn){
		"resp":    func(c net.Conn) { store.Serve(slowed{c}) },
		"echo":    echo,
		"discard": func(c net.Conn) { io.Copy(slowed{discarding{}}, c) },
	}
	for _, w := range Workloads {
		for i, payload := range []int{1, 64, 100_000, 1, 1000} {
			handler := Goroutine
			if w.fresh {
				payload = min(payload, maxOneWay)
			} else if i > 2 && !w.duplex {
				handler = Callback
			}
			t.Run(w.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var dials atomic.Int64
					dial := hosted(servers[w.Protocol])
					res := mustRun(t, Config{
						Workload: w, Handler: handler, Conns: 3, Payload: payload, Warmup: 10 * time.Millisecond, Duration: 100 * time.Millisecond, Verify: !w.oneWay,
						Dial: func(ctx context.Context) (net.Conn, error) {
							dials.Add(1)
							return dial(ctx)
						},
					})
					if res.Errors != 0 || res.Unanswered != 0 || res.Requests == 0 {
						t.Errorf("payload %d: %d requests, %d errors, %d unanswered: %q", payload, res.Requests, res.Errors, res.Unanswered, res.Problems)
					}
					if many := dials.Load() > 10; many != w.fresh {
						t.Errorf("payload %d: %d connections for %d requests", payload, dials.Load(), res.Requests)
					}
				})
			})
		}
	}
}

// discarding is a connection that takes everything.
type discarding struct{ net.Conn }

func (discarding) Write(p []byte) (int, error) { return len(p), nil }

// TestCorruption flips a bit in every reply.
func TestCorruption(t *testing.T) {
	store := redis.NewStore()
	flip := func(p []byte) []byte {
		p = bytes.Clone(p)
		if i := len(p) - 3; i > 6 { // within the value, not its framing
			p[i] ^= 1
		}
		return p
	}
	servers := map[string]func(net.Conn){
		"get": func(c net.Conn) { store.Serve(flipping{slowed{c}, flip}) },
		"rr":  func(c net.Conn) { io.Copy(flipping{slowed{c}, flip}, c) },
		"rw":  func(c net.Conn) { io.Copy(flipping{slowed{c}, flip}, c) },
	}
	for name, serve := range servers {
		for _, verify := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				res := mustRun(t, Config{
					Workload: find(t, name), Conns: 2, Payload: 64, Duration: 100 * time.Millisecond, Verify: verify, Dial: hosted(serve),
				})
				if found := res.Errors > 0; found != verify {
					t.Errorf("%s, verify %t: %d errors: %q", name, verify, res.Errors, res.Problems)
				}
				if verify && (len(res.Problems) != 1 || res.Problems[0] != errCorrupt.Error()) {
					t.Errorf("%s: problems %q, want %q", name, res.Problems, errCorrupt)
				}
			})
		}
	}
}

// flipping changes what is written.
type flipping struct {
	net.Conn
	flip func([]byte) []byte
}

func (c flipping) Write(p []byte) (int, error) { return c.Conn.Write(c.flip(p)) }

// TestErrors runs against servers that misbehave: the run goes on, counts, and
// names each kind of error once.
func TestErrors(t *testing.T) {
	reply := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			buf := make([]byte, 4096)
			for i := 0; ; i++ {
				if _, err := c.Read(buf); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
				if i == 0 {
					text := "+OK\r\n" // to the SET that prepares
					if _, err := io.WriteString(c, text); err != nil {
						return
					}
					continue
				}
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}
	}
	tests := []struct {
		name, workload string
		serve          func(net.Conn)
		want           string // the problem
		requests       bool   // some are answered
	}{
		{"refusals", "get", reply("-ERR no\r\n"), "server: ERR no", false},
		{"key gone", "get", reply("$-1\r\n"), "server: the key is gone", false},
		{"wrong kind", "get", reply(":1\r\n"), `a reply of kind ':' does not answer the request`, false},
		{"wrong length", "get", reply("$3\r\nabc\r\n"), "a value of 3 bytes: want 64", false},
		{"no protocol", "get", reply("hello\r\n"), "Protocol error: a reply of unknown kind", false},
		{"surplus", "set", reply("+OK\r\n+OK\r\n"), errSurplus.Error(), true},
		{"hangs up", "rr", func(c net.Conn) {
			for range 10 {
				time.Sleep(time.Millisecond)
				if _, err := io.CopyN(c, c, smallPayload); err != nil {
					return
				}
			}
		}, io.ErrClosedPipe.Error(), true},
		{"hangs up on bulk", "rw", func(c net.Conn) {
			time.Sleep(time.Millisecond)
			io.CopyN(c, c, 5*bulkPayload)
		}, errLeft.Error(), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res := mustRun(t, Config{Workload: find(t, tt.workload), Conns: 2, Duration: 500 * time.Millisecond, Dial: hosted(tt.serve)})
				if res.Errors < 10 || len(res.Problems) == 0 || !strings.Contains(strings.Join(res.Problems, "\n"), tt.want) {
					t.Errorf("%d errors, %q, want many and %q", res.Errors, res.Problems, tt.want)
				}
				if (res.Requests > 0) != tt.requests {
					t.Errorf("%d requests answered, want some: %t", res.Requests, tt.requests)
				}
			})
		})
	}
}

// TestServerGoes lets the server refuse connections from some time on.
func TestServerGoes(t *testing.T) {
	for _, name := range []string{"rr", "crr"} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			gone := func() bool { return time.Since(start) > 500*time.Millisecond }
			dial := hosted(func(c net.Conn) {
				for !gone() {
					time.Sleep(time.Millisecond)
					if _, err := io.CopyN(c, c, smallPayload); err != nil {
						return
					}
				}
			})
			res := mustRun(t, Config{
				Workload: find(t, name), Conns: 2, Duration: time.Second,
				Dial: func(ctx context.Context) (net.Conn, error) {
					if gone() {
						return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
					}
					return dial(ctx)
				},
			})
			if res.Errors < 5 || res.Errors > 200 || !strings.Contains(strings.Join(res.Problems, "\n"), "dial: connection refused") {
				t.Errorf("%s: %d errors, %q, want a few refused dials", name, res.Errors, res.Problems)
			}
			if !near(float64(res.Requests), 1000, 30) {
				t.Errorf("%s: %d requests, want those of the first half, about 1000", name, res.Requests)
			}
		})
	}
}

func TestConnectFails(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	noRoute := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
	for _, tt := range []struct {
		name string
		err  error
		wait time.Duration // until the run gives up
	}{
		{"refused at once", refused, 0},
		{"no way for long", noRoute, connectTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, err := Run(t.Context(), Config{
					Workload: find(t, "rr"), Conns: 100, Duration: time.Second,
					Dial: func(context.Context) (net.Conn, error) { return nil, tt.err },
				})
				if !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if took := time.Since(start); took < tt.wait || took > tt.wait+time.Second {
					t.Errorf("gave up after %v, want %v", took, tt.wait)
				}
			})
		})
	}
}

// TestInterrupt ends runs by their context.
func TestInterrupt(t *testing.T) {
	run := func(t *testing.T, after time.Duration) (*Result, error) {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		return Run(ctx, Config{
			Workload: find(t, "rr"), Conns: 2, Warmup: time.Second, Duration: time.Hour,
			Dial: hosted(echoer(smallPayload, func() { time.Sleep(time.Millisecond) })),
		})
	}
	synctest.Test(t, func(t *testing.T) {
		res, err := run(t, 3*time.Second)
		if err != nil || !res.Interrupted || res.Elapsed != 2*time.Second || !near(float64(res.Requests), 4000, 4) || res.Errors != 0 {
			t.Errorf("while measuring: %+v, %v", res, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if res, err := run(t, 500*time.Millisecond); res != nil || err == nil {
			t.Errorf("while warming up: %+v, %v, want an error", res, err)
		}
	})
}

// TestProgress wants a report a second, with the rate of that second.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []Progress
		mustRun(t, Config{
			Workload: find(t, "rr"), Conns: 2, Warmup: 1500 * time.Millisecond, Duration: 2500 * time.Millisecond,
			Dial:     hosted(echoer(smallPayload, func() { time.Sleep(time.Millisecond) })),
			Progress: func(p Progress) { reports = append(reports, p) },
		})
		if len(reports) < 3 {
			t.Fatalf("%d reports in 4 s", len(reports))
		}
		for i, p := range reports {
			if p.Elapsed != time.Duration(i+1)*time.Second || p.Total != 4*time.Second || p.Warmup != (i == 0) || !near(p.Rate, 2000, 4) {
				t.Errorf("report %d: %+v", i, p)
			}
		}
	})
}

// TestSchedule has the rate of each step in the series, evenly and at random.
func TestSchedule(t *testing.T) {
	for _, poisson := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			res := mustRun(t, Config{
				Workload: find(t, "rr"), Conns: 10, Warmup: time.Second, Poisson: poisson,
				Schedule: []Step{{1000, 2 * time.Second}, {4000, time.Second}, {1, time.Second}, {500, 2 * time.Second}},
				Dial:     hosted(echoer(smallPayload, func() {})),
			})
			if res.Elapsed != 6*time.Second || res.Series.Step != leastStep || len(res.Series.Requests) < 59 {
				t.Fatalf("%v, a series of %d steps of %v", res.Elapsed, len(res.Series.Requests), res.Series.Step)
			}
			var perSecond [6]float64
			for i, n := range res.Series.Requests {
				perSecond[min(i/10, 5)] += float64(n)
			}
			for i, want := range []float64{1000, 1000, 4000, 1, 500, 500} {
				tolerance := 2 + want/50
				if poisson {
					tolerance = 2 + 5*math.Sqrt(want) // five deviations; the seeds are fixed
				}
				if i == 5 {
					tolerance += want / 10 // the last step may be missing
				}
				if !near(perSecond[i], want, tolerance) {
					t.Errorf("poisson %v: second %d has %v requests, want %v", poisson, i, perSecond[i], want)
				}
			}
		})
	}
}

// TestPoisson looks at the gaps of a timetable: their mean is the interval, and so is
// their deviation.
func TestPoisson(t *testing.T) {
	tt := newTimetable(&Config{Conns: 2, Rate: 2000, Poisson: true}, 1)
	const n = 20_000
	var sum, squares float64
	for range n {
		at := tt.next
		tt.advance()
		gap := float64(tt.next-at) / 1e6
		sum += gap
		squares += gap * gap
	}
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	if !near(mean, 1, 0.05) || !near(deviation, 1, 0.05) {
		t.Errorf("gaps of %.3f ms, deviation %.3f, want 1 and 1", mean, deviation)
	}
}

// TestWriteVerified wants the digest of what each connection wrote.
func TestWriteVerified(t *testing.T) {
	for _, tt := range []struct {
		name string
		keep func([]byte) []byte // what the server takes of a stream
		want uint64              // errors
	}{
		{"all", func(p []byte) []byte { return p }, 0},
		{"but one byte", func(p []byte) []byte { return p[1:] }, 2},
		{"no answer", nil, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{
					Workload: find(t, "write"), Conns: 2, Duration: 100 * time.Millisecond, Payload: 1000, Rate: 1000, Verify: true,
					Dial: func(context.Context) (net.Conn, error) { return newSink(tt.keep), nil },
				}
				if err := cfg.Check(); err != nil || cfg.Workload.Protocol != "digest" {
					t.Fatalf("protocol %s, %v", cfg.Workload.Protocol, err)
				}
				if res := mustRun(t, cfg); res.Errors != tt.want || res.Requests == 0 {
					t.Errorf("%d errors %q in %d requests, want %d", res.Errors, res.Problems, res.Requests, tt.want)
				}
			})
		})
	}
}

// sink takes what is written and, once that is closed, has its digest to read.
type sink struct {
	net.Conn
	keep   func([]byte) []byte
	all    bytes.Buffer
	answer io.Reader
}

func newSink(keep func([]byte) []byte) *sink { return &sink{keep: keep, answer: strings.NewReader("")} }

func (s *sink) Write(p []byte) (int, error) { return s.all.Write(p) }
func (s *sink) Read(p []byte) (int, error)  { return s.answer.Read(p) }
func (s *sink) Close() error                { return nil }
func (s *sink) SetDeadline(time.Time) error { return nil }
func (s *sink) CloseWrite() error {
	if s.keep != nil {
		sum := sha256.Sum256(s.keep(s.all.Bytes()))
		s.answer = bytes.NewReader(sum[:])
	}
	return nil
}

func TestCheck(t *testing.T) {
	good := Config{Workload: find(t, "get"), Conns: 1, Duration: time.Second}
	if err := good.Check(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no workload":         func(c *Config) { c.Workload = Workload{} },
		"no connections":      func(c *Config) { c.Conns = 0 },
		"many connections":    func(c *Config) { c.Conns = maxConns + 1 },
		"negative payload":    func(c *Config) { c.Payload = -1 },
		"huge payload":        func(c *Config) { c.Payload = maxPayload + 1 },
		"negative pipeline":   func(c *Config) { c.Pipeline = -1 },
		"negative rate":       func(c *Config) { c.Rate = -1 },
		"no duration":         func(c *Config) { c.Duration = 0 },
		"negative warm-up":    func(c *Config) { c.Warmup = -1 },
		"crr in a pipeline":   func(c *Config) { c.Workload = find(t, "crr"); c.Pipeline = 2 },
		"crr of much":         func(c *Config) { c.Workload = find(t, "crr"); c.Payload = maxOneWay + 1 },
		"random closed loop":  func(c *Config) { c.Poisson = true },
		"rate and schedule":   func(c *Config) { c.Rate, c.Schedule = 1, []Step{{1, time.Second}} },
		"endless step":        func(c *Config) { c.Schedule = []Step{{1, 0}} },
		"step of nothing":     func(c *Config) { c.Schedule = []Step{{0, time.Second}} },
		"write in a pipeline": func(c *Config) { c.Workload = find(t, "write"); c.Pipeline = 2 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := Find("nothing"); err == nil || !strings.Contains(err.Error(), "get, set") {
		t.Errorf("error %v does not list the workloads", err)
	}
}
