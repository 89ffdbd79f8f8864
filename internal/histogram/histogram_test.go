package histogram

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 10 * time.Microsecond, 10*time.Microsecond + 1, time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	s := h.Snapshot()
	for bucket, want := range map[int]uint64{0: 2, 1: 1, 6: 1, len(s.Bounds): 1} {
		if got := s.Counts[bucket]; got != want {
			t.Errorf("bucket %d: got %d, want %d", bucket, got, want)
		}
	}
	if want := time.Hour + time.Millisecond + 20*time.Microsecond + 1; s.Sum != want {
		t.Errorf("sum: got %v, want %v", s.Sum, want)
	}
}
