package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// result makes up what a generator measured: requests with latencies around
// base, which takes its own part of every hundredth.
func result(t testing.TB, requests uint64, base time.Duration) *load.Result {
	t.Helper()
	w, err := load.Find("get")
	if err != nil {
		t.Fatal(err)
	}
	h := hdrhistogram.New(1, int64(time.Minute), 3)
	for i := range requests {
		d := base
		if i%100 == 0 {
			d = 5 * base
		}
		h.RecordValue(int64(d))
	}
	return &load.Result{
		Config:      load.Config{Workload: w, Conns: 50, Payload: 64, Pipeline: 1, Duration: 2 * time.Second},
		Started:     time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
		Elapsed:     2 * time.Second,
		Requests:    requests,
		Latency:     h,
		ClientCPU:   1900 * time.Millisecond,
		ServerCPU:   1800 * time.Millisecond,
		ClientCores: 1,
		ServerCores: 1,
	}
}

// comparison makes up three rounds in which accel is about twice as fast.
func comparison(t testing.TB) *Comparison {
	t.Helper()
	var runs []Run
	for round := range 3 {
		for _, r := range []Run{
			NewRun("kernel", result(t, uint64(200_000+5_000*round), 300*time.Microsecond)),
			NewRun("accel", result(t, uint64(400_000-8_000*round), 120*time.Microsecond)),
		} {
			r.Round = round + 1
			runs = append(runs, r)
		}
	}
	return NewComparison(runs, 1, machine.Facts{
		CPUModel: "Test CPU <4 GHz>", Cores: 2, CPUList: []int{0, 1}, MemoryMB: 4096, Kernel: "6.1.0", OS: "Debian GNU/Linux 12",
		Arch: "amd64", Governor: "performance", Go: "go1.26", GVisor: "v0.0.0", DPDK: "22.11.11", Revision: "abc",
	})
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); go test -update writes it anew:\n%s", file, diff)
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := comparison(t).Table(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "comparison.txt", b.Bytes())

	b.Reset()
	res := result(t, 2000, time.Millisecond)
	res.Config.Rate = 2000
	res.Errors, res.Problems, res.Interrupted = 3, []string{"read: connection reset by peer"}, true
	r := NewRun("kernel", res)
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "run.txt", b.Bytes())
}

func TestBenchstat(t *testing.T) {
	var b bytes.Buffer
	if err := comparison(t).Benchstat(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "comparison.bench", b.Bytes())
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		// A name, a number of iterations, and pairs of a value and a unit.
		if n := len(strings.Fields(line)); n%2 != 0 {
			t.Errorf("%d fields in %q", n, line)
		}
	}
}

// TestJSONKeys wants the keys that scripts depend on, with the right values.
func TestJSONKeys(t *testing.T) {
	c := comparison(t)
	var b bytes.Buffer
	if err := JSON(&b, c); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	at := func(path string) any {
		var v any = got
		for key := range strings.SplitSeq(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[key]
		}
		return v
	}
	want := map[string]any{
		"workload": "get", "conns": 50.0, "payload": 64.0, "pipeline": 1.0, "rounds": 3.0,
		"transports.kernel.rps":                   102_500.0,
		"transports.accel.rps":                    196_000.0,
		"transports.kernel.p50_us":                300.031, // within the histogram's three digits
		"transports.kernel.p99_us":                300.031,
		"transports.kernel.p999_us":               1500.159,
		"transports.kernel.max_us":                1500.159,
		"transports.kernel.server_cpu_ns_per_req": 1.8e9 / 205_000,
		"transports.kernel.client_cpu_ns_per_req": 1.9e9 / 205_000,
		"transports.kernel.errors":                0.0,
		"ratio.rps":                               196_000 / 102_500.0,
		"ratio.rps_min":                           192_000 / 105_000.0,
		"ratio.rps_max":                           200_000 / 100_000.0,
		"machine.cpu_model":                       "Test CPU <4 GHz>",
		"machine.dpdk":                            "22.11.11",
	}
	for path, w := range want {
		if g := at(path); !cmp.Equal(g, w) {
			t.Errorf("%s is %v, want %v", path, g, w)
		}
	}
	if p99, ok := at("ratio.p99").(float64); !ok || p99 < 0.39 || p99 > 0.41 {
		t.Errorf("ratio.p99 is %v, want 0.4", at("ratio.p99"))
	}
	if runs, _ := got["runs"].([]any); len(runs) != 6 {
		t.Errorf("%d runs, want 6", len(runs))
	}
	for _, figures := range []string{"transports.kernel", "transports.accel"} {
		m, _ := at(figures).(map[string]any)
		var keys []string
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if diff := cmp.Diff([]string{"client_cpu_ns_per_req", "errors", "max_us", "p50_us", "p999_us", "p99_us", "rps", "server_cpu_ns_per_req"}, keys); diff != "" {
			t.Errorf("keys of %s (-want +got):\n%s", figures, diff)
		}
	}

	back, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*Comparison{c}, back); diff != "" {
		t.Errorf("written and read again (-want +got):\n%s", diff)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, in := range []string{"", "{}", "[]", `{"runs":[{}]}`, "hello"} {
		if _, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), "compare -o json") {
			t.Errorf("Read(%q): %v", in, err)
		}
	}
}

// TestHTML wants one page that asks nobody for anything, with everything in it.
func TestHTML(t *testing.T) {
	c := comparison(t)
	c.Warnings = append(c.Warnings, "<script>alert(1)</script>")
	var b bytes.Buffer
	if err := HTML(&b, c); err != nil {
		t.Fatal(err)
	}
	html := b.String()
	foreign := regexp.MustCompile(`(?i)<script|<link|<img|<iframe|@import|url\(|\bsrc\s*=|href\s*=\s*["']?(https?:)?//`)
	if found := foreign.FindAllString(html, -1); found != nil {
		t.Errorf("the page holds %q", found)
	}
	for _, want := range []string{
		"<!DOCTYPE html>", c.Title(), "1.91×", "accel / kernel", "102,500", "196,000", "&lt;script&gt;", "Test CPU &lt;4 GHz&gt;",
		"99.9 %", // on the axis of percentiles
	} {
		if !strings.Contains(html, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(html, "<svg"); n != 2 {
		t.Errorf("%d charts, want latency and rounds", n)
	}
	if strings.Contains(html, "font-family:Lib") || strings.Contains(html, "#000000") {
		t.Error("a chart has a font or a colour of its own")
	}
	for _, transport := range c.Names() {
		r, g, bl, _ := colour(transport).RGBA()
		stroke := regexp.MustCompile(strings.ToUpper(hex(r>>8) + hex(g>>8) + hex(bl>>8)))
		if !stroke.MatchString(strings.ToUpper(html)) {
			t.Errorf("no curve in the colour of %s", transport)
		}
	}
}

// TestHTMLOfSweep has one page for three settings, with latency by load and the
// requests over the time of each run.
func TestHTMLOfSweep(t *testing.T) {
	var all []*Comparison
	for i := range 3 {
		c := comparison(t)
		c.Conns += i
		c.Command = "tpa-bench compare -c 1,2,3"
		c.ServerCPUs, c.ClientCPUs = []int{2, 3}, []int{4}
		for j := range c.Runs {
			c.Runs[j].Series = &Series{Step: 0.1, RPS: []float64{1000, 0, 2000}}
		}
		all = append(all, c)
	}
	var b bytes.Buffer
	if err := HTML(&b, all...); err != nil {
		t.Fatal(err)
	}
	html := b.String()
	for _, want := range []string{"Latency by load", "over time, every run", "tpa-bench compare -c 1,2,3", "server 2 3, client 4", "accel p99"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(html, "<svg"); n != 1+3*3 {
		t.Errorf("%d charts, want 10", n)
	}
	if strings.Contains(html, "connections p99") {
		t.Error("a line for each number of connections, want one through all")
	}
	for i, c := range all {
		c.Rate = float64(1000 * (i + 1))
	}
	more := *all[0]
	more.Rate = 3000
	b.Reset()
	if err := HTML(&b, append(all, &more)...); err != nil {
		t.Fatal(err)
	}
	// The others have one point each, which is no line.
	if want := fmt.Sprintf("accel, %d connections p99", all[0].Conns); strings.Count(b.String(), "connections p99") != 2 || !strings.Contains(b.String(), want) {
		t.Errorf("rates and connections differ: want one line for each transport, such as %s", want)
	}
}

// TestCaution warns of what one round, or a short one, does not show.
func TestCaution(t *testing.T) {
	r := NewRun("kernel", result(t, 100, time.Millisecond))
	if c := NewComparison([]Run{r}, 1, machine.Facts{}); !strings.Contains(strings.Join(c.Warnings, "\n"), "one round") {
		t.Errorf("one round: warnings %q", c.Warnings)
	}
	again := r
	r.Round, again.Round, r.Seconds, again.Seconds = 1, 2, 0.5, 0.5
	if c := NewComparison([]Run{r, again}, 1, machine.Facts{}); !strings.Contains(strings.Join(c.Warnings, "\n"), "short") {
		t.Errorf("short rounds: warnings %q", c.Warnings)
	}
}

func hex(v uint32) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[v>>4&15], digits[v&15]})
}

// TestHTMLOfLittle draws what has no spread, no requests, or one transport.
func TestHTMLOfLittle(t *testing.T) {
	for name, res := range map[string]*load.Result{
		"one request": result(t, 1, time.Millisecond),
		"none":        result(t, 0, time.Millisecond),
	} {
		c := NewComparison([]Run{NewRun("kernel", res)}, 1, machine.Facts{})
		var b bytes.Buffer
		if err := HTML(&b, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(b.String(), "NaN") {
			t.Errorf("%s: the page holds NaN", name)
		}
		if c.Ratio != nil {
			t.Errorf("%s: a ratio of one transport", name)
		}
	}
}

// TestReadRuns reads what a sweep of run wrote.
func TestReadRuns(t *testing.T) {
	var b bytes.Buffer
	want := []float64{50_000, 100_000}
	for _, rps := range want {
		r := NewRun("accel", result(t, uint64(2*rps), time.Millisecond))
		r.Machine = &machine.Facts{CPUModel: "Test CPU", Revision: "ab12cd3"}
		if err := JSON(&b, &r); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Read(&b)
	if err != nil || len(all) != len(want) {
		t.Fatalf("%d results, %v, want %d", len(all), err, len(want))
	}
	for i, c := range all {
		if got := c.Transports["accel"].RPS; got != want[i] {
			t.Errorf("run %d: %v requests/s, want %v", i, got, want[i])
		}
		var page strings.Builder
		if err := HTML(&page, c); err != nil || !strings.Contains(page.String(), "Test CPU") || !strings.Contains(page.String(), "ab12cd3") {
			t.Errorf("run %d: %v, want a page with the processor and the source", i, err)
		}
	}
}

func TestChance(t *testing.T) {
	tests := []struct {
		a, b []float64
		want float64
	}{
		{[]float64{1, 2, 3, 4, 5}, []float64{6, 7, 8, 9, 10}, 2.0 / 252},
		{[]float64{10, 9, 8, 7}, []float64{1, 2, 3, 4}, 2.0 / 70},
		{[]float64{1, 3}, []float64{2, 4}, 4.0 / 6}, // U is 1
		{[]float64{1, 1, 1}, []float64{1, 1, 1}, 1},
		{[]float64{1}, []float64{2}, 1},
		{nil, []float64{1}, 1},
	}
	for _, tt := range tests {
		for _, got := range []float64{chance(tt.a, tt.b), chance(tt.b, tt.a)} {
			if math.Abs(got-tt.want) > 1e-9 {
				t.Errorf("%v and %v: %v, want %v", tt.a, tt.b, got, tt.want)
			}
		}
	}
}

// TestCorrected has one connection that asks every 100 µs and is held up for 1 ms
// once in 100 requests: 9 more that would have waited 0.1 to 0.9 ms.
func TestCorrected(t *testing.T) {
	h := hdrhistogram.New(1, int64(time.Minute), 3)
	h.RecordValues(int64(100*time.Microsecond), 99)
	h.RecordValue(int64(time.Millisecond))
	c := correct(h, float64(100*time.Microsecond))
	if c.P50 > 101 || c.P99 < 890 || c.P99 > 1001 {
		t.Errorf("corrected p50 %v and p99 %v µs, want 100 and about 900", c.P50, c.P99)
	}
}

func TestDiff(t *testing.T) {
	before, after := comparison(t), comparison(t)
	for i := range after.Runs {
		after.Runs[i].RPS *= 1.5
	}
	var b bytes.Buffer
	if err := Diff(&b, []*Comparison{before}, []*Comparison{after}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"get, 50 connections", "kernel", "accel", "+50.0 %", "~ +0.0 %"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	after.Conns++
	if err := Diff(&b, []*Comparison{before}, []*Comparison{after}); err == nil {
		t.Error("no error for results that have nothing in common")
	}
}

func TestCSVAndHDR(t *testing.T) {
	c := comparison(t)
	var b bytes.Buffer
	if err := errors.Join(CSVHeader(&b), c.CSV(&b)); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&b).ReadAll() // wants as many fields in each
	if err != nil || len(lines) != 1+len(c.Runs) {
		t.Errorf("%d lines, %v, want %d", len(lines), err, 1+len(c.Runs))
	}
	b.Reset()
	if err := c.HDR(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"#[Transport = kernel]", "#[Transport = accel]", "Percentile", "#[Mean"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%.400s", want, b.String())
		}
	}
}

// TestRedisColumn has a redis-server beside the two transports.
func TestRedisColumn(t *testing.T) {
	c := NewComparison([]Run{
		NewRun("kernel", result(t, 200_000, 300*time.Microsecond)),
		NewRun("accel", result(t, 400_000, 120*time.Microsecond)),
		NewRun("redis", result(t, 160_000, 400*time.Microsecond)),
	}, 1, machine.Facts{})
	if c.Ratio.RPS != 2 || c.RedisRatio.RPS != 2.5 {
		t.Errorf("ratios %v and %v, want 2 and 2.5", c.Ratio.RPS, c.RedisRatio.RPS)
	}
	header, lines := c.rows()
	if want := (row{"", "kernel", "accel", "redis", "accel / kernel", "accel / redis"}); !slices.Equal(header, want) {
		t.Errorf("columns %q, want %q", header, want)
	}
	for _, l := range lines {
		if len(l) != len(header) {
			t.Errorf("line %q has %d cells, want %d", l[0], len(l), len(header))
		}
	}
	if got, want := c.Conditions(), "redis-server like kernel"; !strings.Contains(got, want) {
		t.Errorf("conditions %q lack %q", got, want)
	}
}

// TestWarnings says what a reader must know, and nothing of a good run.
func TestWarnings(t *testing.T) {
	tests := []struct {
		name   string
		change func(*load.Result)
		want   string // empty: no warning
	}{
		{"good", func(*load.Result) {}, ""},
		{"generator saturated", func(r *load.Result) { r.Config.Rate = 200_000; r.ClientCPU = r.Elapsed },
			"the generator is saturated: it reached 100,000 of 200,000 requests/s with nothing of its 1 processor to spare"},
		{"polling generator saturated", func(r *load.Result) {
			r.Config.Rate = 200_000
			r.Counters = load.Counters{Busy: 98, Idle: 2}
		}, "the generator is saturated: "},
		{"server saturated", func(r *load.Result) { r.Config.Rate = 200_000; r.ClientCPU = r.Elapsed / 2 },
			"only 100,000 of 200,000 requests/s were answered: the latencies are those of a queue that grows"},
		{"generator polls and has time", func(r *load.Result) {
			r.Config.Rate = 200_000
			r.ClientCPU = r.Elapsed
			r.Counters = load.Counters{Busy: 50, Idle: 50}
		}, "only 100,000 of 200,000"},
		{"closed loop, client is the limit", func(r *load.Result) { r.ClientCPU = r.Elapsed; r.ServerCPU = r.Elapsed / 2 },
			"the generator is the limit: it had nothing of its 1 processor to spare, the server used 50% of its 1"},
		{"closed loop, both poll, client is the limit", func(r *load.Result) {
			r.Counters, r.Server = load.Counters{Busy: 98, Idle: 2}, load.Counters{Busy: 60, Idle: 40}
		}, "the generator is the limit: it had nothing of its 1 processor to spare, the server used 60% of its 1"},
		{"closed loop, both poll, both work", func(r *load.Result) {
			r.Counters, r.Server = load.Counters{Busy: 98, Idle: 2}, load.Counters{Busy: 95, Idle: 5}
		}, ""},
		{"stolen", func(r *load.Result) { r.Stolen = 0.02 }, "noisy: the hypervisor took 2.0% of the processors' time"},
		{"others", func(r *load.Result) { r.Others = 0.2 }, "noisy: other processes used 20.0% of the processors' time"},
		{"unanswered", func(r *load.Result) { r.Unanswered = 2 }, "2 requests were not answered within 2 s of the end"},
		{"retransmits", func(r *load.Result) { r.Counters.Retransmits = 300 }, "300 segments sent again, so many were lost or late"},
		{"lost", func(r *load.Result) { r.Counters.Lost = 1 }, "the client's side lost 1 frame"},
		{"late", func(r *load.Result) {
			r.Config.Rate = 100_000
			r.Late = hdrhistogram.New(1, 1e9, 3)
			r.Late.RecordValue(int64(100 * time.Microsecond))
		}, "the generator woke 100 µs late at the median: that much of the latency is its own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := result(t, 200_000, 300*time.Microsecond)
			tt.change(res)
			r := NewRun("kernel", res)
			got := strings.Join(r.Warnings, "; ")
			if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) || len(r.Warnings) > 1 {
				t.Errorf("warnings %q, want %q", got, tt.want)
			}
		})
	}
}

func TestComparisonWarns(t *testing.T) {
	run := func(transport string, round int, requests uint64) Run {
		r := NewRun(transport, result(t, requests, time.Millisecond))
		r.Round = round
		return r
	}
	c := NewComparison([]Run{
		run("kernel", 1, 100_000), run("accel", 1, 110_000),
		run("kernel", 2, 130_000), run("accel", 2, 111_000),
	}, 1, machine.Facts{})
	got := strings.Join(c.Warnings, "\n")
	for _, want := range []string{
		"noisy: the rounds of kernel lie between 50,000 and 65,000 requests/s",
		"no clear difference in requests/s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("warnings %q lack %q", got, want)
		}
	}
	if strings.Contains(got, "rounds of accel") {
		t.Errorf("warnings %q call accel noisy", got)
	}
}

func TestFailed(t *testing.T) {
	bad := NewRun("kernel", result(t, 1000, time.Millisecond))
	bad.Round, bad.Errors, bad.Problems = 2, 3, []string{"read: connection reset by peer"}
	good := NewRun("accel", result(t, 1000, time.Millisecond))
	if err := good.Failed(); err != nil {
		t.Errorf("a good run failed: %v", err)
	}
	c := NewComparison([]Run{good, bad}, 1, machine.Facts{})
	if err := c.Failed(); err == nil || err.Error() != "kernel, round 2: 3 errors, such as: read: connection reset by peer" {
		t.Errorf("error %v", err)
	}
	none := NewRun("kernel", result(t, 0, time.Millisecond))
	if none.Failed() == nil {
		t.Error("a run without requests is a success")
	}
}

func TestNumbers(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{grouped(0), "0"}, {grouped(999), "999"}, {grouped(1000), "1,000"}, {grouped(1234567.6), "1,234,568"}, {grouped(-1234), "-1,234"},
		{micro(1.26), "1.3 µs"}, {micro(99.94), "99.9 µs"}, {micro(700), "700 µs"}, {micro(1234), "1,234 µs"}, {micro(12_340), "12.3 ms"}, {micro(2.5e6), "2.50 s"},
		{cpu(-1), "?"}, {cpu(6900), "6.90 µs"}, {times(2.131), "2.13x"},
		{bits(1e9 / 8), "1.00 Gbit/s"}, {bits(1e6 / 8), "1.0 Mbit/s"}, {bits(125), "1 kbit/s"},
		{count(1, "round"), "1 round"}, {count(1200, "round"), "1,200 rounds"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median is %v, want %v", got, tt.want)
		}
	}
}
