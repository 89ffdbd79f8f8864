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
// and one for each ratio.
func (c *Comparison) rows() (header row, lines []row) {
	names := c.Names()
	header = append(row{""}, names...)
	ratios := []struct {
		base string
		*Ratio
	}{{"kernel", c.Ratio}, {"redis", c.RedisRatio}}
	for _, r := range ratios {
		if r.Ratio != nil {
			header = append(header, "accel / "+r.base)
		}
	}
	// ratio is nil for what has none.
	add := func(name string, cell func(Figures) string, ratio func(base string, r *Ratio) string) {
		line := row{name}
		for _, n := range names {
			line = append(line, cell(c.Transports[n]))
		}
		for _, r := range ratios {
			switch {
			case r.Ratio == nil:
			case ratio == nil:
				line = append(line, "")
			default:
				line = append(line, ratio(r.base, r.Ratio))
			}
		}
		lines = append(lines, line)
	}
	of := func(figure func(Figures) float64) func(string, *Ratio) string {
		return func(base string, _ *Ratio) string {
			a, k := figure(c.Transports["accel"]), figure(c.Transports[base])
			if a <= 0 || k <= 0 {
				return ""
			}
			return times(a / k)
		}
	}
	latency := func(name string, figure func(Figures) float64, ratio func(string, *Ratio) string) {
		add(name, func(f Figures) string { return micro(figure(f)) }, ratio)
	}
	extent := func(median, least, most float64) string {
		if c.Rounds == 1 {
			return times(median)
		}
		return times(median) + fmt.Sprintf("  (%.2f to %.2f)", least, most)
	}
	rps := func(_ string, r *Ratio) string { return extent(r.RPS, r.RPSMin, r.RPSMax) }
	p99 := func(_ string, r *Ratio) string { return extent(r.P99, r.P99Min, r.P99Max) }
	add("requests/s", func(f Figures) string { return grouped(f.RPS) }, rps)
	if c.Payload*c.Pipeline >= 4096 {
		add("payload, one way", func(f Figures) string { return bits(f.RPS * float64(c.Payload)) }, nil)
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
	part := func(name string, figure func(Run) float64) {
		line := row{name}
		for _, n := range names {
			line = append(line, percent(medianOf(c.of(n), figure)))
		}
		for len(line) < len(header) {
			line = append(line, "")
		}
		lines = append(lines, line)
	}
	part("server CPU in the kernel", func(r Run) float64 { return r.ServerSystem })
	part("client CPU in the kernel", func(r Run) float64 { return r.ClientSystem })
	part("interrupts, of all time", func(r Run) float64 { return r.Interrupts })
	add("errors", func(f Figures) string { return grouped(f.Errors) }, nil)
	return header, lines
}

// Title says in one line what was run.
func (s Setting) Title() string {
	loop := "closed loop"
	if s.Rate > 0 {
		loop = "open loop at " + grouped(s.Rate) + " requests/s"
	}
	if s.Schedule != "" {
		loop = "open loop by the schedule " + s.Schedule
	}
	if s.Poisson {
		loop += ", random arrivals"
	}
	return fmt.Sprintf("%s, %s, %d-byte payload, pipeline %d, %s", s.Workload, count(s.Conns, "connection"), s.Payload, s.Pipeline, loop)
}

// Conditions says in one line how and where a comparison was run.
func (c *Comparison) Conditions() string {
	m := c.Machine
	if m.CPUModel == "" && len(c.Runs) == 1 { // of a run, which does not say
		return fmt.Sprintf("a run of %.3g s over %s", c.Seconds, strings.Join(c.Names(), ", "))
	}
	return fmt.Sprintf("median of %s of %.3g s each, %s; %s, %s; Linux %s, %s, gVisor %s, DPDK %s",
		count(c.Rounds, "round"), c.Seconds, c.over(), m.CPUModel, count(m.Cores, "processor"), m.Kernel, m.Go, m.GVisor, m.DPDK)
}

// over says what the transports ran over.
func (c *Comparison) over() string {
	over := c.link()
	if c.MTU != 0 {
		over += fmt.Sprintf(", MTU %d", c.MTU)
	}
	if len(c.of("redis")) > 0 {
		over += ", redis-server like kernel"
	}
	return over
}

// link says what lay between server and client.
func (c *Comparison) link() string {
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
		{"of that in the kernel", percent(r.ClientSystem)},
	}
	if r.ServerCPU >= 0 {
		lines = append(lines, row{"CPU per request, server", cpu(r.ServerCPU)}, row{"of that in the kernel", percent(r.ServerSystem)})
	}
	lines = append(lines, row{"interrupts, of all time", percent(r.Interrupts)}, row{"errors", grouped(r.Errors)})
	var header row
	if c := r.Corrected; c != nil {
		header = row{"", "measured", "corrected"}
		corrected := map[string]float64{"p50": c.P50, "p99": c.P99, "p99.9": c.P999}
		for i, l := range lines {
			cell := ""
			if us, ok := corrected[l[0]]; ok {
				cell = micro(us)
			}
			lines[i] = append(l, cell)
		}
	}
	if err := table(w, header, lines); err != nil {
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
