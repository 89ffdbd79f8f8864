package main

import (
	"strings"
	"testing"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
)

func TestSLO(t *testing.T) {
	figures := report.Figures{RPS: 100_000, P50: 50, P99: 200, P999: 1500, Max: 9000}
	tests := []struct {
		bounds string
		want   string // part of the error; empty: kept
	}{
		{"", ""},
		{"p99<201us", ""},
		{"p99<0.2ms", "p99<0.2ms is broken by it: 200µs"},
		{"p99<1ms,rps>100000", "rps>100000 is broken by it: 100000"},
		{"p99.9<1ms,max<1s,errors<1", "p99.9<1ms is broken by it: 1.5ms"},
		{"rps>99e3,p50<60us,errors<1", ""},
	}
	for _, tt := range tests {
		var s slo
		if tt.bounds != "" {
			if err := s.Set(tt.bounds); err != nil {
				t.Fatalf("%s: %v", tt.bounds, err)
			}
		}
		err := s.checkFigures("it", figures)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.bounds, err, tt.want)
		}
	}
	for _, wrong := range []string{"p99", "p98<1ms", "p99<fast", "p99<-1ms", "rps>many", ","} {
		if err := new(slo).Set(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
