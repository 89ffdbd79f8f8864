package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// reading is one counter or gauge at one moment. Unlike the library's constant metrics it
// does not make its labels anew for each scrape, which was half of what a scrape
// cost.
type reading struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	value  float64
	// counter and gauge hold value for Write; kind says which of them.
	counter dto.Counter
	gauge   dto.Gauge
	kind    kind
}

var _ prometheus.Metric = (*reading)(nil)

// Desc implements prometheus.Metric.
func (r *reading) Desc() *prometheus.Desc { return r.desc }

// Write implements prometheus.Metric.
func (r *reading) Write(out *dto.Metric) error {
	out.Label = r.labels
	if r.kind == counter {
		r.counter.Value = &r.value
		out.Counter = &r.counter
	} else {
		r.gauge.Value = &r.value
		out.Gauge = &r.gauge
	}
	return nil
}

// maxLabels bounds a labelCache: addresses of listeners come and go.
const maxLabels = 1 << 14

// A labelCache keeps the labels of series from one scrape to the next.
type labelCache struct {
	mu    sync.Mutex
	pairs map[string][]*dto.LabelPair
	key   []byte
}

// of returns the labels of a series: the values of all of the metric's, in the
// order of its description.
func (c *labelCache) of(name string, desc *prometheus.Desc, common, own []string) []*dto.LabelPair {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key = append(c.key[:0], name...)
	for _, values := range [2][]string{common, own} {
		for _, v := range values {
			c.key = append(append(c.key, 0xff), v...) // no byte of UTF-8
		}
	}
	if pairs, ok := c.pairs[string(c.key)]; ok {
		return pairs
	}
	if c.pairs == nil || len(c.pairs) >= maxLabels {
		c.pairs = make(map[string][]*dto.LabelPair)
	}
	pairs := prometheus.MakeLabelPairs(desc, append(common[:len(common):len(common)], own...))
	c.pairs[string(c.key)] = pairs
	return pairs
}
