package tcp

import (
	"math/rand/v2"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"github.com/gotpa/tpa/internal/transport"
)

// TestWheel sets, moves and removes timers at random, and advances the time by steps
// of all sizes: each timer fires once, not early, and at most a tick late.
func TestWheel(t *testing.T) {
	const tick = int64(1) << tickShift
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		clock := faketime.NewManualClock()
		p := &Protocol{clock: clock}
		w := &p.wheel
		w.clock, w.now = clock, p.now
		// Firing shows by firesAt, which an endpoint that is over only clears.
		ends := make([]*Endpoint, 300)
		for i := range ends {
			ends[i] = &Endpoint{p: p}
			ends[i].setState(transport.StateClosed)
		}
		set := func(e *Endpoint) {
			var d int64
			switch random.IntN(4) {
			case 0:
				d = wheelLeast + random.Int64N(tick)
			case 1:
				d = random.Int64N(int64(time.Second))
			case 2:
				d = random.Int64N(int64(10 * time.Minute)) // beyond what far reaches
			case 3:
				d = random.Int64N(int64(3 * time.Hour))
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.firesAt = p.now() + d
			w.set(e, e.firesAt)
		}
		for range 2000 {
			for range random.IntN(10) {
				e := ends[random.IntN(len(ends))]
				if random.IntN(4) > 0 {
					set(e)
					continue
				}
				e.mu.Lock()
				e.firesAt = 0
				w.remove(e)
				e.mu.Unlock()
			}
			before := map[*Endpoint]int64{}
			for _, e := range ends {
				before[e] = e.firesAt
			}
			clock.Advance([]time.Duration{time.Millisecond, 100 * time.Millisecond, 2 * time.Second, time.Minute, time.Hour}[random.IntN(5)])
			now := p.now()
			for e, at := range before {
				fired := at != 0 && e.firesAt == 0
				if fired && at > now || !fired && at != 0 && at+tick <= now {
					t.Fatalf("seed %d: at %v, a timer for %v has fired: %t", seed, time.Duration(now), time.Duration(at), fired)
				}
			}
		}
		for _, e := range ends {
			e.mu.Lock()
			w.remove(e)
			e.mu.Unlock()
		}
		if w.size != 0 || w.armedFor != 0 {
			t.Errorf("seed %d: %d timers, armed for %d, in an empty wheel", seed, w.size, w.armedFor)
		}
	}
}
