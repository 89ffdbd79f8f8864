// Package debug serves pages about a runtime, as net/http/pprof does about a
// program. It is a package of its own because html/template and net/http make a
// program larger; package accel does without them.
package debug

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/accel"
)

// Options are for a Handler. The zero value works.
type Options struct {
	// Remote lets the handler answer clients on other hosts. Default: only those on
	// this host.
	Remote bool
}

// Handler serves pages about a runtime. Mount it on any path that ends in a slash:
//
//	http.Handle("/debug/tpa/", debug.Handler(rt, debug.Options{}))
//
// The path itself is a page for people. Its parameters are refresh=N, to load it
// anew every N seconds, sort=NAME, a column of the table of connections, and
// conns=N, how many of them to show (default 100). Below it, status.json is an
// accel.Status, and recording what the flight recorder holds, for tpa-bench trace.
func Handler(rt *accel.Runtime, o Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !o.Remote && !fromThisHost(r) {
			http.Error(w, "This page answers clients on the same host only, by address or as localhost. debug.Options.Remote opens it to others.", http.StatusForbidden)
			return
		}
		serve(rt, w, r)
	})
}

// fromThisHost tells whether a request came from this host, and was meant for it:
// a web page elsewhere can make a browser here send requests under a name of its
// own.
func fromThisHost(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func serve(rt *accel.Runtime, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "These pages only show: want GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case strings.HasSuffix(r.URL.Path, "/") || r.URL.Path == "":
		servePage(rt, w, r)
	case path.Base(r.URL.Path) == "status.json":
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(rt.Status())
	case path.Base(r.URL.Path) == "recording":
		recording := rt.Recording()
		if recording == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(recording)
	default:
		http.NotFound(w, r)
	}
}

const (
	// rateTime is how long a page measures to show rates.
	rateTime = 250 * time.Millisecond
	// pageConns is how many connections a page shows unless it is asked for more.
	pageConns = 100
	// minRefresh is the shortest time between two loads of a page, in seconds.
	minRefresh = 1
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"count": count, "bytes": byteCount, "ago": since, "short": short, "nonzero": nonzero, "percent": percent, "cssPercent": cssPercent,
}).Parse(pageSource))

// page is what the template shows.
type page struct {
	accel.Status
	Refresh int
	Sort    string
	Columns []column
	// Total is the number of connections, of which Conns holds the first.
	Total int
	Rates []shardRate
	// Sum is all of Rates together, nil for one shard.
	Sum *shardRate
	// Lost are places that lost packets, Lossless counts the others.
	Lost     []dropRate
	Lossless int
	// Limits tell how near the limits are, History is drawn from the last minutes.
	Usage   []usage
	History []chart
	Span    time.Duration // of the history
	// Set are settings other than the default.
	Set []accel.SettingStatus
	// Runtime is how long the runtime has run.
	Uptime time.Duration
	// Events are newest first here.
	Events []accel.Event
}

// A column is one of the table of connections. Its table is sorted with the
// greatest first, but for texts.
type column struct {
	Name, Title string
	Number      bool
	order       func(a, b *accel.ConnStatus) int
}

func by[T cmp.Ordered](f func(*accel.ConnStatus) T) func(a, b *accel.ConnStatus) int {
	return func(a, b *accel.ConnStatus) int { return cmp.Compare(f(b), f(a)) }
}

var columns = []column{
	{"shard", "Shard", true, func(a, b *accel.ConnStatus) int { return cmp.Compare(a.Shard, b.Shard) }},
	{"state", "State", false, func(a, b *accel.ConnStatus) int { return cmp.Compare(a.State, b.State) }},
	{"local", "Local", false, func(a, b *accel.ConnStatus) int { return cmp.Compare(a.Local, b.Local) }},
	{"remote", "Peer", false, func(a, b *accel.ConnStatus) int { return cmp.Compare(a.Remote, b.Remote) }},
	{"age", "Age", true, by(func(c *accel.ConnStatus) time.Duration { return c.Age })},
	{"rtt", "RTT", true, by(func(c *accel.ConnStatus) time.Duration { return c.RTT })},
	{"rto", "RTO", true, by(func(c *accel.ConnStatus) time.Duration { return c.RTO })},
	{"cwnd", "Cwnd", true, by(func(c *accel.ConnStatus) uint32 { return c.Cwnd })},
	{"retransmits", "Retr.", true, by(func(c *accel.ConnStatus) uint64 { return c.Retransmits })},
	{"timeouts", "Timeouts", true, by(func(c *accel.ConnStatus) uint64 { return c.Timeouts })},
	{"queue", "Unread", true, by(func(c *accel.ConnStatus) int { return c.ReceiveQueue })},
	{"unacked", "Unacked", true, by(func(c *accel.ConnStatus) int { return c.SendQueue })},
	{"read", "Read", true, by(func(c *accel.ConnStatus) uint64 { return c.Read })},
	{"written", "Written", true, by(func(c *accel.ConnStatus) uint64 { return c.Written })},
}

// shardRate is what a shard did while the page measured.
type shardRate struct {
	accel.ShardStats
	Index                int
	Now                  float64 // busy share
	RxPackets, TxPackets float64 // per second
	RxBits, TxBits       float64 // per second
	RxBurst, TxBurst     float64 // mean frames, 0 without any
	Histogram            []bar   // of receive bursts since the start
	RTT50, RTT99         time.Duration
}

// A bar of a histogram: how high, 0 to 1, and what it counts.
type bar struct {
	Height float64
	Title  string
}

type dropRate struct {
	accel.Drop
	PerSecond float64
}

func servePage(rt *accel.Runtime, w http.ResponseWriter, r *http.Request) {
	before := rt.Status()
	if before.Accelerated {
		select {
		case <-time.After(rateTime):
		case <-r.Context().Done():
			return
		}
	}
	p := page{Status: rt.Status(), Sort: r.FormValue("sort"), Columns: columns}
	seconds := p.Time.Sub(before.Time).Seconds()
	if n, err := strconv.Atoi(r.FormValue("refresh")); err == nil && n > 0 {
		p.Refresh = max(n, minRefresh)
	}
	p.Uptime = p.Time.Sub(p.Program.Started)
	p.Events = slices.Clone(p.Status.Events)
	slices.Reverse(p.Events)
	if p.Accelerated {
		p.addRates(&before, seconds)
		p.Usage = usages(&p.Status)
		samples := rt.History()
		if p.History = charts(samples, len(p.Shards)); p.History != nil {
			p.Span = samples[len(samples)-1].Time.Sub(samples[0].Time)
		}
	}
	p.sortConns(r.FormValue("conns"))
	for _, s := range p.Settings {
		if !s.Default {
			p.Set = append(p.Set, s)
		}
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, &p); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// The page needs nothing from elsewhere and no script.
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Write(b.Bytes())
}

// sortConns sorts the connections and keeps the first, as many as asked for.
func (p *page) sortConns(limit string) {
	i := slices.IndexFunc(columns, func(c column) bool { return c.Name == p.Sort })
	if i < 0 {
		p.Sort, i = "written", slices.IndexFunc(columns, func(c column) bool { return c.Name == "written" })
	}
	slices.SortStableFunc(p.Conns, func(a, b accel.ConnStatus) int {
		if order := columns[i].order(&a, &b); order != 0 {
			return order
		}
		return cmp.Compare(a.Remote, b.Remote)
	})
	p.Total = len(p.Conns)
	n, err := strconv.Atoi(limit)
	if err != nil || n < 0 {
		n = pageConns
	}
	p.Conns = p.Conns[:min(n, p.Total)]
}

func (p *page) addRates(before *accel.Status, seconds float64) {
	per := func(now, then uint64) float64 { return float64(now-then) / seconds }
	mean := func(frames uint64, bursts, then []uint64) float64 {
		var n uint64
		for i := range bursts {
			n += bursts[i] - then[i]
		}
		if n == 0 {
			return 0
		}
		return float64(frames) / float64(n)
	}
	for i, s := range p.Shards {
		was := &before.Shards[i]
		p.Rates = append(p.Rates, shardRate{
			ShardStats: s, Index: i,
			Now:       min(1, (s.Poller.Busy-was.Poller.Busy).Seconds()/seconds),
			RxPackets: per(s.Queue.RxFrames, was.Queue.RxFrames), TxPackets: per(s.Queue.TxFrames, was.Queue.TxFrames),
			RxBits: 8 * per(s.Queue.RxBytes, was.Queue.RxBytes), TxBits: 8 * per(s.Queue.TxBytes, was.Queue.TxBytes),
			RxBurst:   mean(s.Queue.RxFrames-was.Queue.RxFrames, s.Poller.Bursts[:], was.Poller.Bursts[:]),
			TxBurst:   mean(s.Queue.TxFrames-was.Queue.TxFrames, s.Link.TxBursts[:], was.Link.TxBursts[:]),
			Histogram: bars(s.Poller.Bursts[:]),
			RTT50:     s.Conns.RTT.Quantile(0.5), RTT99: s.Conns.RTT.Quantile(0.99),
		})
	}
	for i, d := range p.Drops {
		if d.Packets == 0 {
			p.Lossless++
			continue
		}
		p.Lost = append(p.Lost, dropRate{d, per(d.Packets, before.Drops[i].Packets)})
	}
	for i := range p.Rates {
		if r := &p.Rates[i]; r.RTT50 == 0 {
			r.RTT50, r.RTT99 = p.rtt(i)
		}
	}
	if len(p.Rates) > 1 {
		p.Sum = sumOf(p.Rates)
	}
}

// rtt returns quantiles of the round-trip times of a shard's connections, for as long
// as the runtime has not sampled them.
func (p *page) rtt(shard int) (p50, p99 time.Duration) {
	var all []time.Duration
	for _, c := range p.Conns {
		if c.Shard == shard && c.RTT > 0 {
			all = append(all, c.RTT)
		}
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

// sumOf adds up what can be added.
func sumOf(rates []shardRate) *shardRate {
	sum := new(shardRate)
	for _, r := range rates {
		sum.Now += r.Now / float64(len(rates))
		sum.RxPackets += r.RxPackets
		sum.TxPackets += r.TxPackets
		sum.RxBits += r.RxBits
		sum.TxBits += r.TxBits
		sum.Poller.Sleeps += r.Poller.Sleeps
		sum.Flows += r.Flows
		sum.TCP.Retransmits += r.TCP.Retransmits
	}
	return sum
}

// bars draws counts by link.BurstBucket.
func bars(counts []uint64) []bar {
	var total uint64
	for _, n := range counts {
		total += n
	}
	all := make([]bar, len(counts))
	for i, n := range counts {
		low, high := 1<<i, 2<<i-1
		size := fmt.Sprintf("%d to %d frames", low, high)
		if low == high {
			size = "1 frame"
		} else if i == len(counts)-1 {
			size = fmt.Sprintf("%d frames and more", low)
		}
		all[i].Title = fmt.Sprintf("%s: %s bursts", size, count(n))
		if total > 0 {
			all[i].Height = float64(n) / float64(total)
		}
	}
	return all
}

// count writes a number with three significant digits and a prefix: 1.23 M.
func count(v any) string {
	var f float64
	switch n := v.(type) {
	case uint64:
		if n < 10000 {
			return strconv.FormatUint(n, 10)
		}
		f = float64(n)
	case int:
		return count(uint64(n))
	case float64:
		f = n
	}
	return scaled(f, 1000, []string{"", " k", " M", " G", " T", " P", " E"})
}

// byteCount writes a number of bytes: 1.23 MB.
func byteCount(v any) string {
	var f float64
	switch n := v.(type) {
	case uint64:
		f = float64(n)
	case int:
		f = float64(n)
	}
	return scaled(f, 1000, []string{" B", " kB", " MB", " GB", " TB", " PB", " EB"})
}

func scaled(f, base float64, units []string) string {
	i := 0
	for math.Abs(f) >= base && i < len(units)-1 {
		f /= base
		i++
	}
	digits := 0
	if f != math.Trunc(f) || i > 0 {
		digits = max(0, 2-int(math.Log10(max(1, math.Abs(f)))))
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + units[i]
}

func percent(f float64) string { return strconv.FormatFloat(100*f, 'f', 1, 64) + " %" }

// cssPercent writes a share as CSS has it.
func cssPercent(f float64) template.CSS {
	return template.CSS(strconv.FormatFloat(100*f, 'f', 1, 64) + "%")
}

// short writes a duration with three significant digits.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < time.Millisecond:
		return scaled(float64(d)/1e3, math.Inf(1), []string{" µs"})
	case d < time.Second:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 1, 64) + " ms"
	}
	return since(d)
}

// since writes how long something lasts, to the second.
func since(d time.Duration) string {
	if d < 10*time.Second {
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	s := d.Round(time.Second)
	days := s / (24 * time.Hour)
	if days > 0 {
		return fmt.Sprintf("%dd %v", days, s-days*24*time.Hour)
	}
	return s.String()
}
