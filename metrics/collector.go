// Package metrics exports a runtime's counters to Prometheus.
//
//	reg.MustRegister(metrics.NewCollector(rt, metrics.Options{PerQueue: true}))
//
// or, for a program that has no registry of its own,
//
//	http.Handle("/metrics", metrics.Handler(rt))
//
// # How it costs nothing
//
// Nothing is counted here. Each scrape calls accel.Runtime.Stats once, which
// loads counters that their owners, pollers above all, keep anyway, and makes
// metrics of them. It takes no lock of the data path but that of each connection,
// for a moment, and what has to be asked of a device's driver is asked by the
// goroutine of the scrape, never by a poller.
//
// # Names
//
// Names, types and units follow prometheus.io's conventions. Labels are bounded
// and known when the runtime starts: port, queue, cpu and fixed sets of words;
// the address of a listener is the only one that the program chooses. No label
// ever holds a peer's address, a port number of a connection, or an error text.
//
// A program with several runtimes wraps each collector's registerer with a label
// of its own: prometheus.WrapRegistererWith.
package metrics

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gotpa/tpa/accel"
)

// Options choose what is exported. The zero value works.
type Options struct {
	// PerQueue exports one series per queue where there are queues, with the label
	// queue: about 130 for each. Default: the sums over all queues.
	PerQueue bool
	// Extended exports the driver's own counters whose names match, as
	// tpa_port_extended_total with the label name. Default: none.
	Extended *regexp.Regexp
}

// NewCollector returns a collector of the runtime's metrics, for one registry.
// It stays valid when the runtime is closed.
func NewCollector(rt *accel.Runtime, o Options) prometheus.Collector {
	return newCollector(rt.Stats, o)
}

func newCollector(stats func() accel.Stats, o Options) *collector {
	c := &collector{stats: stats, options: o}
	for _, m := range portMetrics {
		c.ports = append(c.ports, m.describe("port"))
	}
	for _, m := range sharingMetrics {
		c.sharing = append(c.sharing, m.describe("port"))
	}
	for _, m := range queueMetrics {
		if o.PerQueue {
			c.queues = append(c.queues, m.describe("port", "queue"))
		} else {
			c.queues = append(c.queues, m.describe("port"))
		}
	}
	for _, m := range runtimeMetrics {
		c.runtime = append(c.runtime, m.describe())
	}
	return c
}

type collector struct {
	stats   func() accel.Stats
	options Options
	// These go with the tables of the same name, element by element.
	runtime, ports, sharing, queues []*prometheus.Desc
	labels                          labelCache
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, descs := range [][]*prometheus.Desc{c.runtime, c.ports, c.sharing, c.queues} {
		for _, d := range descs {
			ch <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	collect(c, ch, c.runtime, runtimeMetrics, scrape{&s, c.options})
	if !s.Accelerated {
		return
	}
	port := s.Info.Name
	collect(c, ch, c.ports, portMetrics, scrape{&s, c.options}, port)
	collect(c, ch, c.sharing, sharingMetrics, scrape{&s, c.options}, port)
	if c.options.PerQueue {
		for i := range s.Shards {
			collect(c, ch, c.queues, queueMetrics, queue{&s, i}, port, strconv.Itoa(i))
		}
		return
	}
	for i, m := range queueMetrics {
		var total []sample
		for q := range s.Shards {
			total = sum(total, m.read(queue{&s, q}))
		}
		c.send(ch, c.queues[i], m.name, m.kind, total, []string{port})
	}
}

// scrape is what port and runtime metrics are made of.
type scrape struct {
	*accel.Stats
	options Options
}

// queue is what queue metrics are made of.
type queue struct {
	*accel.Stats
	index int
}

func (q queue) shard() *accel.ShardStats { return &q.Shards[q.index] }

type kind int

const (
	counter kind = iota
	gauge
	histogram
)

// A metric says how one metric is made of a source: its name without the prefix
// tpa_, and its labels besides port and queue.
type metric[source any] struct {
	name   string
	kind   kind
	help   string
	labels []string
	read   func(source) []sample
}

// A sample is one series of a metric.
type sample struct {
	labels []string
	value  float64
	// count, total and buckets make a histogram: how many values, their sum, and
	// how many of them are at most the upper bound of each bucket.
	count   uint64
	total   float64
	buckets map[float64]uint64
}

func (m *metric[source]) describe(labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tpa_"+m.name, m.help, append(labels, m.labels...), nil)
}

func collect[source any](c *collector, ch chan<- prometheus.Metric, descs []*prometheus.Desc, table []metric[source], from source, labels ...string) {
	for i := range table {
		c.send(ch, descs[i], table[i].name, table[i].kind, table[i].read(from), labels)
	}
}

func (c *collector) send(ch chan<- prometheus.Metric, desc *prometheus.Desc, name string, k kind, samples []sample, labels []string) {
	for _, s := range samples {
		if k == histogram {
			values := append(labels[:len(labels):len(labels)], s.labels...)
			ch <- prometheus.MustNewConstHistogram(desc, s.count, s.total, s.buckets, values...)
			continue
		}
		ch <- &reading{desc: desc, labels: c.labels.of(name, desc, labels, s.labels), value: s.value, kind: k}
	}
}

// sum adds series with equal labels.
func sum(to, from []sample) []sample {
next:
	for _, f := range from {
		for i := range to {
			t := &to[i]
			if strings.Join(t.labels, "\xff") != strings.Join(f.labels, "\xff") {
				continue
			}
			t.value += f.value
			t.count += f.count
			t.total += f.total
			for bound, n := range f.buckets {
				t.buckets[bound] += n
			}
			continue next
		}
		to = append(to, f)
	}
	return to
}

// one is a metric with a single series.
func one[n int | int64 | uint32 | uint64 | float64](v n) []sample {
	return []sample{{value: float64(v)}}
}

// series is one of several series that differ in their labels.
func series[n int | int64 | uint32 | uint64 | float64](v n, labels ...string) sample {
	return sample{labels: labels, value: float64(v)}
}

func flag(b bool) []sample {
	if b {
		return one(1)
	}
	return one(0)
}

// durations makes a histogram in seconds.
func durations(h accel.Histogram) []sample {
	s := sample{count: h.Count(), total: h.Sum.Seconds(), buckets: make(map[float64]uint64, len(h.Bounds))}
	var n uint64
	for i, b := range h.Bounds {
		n += h.Counts[i]
		s.buckets[b.Seconds()] = n
	}
	return []sample{s}
}

// bursts makes a histogram of counts by link.BurstBucket and the sum of frames.
func bursts(counts []uint64, frames uint64) []sample {
	s := sample{total: float64(frames), buckets: make(map[float64]uint64, len(counts))}
	for i, n := range counts {
		s.count += n
		if i < len(counts)-1 { // the last one has no bound
			s.buckets[float64(int(2)<<i-1)] = s.count
		}
	}
	return []sample{s}
}

// build describes the program and the libraries in it.
func build(dpdk string) []string {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return []string{accel.Version(), revision, runtime.Version(), strings.TrimPrefix(dpdk, "DPDK ")}
}
