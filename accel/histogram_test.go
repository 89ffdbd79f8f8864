package accel

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	if got := (Histogram{}).Quantile(0.5); got != 0 {
		t.Errorf("median of nothing: got %v, want 0", got)
	}
	h := Histogram{Bounds: []time.Duration{10, 25, 50}, Counts: []uint64{2, 1, 1, 1}}
	if got, want := h.Count(), uint64(5); got != want {
		t.Errorf("count: got %d, want %d", got, want)
	}
	for q, want := range map[float64]time.Duration{0.4: 10, 0.5: 25, 0.8: 50, 1: 50} {
		if got := h.Quantile(q); got != want {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
}
