package debug

import (
	"fmt"
	"strings"

	"github.com/gotpa/tpa/accel"
)

// A chart shows how something went in the last minutes: one line, or two.
type chart struct {
	Title string
	// Lines are points of SVG polylines in a box of chartWidth by chartHeight.
	Lines []chartLine
	// Most is the value at the top.
	Most string
}

type chartLine struct {
	Name   string
	Now    string
	Points string
}

const chartWidth, chartHeight = 300.0, 60.0

// charts draws the history, nothing until there are two rates.
func charts(samples []accel.Sample, shards int) []chart {
	if len(samples) < 3 {
		return nil
	}
	rate := func(of func(accel.Sample) uint64) []float64 {
		var all []float64
		for i, s := range samples[1:] {
			all = append(all, float64(of(s)-of(samples[i]))/s.Time.Sub(samples[i].Time).Seconds())
		}
		return all
	}
	connections := make([]float64, 0, len(samples))
	for _, s := range samples[1:] {
		connections = append(connections, float64(s.Connections))
	}
	plain := func(f float64) string { return count(f) }
	busy := rate(func(s accel.Sample) uint64 { return uint64(s.Busy) })
	for i := range busy {
		busy[i] = min(busy[i]/1e9/float64(shards), 1)
	}
	bits := func(of func(accel.Sample) uint64) func(accel.Sample) uint64 {
		return func(s accel.Sample) uint64 { return 8 * of(s) }
	}
	return []chart{
		draw("busy", percent, 1, series{"", busy}),
		draw("frames/s", plain, 0, series{"in", rate(func(s accel.Sample) uint64 { return s.RxFrames })}, series{"out", rate(func(s accel.Sample) uint64 { return s.TxFrames })}),
		draw("bit/s", plain, 0, series{"in", rate(bits(func(s accel.Sample) uint64 { return s.RxBytes }))}, series{"out", rate(bits(func(s accel.Sample) uint64 { return s.TxBytes }))}),
		draw("connections", plain, 0, series{"", connections}),
		draw("retransmits/s", plain, 0, series{"", rate(func(s accel.Sample) uint64 { return s.Retransmits })}),
	}
}

type series struct {
	name   string
	values []float64
}

// draw makes a chart whose top is most, or the greatest value.
func draw(title string, write func(float64) string, most float64, all ...series) chart {
	for _, s := range all {
		for _, v := range s.values {
			most = max(most, v)
		}
	}
	c := chart{Title: title, Most: write(most)}
	for _, s := range all {
		var b strings.Builder
		step := chartWidth / float64(max(len(s.values)-1, 1))
		for i, v := range s.values {
			y := chartHeight
			if most > 0 {
				y -= v / most * chartHeight
			}
			fmt.Fprintf(&b, "%.1f,%.1f ", float64(i)*step, y)
		}
		c.Lines = append(c.Lines, chartLine{s.name, write(s.values[len(s.values)-1]), b.String()})
	}
	return c
}

// usage is how much of a limit is used.
type usage struct {
	Name      string
	Now, Most string
	Share     float64 // 0 to 1
}

// usages compares what the shards hold with the limits. Limits of a shard show the
// fullest one.
func usages(s *accel.Status) []usage {
	var connections, halfOpen, closing, timeWait int
	var memory int64
	for i := range s.Shards {
		sh := &s.Shards[i]
		connections += sh.Flows
		halfOpen = max(halfOpen, sh.Limits.HalfOpen)
		closing = max(closing, sh.Limits.Census.Closing)
		timeWait = max(timeWait, sh.Limits.Census.TimeWait)
		memory += sh.Limits.Census.ReceiveBytes + sh.Limits.Census.SendBytes
	}
	l := &s.Limits
	line := func(name string, now, most int) usage {
		return usage{name, count(now), count(most), min(float64(now)/float64(max(most, 1)), 1)}
	}
	return []usage{
		line("connections", connections, l.Connections),
		{"bytes in buffers", byteCount(int(memory)), byteCount(int(l.Memory)), min(float64(memory)/float64(max(l.Memory, 1)), 1)},
		line("half-open, fullest shard", halfOpen, l.HalfOpen),
		line("closing, fullest shard", closing, l.Closing),
		line("TIME-WAIT, fullest shard", timeWait, l.TimeWait),
	}
}

// nonzero keeps the frame counts that are not 0.
func nonzero(counts []accel.FrameCount) (kept []accel.FrameCount) {
	for _, c := range counts {
		if c.Frames > 0 {
			kept = append(kept, c)
		}
	}
	return kept
}
