package overhead

import (
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/metrics"
)

const (
	conns   = 50
	payload = 64 // bytes of a request, and of its answer
	// turn is how long one side runs, scrapeTurn with one scrape in it; settle of it
	// is not measured.
	turn       = 50 * time.Millisecond
	scrapeTurn = 100 * time.Millisecond
	settle     = 5 * time.Millisecond
	// quads is how often a program's sides take four turns.
	quads = 3
)

// A program is a server and two groups of clients, which run when they may.
type program struct {
	client, server *accel.Runtime
	groups         [2]group
}

// A group is half of a program's connections.
type group struct {
	clients [conns]client

	// mu guards the following fields.
	mu      sync.Mutex
	changed *sync.Cond
	running bool
	parked  int
}

type client struct {
	done atomic.Uint64 // requests
	_    [56]byte      // a cache line each
}

// start makes a program whose clients are parked. record is Config.Record: with
// conns it is the connections of one group that are recorded, the first or the
// second that connects. That becomes group 0.
func start(tb testing.TB, record int, second bool) *program {
	tb.Helper()
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	runtime := func(d *memory.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Fallback: accel.FallbackNever,
			Record: record, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			tb.Fatal(err)
		}
		return rt
	}
	p := &program{client: runtime(a, "10.0.0.1/24"), server: runtime(b, "10.0.0.2/24")}
	ln, err := (&accel.ListenConfig{Runtime: p.server}).Listen(tb.Context(), "tcp", ":7")
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	dial := func() net.Conn {
		c, err := (&accel.Dialer{Runtime: p.client, Timeout: 10 * time.Second}).Dial("tcp", "10.0.0.2:7")
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	// recorded waits until so many connections are recorded, and so many are not.
	recorded := func(n, missed int) {
		want := accel.RecorderStats{Recorded: n, Missed: uint64(missed)}
		for _, rt := range []*accel.Runtime{p.client, p.server} {
			for deadline := time.Now().Add(10 * time.Second); record > 0 && rt.Stats().Recorder != want; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					tb.Fatalf("got %+v, want %+v", rt.Stats().Recorder, want)
				}
			}
		}
	}
	order := []int{0, 1}
	var others []net.Conn
	if second {
		// Others take the recorder's room while those connect that are not recorded.
		order = []int{1, 0}
		for range max(record, 0) {
			others = append(others, dial())
		}
		recorded(record, 0)
	}
	for _, i := range order {
		g := &p.groups[i]
		g.changed = sync.NewCond(&g.mu)
		if second && i == 0 {
			recorded(record, conns)
			for _, c := range others {
				c.Close()
			}
			recorded(0, conns)
		}
		for i := range g.clients {
			go g.ask(dial(), &g.clients[i])
		}
		g.stop()
	}
	recorded(record, conns)
	return p
}

func (p *program) close() {
	p.client.Close()
	p.server.Close()
	for i := range p.groups {
		p.groups[i].end()
	}
}

// answer echoes requests until the connection ends.
func answer(c io.ReadWriteCloser) {
	defer c.Close()
	b := make([]byte, payload)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// ask makes requests while the group runs, until the connection ends.
func (g *group) ask(c io.ReadWriter, me *client) {
	b := make([]byte, payload)
	for {
		g.mu.Lock()
		if !g.running {
			g.parked++
			g.changed.Broadcast()
			for !g.running {
				g.changed.Wait()
			}
			g.parked--
		}
		g.mu.Unlock()
		for range 10 { // so that the lock is not what is measured
			if _, err := c.Write(b); err != nil {
				return
			}
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			me.done.Add(1)
		}
	}
}

// end lets the clients find that their connections have ended.
func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = true
	g.changed.Broadcast()
}

// stop parks the clients.
func (g *group) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = false
	for g.parked < conns {
		g.changed.Wait()
	}
}

// A rate is how many requests there were, per second and per second of processor
// time that the process used. The latter hardly notices what else runs on the
// machine.
type rate struct{ second, processor float64 }

func (r rate) add(o rate) rate { return rate{r.second + o.second, r.processor + o.processor} }

// run lets the clients run for one turn. during is called meanwhile.
func (g *group) run(turn time.Duration, during func()) rate {
	g.mu.Lock()
	g.running = true
	g.changed.Broadcast()
	g.mu.Unlock()
	time.Sleep(settle)
	before, start, used := g.done(), time.Now(), processorTime()
	during()
	time.Sleep(turn - settle - time.Since(start))
	done := float64(g.done() - before)
	r := rate{done / time.Since(start).Seconds(), done / (processorTime() - used).Seconds()}
	g.stop()
	return r
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // cannot be
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (g *group) done() (n uint64) {
	for i := range g.clients {
		n += g.clients[i].done.Load()
	}
	return n
}

// compare runs turns of programs with and without something, and reports the
// difference.
func compare(b *testing.B, record int, with, without func(*program) rate) {
	var seconds, processors, rates []float64
	for n := 0; b.Loop(); n++ {
		p := start(b, record, n%2 == 1) // whoever connects first has an advantage
		with(p)                         // warm up
		without(p)
		var second, processor []float64
		for range quads {
			w := with(p)
			o := without(p).add(without(p))
			w = w.add(with(p))
			second = append(second, 100*(w.second/o.second-1))
			processor = append(processor, 100*(w.processor/o.processor-1))
			rates = append(rates, o.second/2)
		}
		s, _, _ := interval(second)
		seconds = append(seconds, s)
		s, _, _ = interval(processor)
		processors = append(processors, s)
		p.close()
	}
	b.ReportMetric(0, "ns/op") // how long the turns are
	rate, _, _ := interval(rates)
	b.ReportMetric(rate, "requests/s")
	report := func(what string, changes []float64) {
		change, low, high := interval(changes)
		b.ReportMetric(change, what+"-%")
		b.ReportMetric((high-low)/2, what+"-±%")
	}
	report("per-second", seconds)
	report("per-processor-second", processors)
}

// interval returns the median and an interval that holds the median of all there
// could be with a probability of 95 %: of n values as many lie below it as of n
// tosses of a coin show heads.
func interval(values []float64) (median, low, high float64) {
	slices.Sort(values)
	n := len(values)
	median = (values[n/2] + values[(n-1)/2]) / 2
	half := int(math.Ceil(1.96 * math.Sqrt(float64(n)) / 2))
	return median, values[max(0, n/2-half)], values[min(n-1, (n-1)/2+half)]
}

func nothing() {}

// BenchmarkRecorder compares connections that are recorded, on both sides, with
// connections that are not.
func BenchmarkRecorder(b *testing.B) {
	compare(b, conns,
		func(p *program) rate { return p.groups[0].run(turn, nothing) },
		func(p *program) rate { return p.groups[1].run(turn, nothing) })
}

// BenchmarkScrapes compares turns in which the server is scraped once, so 10 times
// a second, with turns in which it is not: by a collector in a registry of its
// own, and by Handler, which has the metrics of Go and the process too.
func BenchmarkScrapes(b *testing.B) {
	for _, tt := range []struct {
		name    string
		handler func(*accel.Runtime) http.Handler
	}{
		{"Collector", func(rt *accel.Runtime) http.Handler {
			reg := prometheus.NewRegistry()
			reg.MustRegister(metrics.NewCollector(rt, metrics.Options{PerQueue: true}))
			return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
		}},
		{"Handler", metrics.Handler},
	} {
		b.Run(tt.name, func(b *testing.B) {
			var of *accel.Runtime
			var h http.Handler
			compare(b, 0,
				func(p *program) rate {
					if of != p.server {
						of, h = p.server, tt.handler(p.server)
					}
					return p.groups[0].run(scrapeTurn, func() {
						h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
					})
				},
				func(p *program) rate { return p.groups[0].run(scrapeTurn, nothing) })
		})
	}
}

// BenchmarkNothing compares two groups that are alike: what is left is noise.
func BenchmarkNothing(b *testing.B) {
	compare(b, -1,
		func(p *program) rate { return p.groups[0].run(turn, nothing) },
		func(p *program) rate { return p.groups[1].run(turn, nothing) })
}
