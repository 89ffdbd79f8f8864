// Command picture draws a Grafana dashboard without Grafana: it asks a Prometheus
// the queries of each panel and writes one SVG.
//
//	go run ./metrics/dashboards/picture --prometheus http://127.0.0.1:9090 --range 3m >dashboard.svg
//
// It knows rows, stat and timeseries panels, their places, units and legends; that
// is what tpa.json has. Variables stand for everything.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"image/color"
	"log"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	columns   = 24 // of Grafana's grid
	cellWidth = 62 // pixels, without the gap between panels
	rowHeight = 30
	gap       = 8
	head      = 44 // height of the title
)

type dashboard struct {
	Title  string
	Panels []panel
}

type panel struct {
	Title, Type string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit string
			Min  *float64
			Max  *float64
		}
	}
	Targets []struct{ Expr, LegendFormat string }
}

// A series is a line of a panel.
type series struct {
	name   string
	points plotter.XYs
}

func main() {
	log.SetFlags(0)
	prometheus := flag.String("prometheus", "http://127.0.0.1:9090", "`URL` of the Prometheus to ask")
	file := flag.String("dashboard", "metrics/dashboards/tpa.json", "`FILE` of the dashboard")
	last := flag.Duration("range", 3*time.Minute, "how long back to look")
	interval := flag.Duration("interval", 5*time.Second, "the time between two scrapes")
	flag.Parse()
	data, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		log.Fatal(err)
	}
	a := asker{url: *prometheus, end: time.Now(), last: *last, interval: *interval}
	svg, err := d.draw(&a)
	if err != nil {
		log.Fatal(err)
	}
	os.Stdout.Write(svg)
}

// An asker asks a Prometheus about a time.
type asker struct {
	url            string
	end            time.Time
	last, interval time.Duration
}

var variable = regexp.MustCompile(`\$(instance|port|queue)\b`)

func (a *asker) ask(expr, legend string) ([]series, error) {
	expr = variable.ReplaceAllString(expr, ".*")
	// Grafana's own: four scrapes at least, and the range of the dashboard.
	expr = strings.ReplaceAll(expr, "$__rate_interval", (4 * a.interval).String())
	expr = strings.ReplaceAll(expr, "$__range", a.last.String())
	resp, err := http.Get(a.url + "/api/v1/query_range?" + url.Values{
		"query": {expr}, "step": {a.interval.String()},
		"start": {strconv.FormatInt(a.end.Add(-a.last).Unix(), 10)}, "end": {strconv.FormatInt(a.end.Unix(), 10)},
	}.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any // time, and the value as a string
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var all []series
	for _, r := range answer.Data.Result {
		s := series{name: placeholder.ReplaceAllStringFunc(legend, func(p string) string {
			return r.Metric[strings.Trim(p, "{} ")]
		})}
		for _, v := range r.Values {
			at, ok := v[0].(float64)
			text, ok2 := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if ok && ok2 && err == nil && !math.IsNaN(value) && !math.IsInf(value, 0) {
				s.points = append(s.points, plotter.XY{X: at, Y: value})
			}
		}
		if len(s.points) > 0 {
			all = append(all, s)
		}
	}
	return all, nil
}

var placeholder = regexp.MustCompile(`\{\{[^}]*\}\}`)

// draw returns the dashboard as SVG.
func (d *dashboard) draw(a *asker) ([]byte, error) {
	bottom := 0
	for _, p := range d.Panels {
		bottom = max(bottom, p.GridPos.Y+p.GridPos.H)
	}
	width, height := columns*cellWidth+gap, head+bottom*(rowHeight+gap)+gap
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="system-ui, sans-serif"><rect width="100%%" height="100%%" fill="#f4f5f5"/>`, width, height)
	fmt.Fprintf(&b, `<text x="%d" y="29" font-size="20" font-weight="600">%s</text><text x="%d" y="29" font-size="13" fill="#666" text-anchor="end">%s, the last %v</text>`,
		gap, html.EscapeString(d.Title), width-gap, a.end.UTC().Format("2006-01-02 15:04 MST"), a.last)
	for _, p := range d.Panels {
		if err := p.draw(&b, a); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Title, err)
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes(), nil
}

func (p *panel) draw(b *bytes.Buffer, a *asker) error {
	x, y := gap+p.GridPos.X*cellWidth, head+p.GridPos.Y*(rowHeight+gap)
	w, h := p.GridPos.W*cellWidth-gap, p.GridPos.H*(rowHeight+gap)-gap
	if p.Type == "row" {
		fmt.Fprintf(b, `<text x="%d" y="%d" font-size="15" font-weight="600">%s</text>`, x, y+h-8, html.EscapeString(p.Title))
		return nil
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#fff" stroke="#d8d9da"/>`, x, y, w, h)
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="13" font-weight="600">%s</text>`, x+8, y+18, html.EscapeString(p.Title))
	var lines []series
	for _, t := range p.Targets {
		s, err := a.ask(t.Expr, t.LegendFormat)
		if err != nil {
			return err
		}
		lines = append(lines, s...)
	}
	switch {
	case len(lines) == 0:
		fmt.Fprintf(b, `<text x="%d" y="%d" font-size="14" fill="#999" text-anchor="middle">No data</text>`, x+w/2, y+h/2+5)
	case p.Type == "stat":
		text := lines[0].name
		size := 20
		if text == "" {
			points := lines[0].points
			text, size = amount(points[len(points)-1].Y, p.FieldConfig.Defaults.Unit), 34
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" font-size="%d" fill="#37872d" text-anchor="middle">%s</text>`, x+w/2, y+h/2+22, size, html.EscapeString(text))
	default:
		return p.plot(b, lines, x, y+22, w, h-22)
	}
	return nil
}

// palette has Grafana's classic colours.
var palette = []color.RGBA{
	{0x73, 0xbf, 0x69, 255}, {0xf2, 0xcc, 0x0c, 255}, {0x57, 0x94, 0xf2, 255}, {0xff, 0x98, 0x30, 255}, {0xf2, 0x49, 0x5c, 255},
	{0xb8, 0x77, 0xd9, 255}, {0x37, 0x87, 0x2d, 255}, {0x8a, 0xb8, 0xff, 255}, {0xc4, 0x16, 0x2a, 255}, {0x70, 0x5d, 0xa0, 255},
}

// legendLine is the height of a line of the legend, in pixels.
const legendLine = 15

func (p *panel) plot(b *bytes.Buffer, lines []series, x, y, w, h int) error {
	unit := p.FieldConfig.Defaults.Unit
	pl := plot.New()
	pl.BackgroundColor = color.Transparent
	pl.X.Tick.Marker = plot.TimeTicks{Format: "15:04:05", Ticker: few{3}}
	pl.Y.Tick.Marker = units{few{5}, unit}
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.LineStyle.Color = color.Gray{0xd0}
		axis.Tick.LineStyle.Color = color.Gray{0xd0}
		axis.Tick.Label.Color = color.Gray{0x60}
		axis.Tick.Label.Font.Size = 9
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{0xea}, color.Gray{0xea}
	pl.Add(grid)
	perLine := max(1, w/170)
	legend := (min(len(lines), 4*perLine) + perLine - 1) / perLine * legendLine
	for i, s := range lines {
		l, err := plotter.NewLine(s.points)
		if err != nil {
			return err
		}
		l.Color, l.Width = palette[i%len(palette)], 1.2
		pl.Add(l)
		if i >= 4*perLine {
			continue
		}
		lx, ly := x+10+i%perLine*(w-12)/perLine, y+h-legend+i/perLine*legendLine+7
		name := s.name
		if most := (w/perLine - 24) / 6; len([]rune(name)) > most {
			name = string([]rune(name)[:most-1]) + "…"
		}
		c := palette[i%len(palette)]
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="3" fill="#%02x%02x%02x"/><text x="%d" y="%d" font-size="11" fill="#444">%s</text>`,
			lx, ly-4, c.R, c.G, c.B, lx+16, ly, html.EscapeString(name))
	}
	if m := p.FieldConfig.Defaults.Min; m != nil {
		pl.Y.Min = *m
	}
	if m := p.FieldConfig.Defaults.Max; m != nil {
		pl.Y.Max = *m
	}
	if pl.Y.Max-pl.Y.Min < 1e-9 {
		pl.Y.Min, pl.Y.Max = min(pl.Y.Min, 0), max(pl.Y.Max, 1)
	}
	// The plot's canvas has points, of which Chromium has 3 for 4 pixels.
	canvas := vgsvg.New(vg.Length(w)*0.75, vg.Length(h-legend)*0.75)
	pl.Draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return err
	}
	svg := out.String()
	svg = svg[strings.Index(svg, "<svg")+len("<svg"):]
	fmt.Fprintf(b, `<svg x="%d" y="%d"%s`, x, y, svg)
	return nil
}

// few thins out the ticks of an axis.
type few struct{ most int }

func (f few) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	major := 0
	for _, t := range ticks {
		if !t.IsMinor() {
			major++
		}
	}
	every := (major + f.most - 1) / max(f.most, 1)
	var kept []plot.Tick
	n := 0
	for _, t := range ticks {
		if t.IsMinor() {
			continue
		}
		if n%max(every, 1) == 0 {
			kept = append(kept, t)
		}
		n++
	}
	return kept
}

// units writes the values of ticks in a unit.
type units struct {
	plot.Ticker
	unit string
}

func (u units) Ticks(low, high float64) []plot.Tick {
	ticks := u.Ticker.Ticks(low, high)
	for i := range ticks {
		ticks[i].Label = amount(ticks[i].Value, u.unit)
	}
	return ticks
}

// amount writes a value in one of Grafana's units.
func amount(v float64, unit string) string {
	suffix := map[string]string{"bps": "b/s", "Bps": "B/s", "pps": "p/s", "ops": "/s", "bytes": "B", "s": "s"}[unit]
	switch {
	case unit == "percentunit":
		return strconv.FormatFloat(100*v, 'g', 3, 64) + " %"
	case v == 0:
		return "0"
	case math.Abs(v) < 1:
		for _, prefix := range []string{"", "m", "µ", "n"} {
			if math.Abs(v) >= 0.9999 || prefix == "n" || unit != "s" {
				return strings.TrimSpace(strconv.FormatFloat(v, 'g', 3, 64) + " " + prefix + suffix)
			}
			v *= 1000
		}
	}
	prefixes := []string{"", "k", "M", "G", "T"}
	i := 0
	for math.Abs(v) >= 1000 && i < len(prefixes)-1 {
		v /= 1000
		i++
	}
	return strings.TrimSpace(strconv.FormatFloat(v, 'g', 3, 64) + " " + prefixes[i] + suffix)
}
