package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
)

// row is one line of a table: a name, and a cell per column.
type row []string

// rows lays the comparison out as a header and lines: one column per transport,
// and one for the ratio.
func (c *Comparison) rows() (header row, lines []row) {
	names := c.Names()
	header = append(row{""}, names...)
	if c.Ratio != nil {
		header = append(header, "accel / kernel")
	}
	add := func(name string, cell func(Figures) string, ratio string) {
		line := row{name}
		for _, n := range names {
			line = append(line, cell(c.Transports[n]))
		}
		if c.Ratio != nil {
			line = append(line, ratio)
		}
		lines = append(lines, line)
	}
	of := func(figure func(Figures) float64) string {
		if c.Ratio == nil {
			return ""
		}
		a, k := figure(c.Transports["accel"]), figure(c.Transports["kernel"])
		if a <= 0 || k <= 0 {
			return ""
		}
		return times(a / k)
	}
	latency := func(name string, figure func(Figures) float64, ratio string) {
		add(name, func(f Figures) string { return micro(figure(f)) }, ratio)
	}
	var rps, p99 string
	if r := c.Ratio; r != nil {
		rps, p99 = times(r.RPS), times(r.P99)
		if c.Rounds > 1 {
			rps += fmt.Sprintf("  (%.2f to %.2f)", r.RPSMin, r.RPSMax)
			p99 += fmt.Sprintf("  (%.2f to %.2f)", r.P99Min, r.P99Max)
		}
	}
	add("requests/s", func(f Figures) string { return grouped(f.RPS) }, rps)
	if c.Payload*c.Pipeline >= 4096 {
		add("payload, one way", func(f Figures) string { return bits(f.RPS * float64(c.Payload)) }, "")
	}
	p50 := func(f Figures) float64 { return f.P50 }
	p999 := func(f Figures) float64 { return f.P999 }
	most := func(f Figures) float64 { return f.Max }
	latency("p50", p50, of(p50))
	latency("p99", func(f Figures) float64 { return f.P99 }, p99)
	latency("p99.9", p999, of(p999))
	latency("max", most, of(most))
	server := func(f Figures) float64 { return f.ServerCPU }
	client := func(f Figures) float64 { return f.ClientCPU }
	add("CPU per request, server", func(f Figures) string { return cpu(f.ServerCPU) }, of(server))
	add("CPU per request, client", func(f Figures) string { return cpu(f.ClientCPU) }, of(client))
	add("errors", func(f Figures) string { return grouped(f.Errors) }, "")
	return header, lines
}

// Title says in one line what was run.
func (s Setting) Title() string {
	loop := "closed loop"
	if s.Rate > 0 {
		loop = "open loop at " + grouped(s.Rate) + " requests/s"
	}
	return fmt.Sprintf("%s, %s, %d-byte payload, pipeline %d, %s", s.Workload, count(s.Conns, "connection"), s.Payload, s.Pipeline, loop)
}

// Conditions says in one line how and where a comparison was run.
func (c *Comparison) Conditions() string {
	m := c.Machine
	return fmt.Sprintf("median of %s of %.3g s each, %s; %s, %s; Linux %s, %s, gVisor %s, DPDK %s",
		count(c.Rounds, "round"), c.Seconds, c.over(), m.CPUModel, count(m.Cores, "processor"), m.Kernel, m.Go, m.GVisor, m.DPDK)
}

// over says what the transports ran over.
func (c *Comparison) over() string {
	by := map[string]string{"xdp": "AF_XDP", "packet": "packet sockets"}[c.Link]
	switch {
	case by == "":
		return "kernel over loopback, accel over memif"
	case c.Client == "kernel":
		return "both over a veth pair, accel on " + by + " with clients of the kernel"
	}
	return "both over a veth pair, accel on " + by + " at both ends"
}

// Table writes the comparison for people.
func (c *Comparison) Table(w io.Writer) error {
	header, lines := c.rows()
	fmt.Fprintf(w, "%s\n%s\n", c.Title(), c.Conditions())
	if err := table(w, header, lines); err != nil {
		return err
	}
	return notes(w, c.Warnings)
}

// Table writes the run for people.
func (r *Run) Table(w io.Writer) error {
	fmt.Fprintf(w, "%s over %s\n", r.Title(), r.Transport)
	lines := []row{
		{"requests/s", grouped(r.RPS)},
		{"requests", grouped(float64(r.Requests)) + fmt.Sprintf(" in %.3g s", r.Seconds)},
		{"payload, one way", bits(r.Bytes)},
		{"mean", micro(r.Mean)},
		{"p50", micro(r.P50)},
		{"p90", micro(r.P90)},
		{"p99", micro(r.P99)},
		{"p99.9", micro(r.P999)},
		{"p99.99", micro(r.P9999)},
		{"max", micro(r.Max)},
		{"CPU per request, client", cpu(r.ClientCPU)},
	}
	if r.ServerCPU >= 0 {
		lines = append(lines, row{"CPU per request, server", cpu(r.ServerCPU)})
	}
	lines = append(lines, row{"errors", grouped(r.Errors)})
	if err := table(w, nil, lines); err != nil {
		return err
	}
	list := r.Warnings
	for _, p := range r.Problems {
		list = append(list, "error: "+p)
	}
	if r.Interrupted {
		list = append(list, fmt.Sprintf("interrupted after %.3g s", r.Seconds))
	}
	return notes(w, list)
}

func table(w io.Writer, header row, lines []row) error {
	columns := len(lines[0])
	align := make(tw.Alignment, columns)
	for i := range align {
		align[i] = tw.AlignRight
	}
	align[0] = tw.AlignLeft
	t := tablewriter.NewTable(w,
		tablewriter.WithAlignment(align),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithRendition(tw.Rendition{Symbols: tw.NewSymbols(tw.StyleLight)}),
	)
	if header != nil {
		t.Header([]string(header))
	}
	for _, l := range lines {
		if err := t.Append([]string(l)); err != nil {
			return err
		}
	}
	return t.Render()
}

func notes(w io.Writer, list []string) error {
	if len(list) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "note: %s\n", strings.Join(list, "\nnote: "))
	return err
}
