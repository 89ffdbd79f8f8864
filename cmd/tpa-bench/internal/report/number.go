package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// grouped writes a number without decimals and with commas: 147,000.
func grouped(f float64) string {
	s := strconv.FormatFloat(math.Abs(f), 'f', 0, 64)
	var b strings.Builder
	if f <= -0.5 {
		b.WriteByte('-')
	}
	for i := range len(s) {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// micro writes a latency in µs with about three digits.
func micro(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%.2f s", us/1e6)
	case us >= 10e3:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us >= 100:
		return grouped(us) + " µs"
	}
	return fmt.Sprintf("%.1f µs", us)
}

// cpu writes a processor time per request, in µs; negative is not known.
func cpu(ns float64) string {
	if ns < 0 {
		return "?"
	}
	return fmt.Sprintf("%.2f µs", ns/1e3)
}

// percent writes a part, 0 to 1; negative is not known.
func percent(part float64) string {
	if part < 0 {
		return "?"
	}
	return fmt.Sprintf("%.0f %%", 100*part)
}

// times writes a ratio: 2.13x.
func times(f float64) string { return fmt.Sprintf("%.2fx", f) }

// bits writes bytes per second as bits per second.
func bits(bytes float64) string {
	b := 8 * bytes
	switch {
	case b >= 1e9:
		return fmt.Sprintf("%.2f Gbit/s", b/1e9)
	case b >= 1e6:
		return fmt.Sprintf("%.1f Mbit/s", b/1e6)
	}
	return fmt.Sprintf("%.0f kbit/s", b/1e3)
}

// count writes a number and its noun, with an s unless it is one.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(float64(n)) + " " + noun + "s"
}
