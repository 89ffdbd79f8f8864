package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// CSVHeader writes the line of names.
func CSVHeader(w io.Writer) error {
	c := csv.NewWriter(w)
	c.Write([]string{
		"transport", "round", "workload", "conns", "payload", "pipeline", "rate", "seconds", "requests", "rps", "mean_us", "p50_us", "p90_us",
		"p99_us", "p999_us", "p9999_us", "max_us", "client_cpu_ns_per_req", "server_cpu_ns_per_req", "errors",
	})
	c.Flush()
	return c.Error()
}

// CSV writes one line for each run, without names.
func (c *Comparison) CSV(w io.Writer) error {
	for i := range c.Runs {
		if err := c.Runs[i].CSV(w); err != nil {
			return err
		}
	}
	return nil
}

// CSV writes the run as one line, without names.
func (r *Run) CSV(w io.Writer) error {
	f := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	c := csv.NewWriter(w)
	c.Write([]string{
		r.Transport, strconv.Itoa(r.Round), r.Workload, strconv.Itoa(r.Conns), strconv.Itoa(r.Payload), strconv.Itoa(r.Pipeline),
		f(r.Rate), f(r.Seconds), strconv.FormatUint(r.Requests, 10), f(r.RPS), f(r.Mean), f(r.P50), f(r.P90), f(r.P99), f(r.P999),
		f(r.P9999), f(r.Max), f(r.ClientCPU), f(r.ServerCPU), f(r.Errors),
	})
	c.Flush()
	return c.Error()
}

// HDR writes the latencies of each transport, over all rounds, as HdrHistogram's
// tools print and plot them: value in µs, percentile, count.
func (c *Comparison) HDR(w io.Writer) error {
	for _, name := range c.Names() {
		h, err := c.histogram(name)
		if err != nil {
			return err
		}
		if err := printHDR(w, name, h); err != nil {
			return err
		}
	}
	return nil
}

// HDR writes the latencies likewise.
func (r *Run) HDR(w io.Writer) error {
	h, err := hdrhistogram.Decode([]byte(r.Histogram))
	if err != nil {
		return fmt.Errorf("the histogram of %s: %w", r.Transport, err)
	}
	return printHDR(w, r.Transport, h)
}

func printHDR(w io.Writer, transport string, h *hdrhistogram.Histogram) error {
	if _, err := fmt.Fprintf(w, "#[Transport = %s]\n", transport); err != nil {
		return err
	}
	_, err := h.PercentilesPrint(w, 5, 1e3)
	return err
}
