package accel

import "time"

// A Histogram is the distribution of durations at one moment.
type Histogram struct {
	// Bounds are the upper bounds of the buckets, inclusive, from 10 µs to 10 s. It
	// must not be changed.
	Bounds []time.Duration `json:"bounds_ns"`
	// Counts has one element for each bound, the number of durations in that
	// bucket alone, and a last one for those above all bounds.
	Counts []uint64 `json:"counts"`
	// Sum is the sum of all durations.
	Sum time.Duration `json:"sum_ns"`
}

// Count is the number of durations.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile estimates the duration that a part q, 0 to 1, of all durations does
// not exceed: the upper bound of its bucket, 0 for an empty histogram.
func (h Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	var n uint64
	for i, b := range h.Bounds {
		if n += h.Counts[i]; float64(n) >= q*float64(total) {
			return b
		}
	}
	return h.Bounds[len(h.Bounds)-1]
}
