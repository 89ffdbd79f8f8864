package histogram

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	if got := h.Snapshot().Quantile(0.5); got != 0 {
		t.Errorf("median of nothing: got %v, want 0", got)
	}
	for _, d := range []time.Duration{0, 10 * time.Microsecond, 10*time.Microsecond + 1, time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	s := h.Snapshot()
	for bucket, want := range map[int]uint64{0: 2, 1: 1, 6: 1, len(s.Bounds): 1} {
		if got := s.Counts[bucket]; got != want {
			t.Errorf("bucket %d: got %d, want %d", bucket, got, want)
		}
	}
	if got, want := s.Count(), uint64(5); got != want {
		t.Errorf("count: got %d, want %d", got, want)
	}
	if want := time.Hour + time.Millisecond + 20*time.Microsecond + 1; s.Sum != want {
		t.Errorf("sum: got %v, want %v", s.Sum, want)
	}
	for q, want := range map[float64]time.Duration{0.4: 10 * time.Microsecond, 0.5: 25 * time.Microsecond, 0.8: time.Millisecond, 1: 10 * time.Second} {
		if got := s.Quantile(q); got != want {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
	twice := s.Add(s)
	if twice.Count() != 10 || twice.Sum != 2*s.Sum || s.Count() != 5 {
		t.Errorf("sum of two: got %d in %v, and the first has %d; want 10 in %v and 5", twice.Count(), twice.Sum, s.Count(), 2*s.Sum)
	}
	if got := (Snapshot{}).Add(s).Count(); got != 5 {
		t.Errorf("sum with nothing: got %d, want 5", got)
	}
}
