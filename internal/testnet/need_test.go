package testnet

import (
	"errors"
	"strings"
	"testing"
)

var present = Requirement{Name: "air", Probe: func() error { return nil }}
var absent = Requirement{Name: "a unicorn", Probe: func() error { return errors.New("extinct") }, Fix: "wait"}

func TestNeed(t *testing.T) {
	tests := []struct {
		name            string
		reqs            []Requirement
		strict          string
		skipped, failed bool
	}{
		{"met", []Requirement{present}, "", false, false},
		{"met, strict", []Requirement{present}, "1", false, false},
		{"missing", []Requirement{present, absent}, "", true, false},
		{"missing, strict", []Requirement{absent}, "1", false, true},
		{"missing, strict spelt otherwise", []Requirement{absent}, "yes", true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("TPA_TEST_STRICT", tt.strict)
			tb := &recorder{TB: t}
			Need(tb, tt.reqs...)
			if tb.skipped != tt.skipped || tb.failed != tt.failed {
				t.Errorf("skipped %t, failed %t; want %t, %t", tb.skipped, tb.failed, tt.skipped, tt.failed)
			}
			if want := "needs a unicorn: extinct; to have it: wait"; (tb.skipped || tb.failed) && !strings.Contains(tb.message, want) {
				t.Errorf("message %q does not say %q", tb.message, want)
			}
		})
	}
}

func TestToolNamesThePackage(t *testing.T) {
	r := Tool("redis-benchmark")
	r.Probe = func() error { return errors.New("not found") }
	if got, want := missing([]Requirement{r}), "apt-get install redis-tools"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end in %q", got, want)
	}
	if err := Tool("no-such-program-anywhere").Probe(); err == nil {
		t.Error("a program that does not exist is found")
	}
	if err := HugePages(1 << 40).Probe(); err == nil {
		t.Error("2^40 huge pages are free")
	}
}

// recorder notes what Need calls.
type recorder struct {
	testing.TB
	message         string
	skipped, failed bool
}

func (r *recorder) Helper()           {}
func (r *recorder) Skip(args ...any)  { r.skipped, r.message = true, args[0].(string) }
func (r *recorder) Fatal(args ...any) { r.failed, r.message = true, args[0].(string) }
