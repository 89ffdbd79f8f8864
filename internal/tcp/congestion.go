package tcp

import (
	"math"
	"time"
)

// The methods of this file need Endpoint.mu held.

// growWindow enlarges the congestion window for acknowledged bytes.
func (e *Endpoint) growWindow(bytes int, now int64) {
	if bytes == 0 || int(e.sendMax-e.unacknowledged)+bytes < e.window-e.mss && e.window > 10*e.mss {
		e.cubic.start = 0 // RFC 9438 section 5.8
		return            // not what held us back (RFC 7661)
	}
	limit := e.sendSize * 2
	if e.window < e.threshold {
		e.window = min(e.window+e.slowStart(bytes), e.threshold, limit)
		return
	}
	if e.congestion == "cubic" {
		e.window = min(e.cubic.grow(e.window, e.mss, bytes, e.srtt, now), limit)
		return
	}
	// RFC 5681 section 3.1: a segment per window.
	if e.counted += bytes; e.counted >= e.window {
		e.counted -= e.window
		e.window = min(e.window+e.mss, limit)
	}
}

// reduce lowers the slow start threshold after loss from a flight of some bytes.
func (e *Endpoint) reduce(flight int) {
	flight = min(flight, max(e.window, e.mss))
	e.threshold = max(flight/2, 2*e.mss)
	if e.congestion == "cubic" {
		e.threshold = max(e.cubic.lose(e.window, e.mss), 2*e.mss)
	}
	e.counted = 0
}

// cubic is RFC 9438. Windows are in bytes.
type cubic struct {
	max    float64 // W_max
	k      float64 // seconds until the window is W_max again
	start  int64   // of the epoch, 0 for none
	origin float64
	reno   float64 // W_est
	prior  float64 // the window before the last loss
}

const (
	cubicC    = 0.4
	cubicBeta = 0.7
)

func (c *cubic) lose(window, mss int) int {
	w := float64(window)
	c.prior = w
	if w < c.max {
		c.max = w * (1 + cubicBeta) / 2 // fast convergence (section 4.7)
	} else {
		c.max = w
	}
	c.start = 0
	return int(w * cubicBeta)
}

func (c *cubic) grow(window, mss, bytes int, rtt time.Duration, now int64) int {
	w, m := float64(window), float64(mss)
	if c.start == 0 {
		c.start, c.reno = now, w
		if w < c.max {
			c.k, c.origin = math.Cbrt((c.max-w)/m/cubicC), c.max
		} else {
			c.k, c.origin = 0, w
		}
	}
	t := time.Duration(now-c.start).Seconds() + rtt.Seconds()
	target := c.origin + cubicC*math.Pow(t-c.k, 3)*m
	target = min(max(target, w), 1.5*w)
	alpha := 3 * (1 - cubicBeta) / (1 + cubicBeta)
	if c.reno >= c.prior {
		alpha = 1 // section 4.3
	}
	c.reno += alpha * float64(bytes) * m / w
	return int(max(w+(target-w)*float64(bytes)/w, c.reno))
}
