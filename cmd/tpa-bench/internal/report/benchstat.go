package report

import (
	"fmt"
	"io"
	"runtime"
	"unicode"
	"unicode/utf8"
)

// Benchstat writes the runs in the format of Go benchmarks:
//
//	benchstat -col /transport results.txt
//
// See https://go.dev/design/14313-benchmark-format.
func (c *Comparison) Benchstat(w io.Writer) error {
	m := c.Machine
	if _, err := fmt.Fprintf(w, "goos: %s\ngoarch: %s\npkg: github.com/gotpa/tpa/cmd/tpa-bench\ncpu: %s\nlinux: %s\ngo: %s\ngvisor: %s\ndpdk: %s\n",
		runtime.GOOS, m.Arch, m.CPUModel, m.Kernel, m.Go, m.GVisor, m.DPDK); err != nil {
		return err
	}
	for i := range c.Runs {
		if err := c.Runs[i].Benchstat(w); err != nil {
			return err
		}
	}
	return nil
}

// Benchstat writes the run as one line in the format of Go benchmarks.
func (r *Run) Benchstat(w io.Writer) error {
	name := fmt.Sprintf("Benchmark%s/conns=%d/payload=%d/pipeline=%d", capital(r.Workload), r.Conns, r.Payload, r.Pipeline)
	if r.Rate > 0 {
		name += fmt.Sprintf("/rate=%.0f", r.Rate)
	}
	if r.Schedule != "" {
		name += "/schedule=" + r.Schedule
	}
	if r.Poisson {
		name += "/arrivals=poisson"
	}
	if r.Requests == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s/transport=%s %d %.1f ns/op %.0f req/s %.2f p50-µs %.2f p99-µs %.2f p99.9-µs %.2f max-µs %.0f client-cpu-ns/op",
		name, r.Transport, r.Requests, 1e9/r.RPS, r.RPS, r.P50, r.P99, r.P999, r.Max, r.ClientCPU)
	if err == nil && r.ServerCPU >= 0 {
		_, err = fmt.Fprintf(w, " %.0f server-cpu-ns/op", r.ServerCPU)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, " %.0f errors\n", r.Errors)
	}
	return err
}

// capital raises the first letter.
func capital(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[size:]
}
