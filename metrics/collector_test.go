package metrics_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/metrics"
)

// newPair returns two runtimes wired to each other: 10.0.0.1 and 10.0.0.2.
func newPair(t testing.TB, queues int) (client, server *accel.Runtime) {
	t.Helper()
	a, b, err := memory.Pair(memory.Options{Queues: queues})
	if err != nil {
		t.Fatal(err)
	}
	return newRuntime(t, a, "10.0.0.1/24"), newRuntime(t, b, "10.0.0.2/24")
}

func newRuntime(t testing.TB, d link.Device, addr string) *accel.Runtime {
	t.Helper()
	leak.Check(t, d)
	rt, err := accel.New(accel.Config{
		Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Fallback: accel.FallbackNever,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

// newFallback returns a runtime without a device.
func newFallback(t testing.TB) *accel.Runtime {
	t.Helper()
	leak.Check(t)
	rt, err := accel.New(accel.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

// serve echoes on port 7 until the test ends.
func serve(t testing.TB, rt *accel.Runtime) {
	t.Helper()
	ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go echoserver.Run(ln)
}

func dial(t testing.TB, rt *accel.Runtime, addr string) net.Conn {
	t.Helper()
	c, err := (&accel.Dialer{Runtime: rt, Timeout: 10 * time.Second}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c
}

// echo sends n bytes and reads them back.
func echo(t testing.TB, c net.Conn, n int) {
	t.Helper()
	sent, got := bytes.Repeat([]byte("tpa"), n/3+1)[:n], make([]byte, n)
	written := make(chan error, 1)
	go func() { _, err := c.Write(sent); written <- err }()
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("the echo differs")
	}
}

// scrape returns all series as Prometheus would store them, histograms by their
// counts and sums, and which of them are counters.
func scrape(t testing.TB, g prometheus.Gatherer) (values map[string]float64, counters map[string]bool) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values, counters = make(map[string]float64), make(map[string]bool)
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := func(suffix string) string {
				return f.GetName() + suffix + "{" + strings.Join(labels, ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				values[name("_count")] = float64(m.Histogram.GetSampleCount())
				values[name("_sum")] = m.Histogram.GetSampleSum()
				counters[name("_count")], counters[name("_sum")] = true, true
			case dto.MetricType_COUNTER:
				values[name("")] = m.Counter.GetValue()
				counters[name("")] = true
			default:
				values[name("")] = m.Gauge.GetValue()
			}
		}
	}
	return values, counters
}

// registry is pedantic: it refuses metrics that Describe did not announce.
func registry(rt *accel.Runtime, o metrics.Options) *prometheus.Registry {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics.NewCollector(rt, o))
	return reg
}

// eventually waits until ok holds, for counters of the other end.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

func TestLint(t *testing.T) {
	client, server := newPair(t, 2)
	serve(t, server)
	echo(t, dial(t, client, "10.0.0.2:7"), 100)
	for _, rt := range []*accel.Runtime{client, server, newFallback(t)} {
		for _, o := range []metrics.Options{{}, {PerQueue: true}} {
			problems, err := testutil.GatherAndLint(registry(rt, o))
			if err != nil {
				t.Error(err)
			}
			for _, p := range problems {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
}

func TestTraffic(t *testing.T) {
	const conns, size = 5, 100_000
	client, server := newPair(t, 1)
	serve(t, server)
	for range conns {
		c := dial(t, client, "10.0.0.2:7")
		echo(t, c, size)
		c.Close()
	}
	open := dial(t, client, "10.0.0.2:7")
	echo(t, open, size)
	if _, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.2:8"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial to a closed port: got %v, want connection refused", err)
	}
	reset := dial(t, client, "10.0.0.2:7")
	echo(t, reset, 1)
	reset.(interface{ SetLinger(int) error }).SetLinger(0)
	reset.Close()

	clients, servers := registry(client, metrics.Options{}), registry(server, metrics.Options{})
	eventually(t, "the server's connections are closed", func() bool {
		v, _ := scrape(t, servers)
		return v[`tpa_tcp_rtt_seconds_count{port="memory1"}`] >= conns && v[`tpa_tcp_resets_total{direction="received",port="memory1"}`] >= 1
	})
	const total = (conns+1)*size + 1
	for name, want := range map[string]float64{
		`tpa_accelerated{}`:                                                  1,
		`tpa_dials_total{result="ok"}`:                                       conns + 2,
		`tpa_dials_total{result="refused"}`:                                  1,
		`tpa_dials_total{result="failed"}`:                                   0,
		`tpa_dial_duration_seconds_count{}`:                                  conns + 3,
		`tpa_conn_written_bytes_total{port="memory0"}`:                       total,
		`tpa_conn_read_bytes_total{port="memory0"}`:                          total,
		`tpa_tcp_active_opens_total{port="memory0"}`:                         conns + 3,
		`tpa_tcp_passive_opens_total{port="memory0"}`:                        0,
		`tpa_tcp_established_connections{port="memory0"}`:                    1,
		`tpa_tcp_resets_total{direction="sent",port="memory0"}`:              1,
		`tpa_tcp_rtt_seconds_count{port="memory0"}`:                          conns + 1,
		`tpa_port_link_up{port="memory0"}`:                                   1,
		`tpa_port_mtu_bytes{port="memory0"}`:                                 1500,
		`tpa_port_queues{port="memory0"}`:                                    1,
		`tpa_neighbours{port="memory0",state="resolved"}`:                    1,
		`tpa_queue_receive_dropped_total{port="memory0",reason="no_buffer"}`: 0,
	} {
		expect(t, clients, name, want)
	}
	for name, want := range map[string]float64{
		`tpa_conn_written_bytes_total{port="memory1"}`:                                         total,
		`tpa_conn_read_bytes_total{port="memory1"}`:                                            total,
		`tpa_tcp_passive_opens_total{port="memory1"}`:                                          conns + 2,
		`tpa_listener_accepts_total{address="[::]:7",port="memory1"}`:                          conns + 2,
		`tpa_listener_backlog_connections{address="[::]:7"}`:                                   0,
		`tpa_tcp_resets_total{direction="received",port="memory1"}`:                            1,
		`tpa_tcp_established_connections{port="memory1"}`:                                      1,
		`tpa_port_info{driver="memory",mac="02:00:00:00:00:02",numa_node="-1",port="memory1"}`: 1,
	} {
		expect(t, servers, name, want)
	}
	// What one side sends, the other receives.
	there, _ := scrape(t, clients)
	back, _ := scrape(t, servers)
	for _, unit := range []string{"packets", "bytes"} {
		sent := there[`tpa_queue_transmit_`+unit+`_total{port="memory0"}`]
		received := back[`tpa_queue_receive_`+unit+`_total{port="memory1"}`]
		if sent != received || sent < conns*size/1500 {
			t.Errorf("%s: sent %v, received %v; want the same and enough for the data", unit, sent, received)
		}
	}
	if sum, frames := back[`tpa_queue_receive_burst_packets_sum{port="memory1"}`], back[`tpa_queue_receive_packets_total{port="memory1"}`]; sum != frames {
		t.Errorf("frames in bursts: got %v, want %v", sum, frames)
	}
	useful, n := back[`tpa_queue_polls_total{port="memory1",result="useful"}`], back[`tpa_queue_receive_burst_packets_count{port="memory1"}`]
	if useful != n || n == 0 {
		t.Errorf("bursts: got %v, want the number of useful polls, %v", n, useful)
	}
	if busy := back[`tpa_queue_busy_seconds_total{port="memory1"}`]; busy <= 0 {
		t.Errorf("busy time: got %v, want more than 0", busy)
	}
	// The closed port answered with one; a late segment to a connection that has
	// ended gets one too.
	if got := back[`tpa_tcp_resets_total{direction="sent",port="memory1"}`]; got < 1 {
		t.Errorf("resets sent: got %v, want at least 1", got)
	}
	if segments, min := back[`tpa_tcp_receive_segments_total{port="memory1"}`], float64(4*(conns+2)); segments < min {
		t.Errorf("segments received: got %v, want at least %v", segments, min)
	}
}

func expect(t *testing.T, g prometheus.Gatherer, name string, want float64) {
	t.Helper()
	values, _ := scrape(t, g)
	got, ok := values[name]
	if !ok {
		t.Errorf("%s is missing; there are %q", name, slices.Sorted(maps.Keys(values)))
	} else if got != want {
		t.Errorf("%s: got %v, want %v", name, got, want)
	}
}

func TestBacklog(t *testing.T) {
	client, server := newPair(t, 1)
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	reg := registry(server, metrics.Options{})
	waiting := func(want float64) func() bool {
		return func() bool {
			v, _ := scrape(t, reg)
			return v[`tpa_listener_backlog_connections{address="[::]:7"}`] == want
		}
	}
	for range 3 {
		dial(t, client, "10.0.0.2:7")
	}
	eventually(t, "three connections wait", waiting(3))
	for range 3 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "no connection waits", waiting(0))
}

func TestFallback(t *testing.T) {
	rt := newFallback(t)
	ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 2 {
		c, err := (&accel.Dialer{Runtime: rt}).Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	reg := registry(rt, metrics.Options{})
	expect(t, reg, `tpa_accelerated{}`, 0)
	expect(t, reg, `tpa_fallbacks_total{operation="listen",reason="no_device"}`, 1)
	expect(t, reg, `tpa_fallbacks_total{operation="dial",reason="no_device"}`, 2)
}

// TestQueues checks that the sums over queues are those of the queues.
func TestQueues(t *testing.T) {
	client, server := newPair(t, 3)
	serve(t, server)
	for range 6 {
		echo(t, dial(t, client, "10.0.0.2:7"), 1000)
	}
	each, _ := scrape(t, registry(client, metrics.Options{PerQueue: true}))
	all, _ := scrape(t, registry(client, metrics.Options{}))
	var sum float64
	for q := range 3 {
		opens := each[fmt.Sprintf(`tpa_tcp_active_opens_total{port="memory0",queue="%d"}`, q)]
		if opens == 0 {
			t.Errorf("queue %d opened no connection: dials go round", q)
		}
		sum += opens
	}
	if got := all[`tpa_tcp_active_opens_total{port="memory0"}`]; got != sum || sum != 6 {
		t.Errorf("opens: got %v on all queues and %v as their sum, want 6", got, sum)
	}
	if got, want := all[`tpa_dial_duration_seconds_count{}`], 6.0; got != want {
		t.Errorf("dials: got %v, want %v", got, want)
	}
}

// TestCardinality checks that the number of series depends on queues and
// listeners alone, and stays small.
func TestCardinality(t *testing.T) {
	const most = 200
	count := func(queues int) int {
		client, server := newPair(t, queues)
		serve(t, server)
		reg := registry(server, metrics.Options{PerQueue: true})
		before := testutil.ToFloat64(seriesCounter{reg})
		for range 20 {
			c := dial(t, client, "10.0.0.2:7")
			echo(t, c, 10)
			c.Close()
		}
		after := testutil.ToFloat64(seriesCounter{reg})
		if before != after {
			t.Errorf("%d queues: %v series after traffic, %v before", queues, after, before)
		}
		return int(after)
	}
	one, four := count(1), count(4)
	if perQueue := (four - one) / 3; perQueue > most {
		t.Errorf("got %d series per queue, want at most %d", perQueue, most)
	} else {
		t.Logf("%d series per queue, %d besides", perQueue, one-perQueue)
	}
}

// seriesCounter is a collector whose only value is the number of series that
// Prometheus would store of a registry, each bucket of a histogram included.
type seriesCounter struct{ g prometheus.Gatherer }

func (seriesCounter) Describe(chan<- *prometheus.Desc) {}

func (c seriesCounter) Collect(ch chan<- prometheus.Metric) {
	families, _ := c.g.Gather()
	n := 0
	for _, f := range families {
		for _, m := range f.Metric {
			if m.Histogram != nil {
				n += len(m.Histogram.Bucket) + 2 // +Inf is among the buckets only when sent; _sum, _count
			}
			n++
		}
	}
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("series", "", nil, nil), prometheus.GaugeValue, float64(n))
}

// TestCountersNeverGoBack scrapes while connections come and go.
func TestCountersNeverGoBack(t *testing.T) {
	client, server := newPair(t, 2)
	serve(t, server)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := dial(t, client, "10.0.0.2:7")
				echo(t, c, 5000)
				c.Close()
			}
		})
	}
	reg := registry(server, metrics.Options{PerQueue: true})
	last := map[string]float64{}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		values, counters := scrape(t, reg)
		for name := range counters {
			if values[name] < last[name] {
				t.Errorf("%s went back from %v to %v", name, last[name], values[name])
			}
		}
		last = values
	}
	close(stop)
	wg.Wait()
}

// extended adds driver counters to a device.
type extended struct{ link.Device }

func (e extended) Stats() link.DeviceStats {
	s := e.Device.Stats()
	s.Extended = map[string]uint64{"rx_q0_errors": 7, "tx_q0_packets": 8, "rx_good_packets": 9}
	return s
}

func TestExtended(t *testing.T) {
	a, _, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rt := newRuntime(t, extended{a}, "10.0.0.1/24")
	for _, tt := range []struct {
		choice string
		want   map[string]float64
	}{
		{"", map[string]float64{}},
		{"^rx_", map[string]float64{"rx_q0_errors": 7, "rx_good_packets": 9}},
	} {
		var o metrics.Options
		if tt.choice != "" {
			o.Extended = regexp.MustCompile(tt.choice)
		}
		values, _ := scrape(t, registry(rt, o))
		got := map[string]float64{}
		for name, v := range values {
			if rest, ok := strings.CutPrefix(name, `tpa_port_extended_total{name="`); ok {
				got[rest[:strings.IndexByte(rest, '"')]] = v
			}
		}
		if !maps.Equal(got, tt.want) {
			t.Errorf("Extended %q: got %v, want %v", tt.choice, got, tt.want)
		}
	}
}

// limited is a device of an instance that is over its limits.
type limited struct{ link.Device }

func (l limited) Stats() link.DeviceStats {
	s := l.Device.Stats()
	s.Extended = map[string]uint64{"pps_allowance_exceeded": 12, "bw_in_allowance_exceeded": 3, "rx_drops": 1}
	return s
}

func TestAllowances(t *testing.T) {
	a, _, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	values, _ := scrape(t, registry(newRuntime(t, limited{a}, "10.0.0.1/24"), metrics.Options{}))
	got := map[string]float64{}
	for name, v := range values {
		if rest, ok := strings.CutPrefix(name, `tpa_port_allowance_exceeded_total{limit="`); ok {
			got[rest[:strings.IndexByte(rest, '"')]] = v
		}
	}
	if want := map[string]float64{"pps": 12, "bw_in": 3}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestHandler checks the one-line way, also once the runtime is closed.
func TestHandler(t *testing.T) {
	client, _ := newPair(t, 1)
	h := metrics.Handler(client)
	for _, when := range []string{"open", "closed"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for _, want := range []string{`tpa_queue_receive_packets_total{port="memory0",queue="0"}`, "go_goroutines", "process_cpu_seconds_total"} {
			if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s runtime: status %d without %s", when, w.Code, want)
			}
		}
		client.Close()
	}
}

// TestHandlerShares checks that scrapes in quick succession have one answer, each in
// the form asked for, and that it is made anew later.
func TestHandlerShares(t *testing.T) {
	client, _ := newPair(t, 1)
	h := metrics.Handler(client)
	scrape := func(encoding string) string {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", encoding)
		h.ServeHTTP(w, r)
		if got := w.Header().Get("Content-Encoding"); w.Code != 200 || got != encoding {
			t.Errorf("status %d, encoding %q, want 200 and %q", w.Code, got, encoding)
		}
		return w.Body.String()
	}
	// The answer counts what memory was allocated: no two are alike.
	start := time.Now()
	first, second := scrape(""), scrape("")
	if first != second && time.Since(start) < time.Second {
		t.Error("two answers within a second")
	}
	if body := scrape("gzip"); !strings.HasPrefix(body, "\x1f\x8b") {
		t.Error("gzip was asked for and not sent")
	}
	for deadline := time.Now().Add(30 * time.Second); scrape("") == first; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the answer stays the same")
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	client, server := newPair(b, 4)
	serve(b, server)
	for range 100 {
		echo(b, dial(b, client, "10.0.0.2:7"), 100)
	}
	reg := registry(server, metrics.Options{PerQueue: true})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
