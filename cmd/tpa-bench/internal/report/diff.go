package report

import (
	"errors"
	"fmt"
	"io"
)

// Diff writes what changed between results of the same settings, for people.
func Diff(w io.Writer, before, after []*Comparison) error {
	found := false
	for _, n := range after {
		for _, o := range before {
			if o.Setting != n.Setting {
				continue
			}
			var lines []row
			for _, name := range n.Names() {
				if len(o.of(name)) > 0 {
					lines = append(lines, changes(name, o.of(name), n.of(name))...)
				}
			}
			if len(lines) == 0 {
				continue
			}
			found = true
			if _, err := fmt.Fprintln(w, n.Title()); err != nil {
				return err
			}
			if err := table(w, row{"", "", "old", "new", "change"}, lines); err != nil {
				return err
			}
		}
	}
	if !found {
		return errors.New("the two results have no setting and transport in common")
	}
	return nil
}

// changes are the lines of one transport.
func changes(transport string, before, after []Run) (lines []row) {
	for _, f := range []struct {
		name  string
		of    func(Run) float64
		write func(float64) string
	}{
		{"requests/s", func(r Run) float64 { return r.RPS }, grouped},
		{"p50", func(r Run) float64 { return r.P50 }, micro},
		{"p99", func(r Run) float64 { return r.P99 }, micro},
		{"p99.9", func(r Run) float64 { return r.P999 }, micro},
		{"CPU per request, server", func(r Run) float64 { return r.ServerCPU }, cpu},
		{"CPU per request, client", func(r Run) float64 { return r.ClientCPU }, cpu},
	} {
		o, n := medianOf(before, f.of), medianOf(after, f.of)
		change := ""
		if o > 0 && n >= 0 {
			change = fmt.Sprintf("%+.1f %%", 100*(n/o-1))
			if chance(values(before, f.of), values(after, f.of)) > significant {
				change = "~ " + change
			}
		}
		lines = append(lines, row{transport, f.name, f.write(o), f.write(n), change})
		transport = "" // once
	}
	return lines
}
