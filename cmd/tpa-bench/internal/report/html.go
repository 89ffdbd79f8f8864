package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.tmpl
var pageSource string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"grouped": grouped,
	"micro":   micro,
	"cpu":     cpu,
	"percent": func(part float64) string { return grouped(100*part) + " %" },
	"cpus":    func(cpus []int) string { return strings.Trim(fmt.Sprint(cpus), "[]") },
}).Parse(pageSource))

// pagePart is what the page has of one comparison.
type pagePart struct {
	*Comparison
	Header row
	Lines  []row
	// Charts drawn here from numbers, empty where there is nothing to draw.
	Latency, PerRun, Time template.HTML
}

// HTML writes comparisons as a page that needs nothing else: no script, no style
// sheet, font or image from elsewhere. Those of a sweep come one after the other,
// below a chart of latency by load.
func HTML(w io.Writer, all ...*Comparison) error {
	var parts []pagePart
	for _, c := range all {
		p := pagePart{Comparison: c}
		p.Header, p.Lines = c.rows()
		for _, chart := range []struct {
			to   *template.HTML
			draw func() (string, error)
		}{{&p.Latency, c.latencyChart}, {&p.PerRun, c.roundsChart}, {&p.Time, c.timeChart}} {
			svg, err := chart.draw()
			if err != nil {
				return err
			}
			*chart.to = template.HTML(svg)
		}
		parts = append(parts, p)
	}
	load, err := loadChart(all)
	if err != nil {
		return err
	}
	return page.Execute(w, struct {
		Parts []pagePart
		Load  template.HTML
	}{parts, template.HTML(load)})
}
