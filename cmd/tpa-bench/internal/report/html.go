package report

import (
	_ "embed"
	"html/template"
	"io"
)

//go:embed page.tmpl
var pageSource string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"grouped": grouped,
	"micro":   micro,
	"cpu":     cpu,
	"percent": func(part float64) string { return grouped(100*part) + " %" },
}).Parse(pageSource))

// HTML writes the comparison as a page that needs nothing else: no script, no
// style sheet, font or image from elsewhere.
func HTML(w io.Writer, c *Comparison) error {
	latency, err := c.latencyChart()
	if err != nil {
		return err
	}
	rounds := ""
	if c.Rounds > 1 {
		if rounds, err = c.roundsChart(); err != nil {
			return err
		}
	}
	header, lines := c.rows()
	return page.Execute(w, struct {
		*Comparison
		Header          row
		Lines           []row
		Latency, PerRun template.HTML // drawn here from numbers
	}{c, header, lines, template.HTML(latency), template.HTML(rounds)})
}
