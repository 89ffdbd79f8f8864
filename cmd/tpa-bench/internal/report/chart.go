package report

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// colours of transports, which tell apart for colour-blind readers too.
var colours = map[string]color.Color{
	"kernel": color.RGBA{R: 0xd9, G: 0x6b, B: 0x0b, A: 0xff},
	"redis":  color.RGBA{R: 0x3d, G: 0x8b, B: 0x37, A: 0xff},
	"accel":  color.RGBA{R: 0x0b, G: 0x6f, B: 0xb8, A: 0xff},
}

func colour(transport string) color.Color {
	if c, ok := colours[transport]; ok {
		return c
	}
	return color.Black
}

// A page shows charts at about this size, so that their text is as large as its own.
const chartWidth, chartHeight, textSize = 690 * vg.Length(1), 320 * vg.Length(1), 11 * vg.Length(1)

// latencyChart draws latency against percentile, with nines at equal distances:
// 90 %, 99 %, 99.9 %. One curve per transport, over all its rounds.
func (c *Comparison) latencyChart() (string, error) {
	p := newChart("percentile of requests", "latency")
	p.X.Tick.Marker = plot.ConstantTicks(nines())
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.TickerFunc(latencyTicks)
	low, high := math.MaxFloat64, 0.0
	for _, name := range c.Names() {
		h, err := c.histogram(name)
		if err != nil {
			return "", err
		}
		points := curve(h)
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return "", err
		}
		line.Color, line.Width = colour(name), vg.Points(2)
		p.Add(line)
		p.Legend.Add(name, line)
		low, high = min(low, points[0].Y), max(high, points[len(points)-1].Y)
	}
	if high == 0 {
		return "", nil
	}
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(low)))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(high)))
	return svg(p)
}

// timeChart draws requests per second over the time of every run, a thin line for
// each.
func (c *Comparison) timeChart() (string, error) {
	p := newChart("seconds", "requests/s")
	p.Y.Min, p.X.Min = 0, 0
	p.Y.Tick.Marker = plot.TickerFunc(groupedTicks)
	drawn := map[string]bool{}
	for i := range c.Runs {
		r := &c.Runs[i]
		if r.Series == nil || len(r.Series.RPS) < 3 {
			continue
		}
		var points plotter.XYs
		for k, rps := range r.Series.RPS {
			points = append(points, plotter.XY{X: (float64(k) + 0.5) * r.Series.Step, Y: rps})
			p.Y.Max = max(p.Y.Max, 1.3*rps) // with room for the legend
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return "", err
		}
		line.Color, line.Width = colour(r.Transport), vg.Points(1)
		p.Add(line)
		if !drawn[r.Transport] {
			p.Legend.Add(r.Transport, line)
		}
		drawn[r.Transport] = true
	}
	if len(drawn) == 0 {
		return "", nil
	}
	return svg(p)
}

// loadChart draws latency by load, from the medians of comparisons that differ in
// their rate or number of connections only: p50 dashed, p99 drawn through. Where both
// differ, each number of connections has lines of its own. It is empty for fewer than
// three comparisons.
func loadChart(all []*Comparison) (string, error) {
	if len(all) < 3 {
		return "", nil
	}
	first := all[0].Setting
	for _, c := range all {
		if c.Workload != first.Workload || c.Payload != first.Payload || c.Pipeline != first.Pipeline {
			return "", nil
		}
	}
	p := newChart("requests/s", "latency")
	p.X.Tick.Marker = plot.TickerFunc(groupedTicks)
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.TickerFunc(latencyTicks)
	p.X.Min = 0
	low, high, most := math.MaxFloat64, 0.0, 0.0
	for i, group := range loads(all) {
		for _, name := range group[0].Names() {
			var p50, p99 plotter.XYs
			for _, c := range group {
				f, ok := c.Transports[name]
				if !ok || f.P50 <= 0 {
					continue
				}
				p50, p99 = append(p50, plotter.XY{X: f.RPS, Y: f.P50}), append(p99, plotter.XY{X: f.RPS, Y: max(f.P99, f.P50)})
				low, high, most = min(low, f.P50), max(high, f.P99, f.P50), max(most, f.RPS)
			}
			if len(p50) < 2 {
				continue
			}
			label := name
			if len(group) < len(all) {
				label += ", " + count(group[0].Conns, "connection")
			}
			for _, s := range []struct {
				name   string
				points plotter.XYs
				dashes []vg.Length
			}{{label + " p99", p99, nil}, {label + " p50", p50, []vg.Length{4, 3}}} {
				slices.SortFunc(s.points, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
				line, dots, err := plotter.NewLinePoints(s.points)
				if err != nil {
					return "", err
				}
				line.Color, line.Width, line.Dashes = colour(name), vg.Points(1.5), s.dashes
				dots.Color, dots.Shape, dots.Radius = colour(name), glyphs[i%len(glyphs)], vg.Points(2.5)
				p.Add(line, dots)
				p.Legend.Add(s.name, line, dots)
			}
		}
	}
	if high == 0 {
		return "", nil
	}
	p.X.Max = 1.05 * most
	p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	return svg(p)
}

// glyphs tell lines of one transport apart.
var glyphs = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{}, draw.RingGlyph{}}

// loads groups comparisons whose points make one line: all, or where rate and number
// of connections differ those of one number.
func loads(all []*Comparison) (groups [][]*Comparison) {
	of, rates := map[int]int{}, map[float64]bool{}
	for _, c := range all {
		if _, ok := of[c.Conns]; !ok {
			of[c.Conns] = len(groups)
			groups = append(groups, nil)
		}
		groups[of[c.Conns]] = append(groups[of[c.Conns]], c)
		rates[c.Rate] = true
	}
	if len(rates) < 2 {
		return [][]*Comparison{all}
	}
	return groups
}

// groupedTicks writes numbers as the tables do.
func groupedTicks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = grouped(ticks[i].Value)
		}
	}
	return ticks
}

// roundsChart draws requests per second of every round, if there are several.
func (c *Comparison) roundsChart() (string, error) {
	if c.Rounds < 2 {
		return "", nil
	}
	p := newChart("round", "requests/s")
	p.Y.Min = 0
	p.X.Min, p.X.Max = 0.5, float64(c.Rounds)+0.5
	p.X.Tick.Marker = plot.TickerFunc(func(_, _ float64) (ticks []plot.Tick) {
		for i := range c.Rounds {
			ticks = append(ticks, plot.Tick{Value: float64(i + 1), Label: strconv.Itoa(i + 1)})
		}
		return ticks
	})
	p.Y.Tick.Marker = plot.TickerFunc(groupedTicks)
	for _, name := range c.Names() {
		var points plotter.XYs
		for _, r := range c.of(name) {
			points = append(points, plotter.XY{X: float64(r.Round), Y: r.RPS})
			p.Y.Max = max(p.Y.Max, 1.3*r.RPS)
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return "", err
		}
		line.Color, line.Width = colour(name), vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = colour(name), draw.CircleGlyph{}, vg.Points(3)
		p.Add(line, dots)
		p.Legend.Add(name, line, dots)
	}
	return svg(p)
}

func newChart(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(4)
	p.Legend.XOffs, p.Legend.YOffs = 8, -4 // clear of the axis
	p.X.Padding, p.Y.Padding = 0, 0
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{0xdd}, color.Gray{0xdd}
	p.Add(grid)
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, style := range []*font.Font{
		&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		style.Typeface, style.Variant, style.Size = sans.Typeface, sans.Variant, textSize
	}
	return p
}

// svg draws the chart as an element for a page.
func svg(p *plot.Plot) (string, error) {
	canvas := vgsvg.New(chartWidth, chartHeight)
	// Half of the last label of an axis, at most 99.9999 %, is to the right of it.
	p.Draw(draw.Crop(draw.New(canvas), 0, -3.5*textSize, 0, -textSize))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw a chart: %w", err)
	}
	s := b.String()
	s = s[max(strings.Index(s, "<svg"), 0):]
	return inPage.Replace(fontFamily.ReplaceAllString(s, "")), nil
}

// fontFamily and inPage leave text, its colour and that of lines to the page, so that
// they are its own in the dark, too.
var (
	fontFamily = regexp.MustCompile(`font-family:[^;"]*;?`)
	inPage     = strings.NewReplacer("#000000", "currentColor", "#DDDDDD", "var(--line)")
)

// curve returns latency in µs against the number of nines of the percentile:
// 1 is 90 %, 2 is 99 %. It ends where one request is left.
func curve(h *hdrhistogram.Histogram) (points plotter.XYs) {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	end := min(math.Log10(float64(h.TotalCount())), maxNines)
	for x := 0.0; x <= end; x += 0.02 {
		us := float64(h.ValueAtPercentile(100*(1-math.Pow(10, -x)))) / 1e3
		points = append(points, plotter.XY{X: x, Y: max(us, 0.01)})
	}
	return points
}

const maxNines = 6

func nines() (ticks []plot.Tick) {
	for i, label := range []string{"", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"} {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: label})
	}
	return append(ticks, plot.Tick{Value: math.Log10(2), Label: "50 %"})
}

func latencyLabel(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%g s", us/1e6)
	case us >= 1e3:
		return fmt.Sprintf("%g ms", us/1e3)
	}
	return fmt.Sprintf("%.3g µs", us)
}

// latencyTicks puts a label at 1, 2 and 5 of each power of ten.
func latencyTicks(low, high float64) (ticks []plot.Tick) {
	for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			if v := digit * power; v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: latencyLabel(v)})
			}
		}
	}
	return ticks
}
