package load

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
)

// answering is a connection that answers each Write at once, from memory.
type answering struct {
	net.Conn
	reply   []byte
	pending int // bytes of replies not yet read
}

func (c *answering) Write(p []byte) (int, error) { c.pending = len(c.reply); return len(p), nil }

func (c *answering) Read(p []byte) (int, error) {
	if c.pending == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.reply[len(c.reply)-c.pending:])
	c.pending -= n
	return n, nil
}

func (c *answering) SetDeadline(time.Time) error { return nil }

// newTestWorker returns a worker in the midst of a measurement, over a connection
// that answers whole batches.
func newTestWorker(tb testing.TB, name string, pipeline int) *worker {
	w, err := Find(name)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{Workload: w, Conns: 1, Pipeline: pipeline, Duration: time.Hour, Verify: true}
	if err := cfg.normalise(); err != nil {
		tb.Fatal(err)
	}
	r := newRun(tb.Context(), cfg)
	r.from.Store(0)
	r.to.Store(int64(time.Hour))
	wk, err := newWorker(r, 0)
	if err != nil {
		tb.Fatal(err)
	}
	conn := new(answering)
	for range pipeline {
		switch c := wk.codec.(type) {
		case *redisCodec:
			conn.reply = resp.AppendBulk(conn.reply, c.read.payload(1))
		case *streamCodec:
			conn.reply = append(conn.reply, c.write.payload(0)...)
			c.verify = false // it would want other bytes each time
		}
	}
	wk.conn = conn
	return wk
}

func TestExchangeDoesNotAllocate(t *testing.T) {
	for _, name := range []string{"get", "rr"} {
		for _, pipeline := range []int{1, 16} {
			w := newTestWorker(t, name, pipeline)
			allocs := testing.AllocsPerRun(100, func() {
				if !w.await() {
					t.Fatal("the run is over")
				}
				if err := w.exchange(); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%s, pipeline %d: %v allocations per exchange", name, pipeline, allocs)
			}
			if want := uint64(101 * pipeline); w.requests != want || w.errors != 0 {
				t.Errorf("%s, pipeline %d: %d requests and %d errors, want %d and 0", name, pipeline, w.requests, w.errors, want)
			}
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, pipeline := range []struct {
		name string
		n    int
	}{{"1", 1}, {"16", 16}} {
		b.Run("pipeline="+pipeline.name, func(b *testing.B) {
			w := newTestWorker(b, "get", pipeline.n)
			b.ReportAllocs()
			for b.Loop() {
				w.await()
				if err := w.exchange(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(w.requests), "ns/request")
		})
	}
}

// TestKernelPacer wants sleeps that are never too short, and that end.
func TestKernelPacer(t *testing.T) {
	p, err := newKernelPacer()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, d := range []time.Duration{0, time.Microsecond, 300 * time.Microsecond, 5 * time.Millisecond} {
		start := time.Now()
		p.sleep(d)
		if took := time.Since(start); took < d || took > d+5*time.Second {
			t.Errorf("sleep(%v) took %v", d, took)
		}
	}
}
