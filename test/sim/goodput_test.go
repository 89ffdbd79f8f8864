package sim

import (
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
)

// TestLongPath: buffers grow to what a path of 1 Gb/s and 200 ms holds, 25 MB.
func TestLongPath(t *testing.T) {
	const size = 100 << 20
	path := fault.Impairment{Rate: 1e9, Backlog: 20_000, Delay: 100 * time.Millisecond}
	s := setup{mtu: 1500, queues: [2]int{1, 1}, tcp: accel.TCP{TimeWait: time.Second}, there: path, back: fault.Impairment{Delay: 100 * time.Millisecond}}
	var took time.Duration
	run(t, 1, s, func(w *world) { took = transferOnce(w, size) })
	got := size / took.Seconds() / 1e6
	t.Logf("%.1f MB/s", got)
	// Slow start takes most of the time: 31 MB/s is what can be. 4 MB in flight are 20 MB/s.
	if got < 27 {
		t.Errorf("%.1f MB/s, want at least 27", got)
	}
}

// transferOnce sends that much to host 1 and returns how long it takes.
func transferOnce(w *world, size int64) time.Duration {
	p := &program{world: w, byID: map[uint32]*conversation{}}
	// The server does not half-close: it would send no more SACK.
	v := &conversation{
		kind: kinds[1], rounds: 1,
		up:   flux{stream: 1, bytes: size, whole: true, readChunk: 1 << 18},
		down: flux{bytes: 1, writeChunk: 1, readChunk: 1},
	}
	p.conversations = append(p.conversations, v)
	p.byID[0] = v
	start := time.Now()
	p.run(false)
	return time.Since(start)
}

// TestGoodput reports what 8 MB take over a path of 1 ms on bad networks. The
// figures are the same on every machine.
func TestGoodput(t *testing.T) {
	for _, c := range []struct {
		name string
		i    fault.Impairment
		// least is about half of what was measured, in MB/s.
		least float64
	}{
		{"clean", fault.Impairment{}, 300},
		{"1% loss", fault.Impairment{Drop: 0.01}, 2},
		{"5% loss", fault.Impairment{Drop: 0.05}, 0.3},
		{"1% reorder", fault.Impairment{Reorder: 0.01, ReorderDelay: 300 * time.Microsecond}, 15},
		{"5% reorder", fault.Impairment{Reorder: 0.05, ReorderDelay: 300 * time.Microsecond}, 8},
		{"1 Gbit/s", fault.Impairment{Rate: 1e9, Backlog: 200}, 50},
	} {
		var total time.Duration
		const seeds, size = 5, 8 << 20
		for seed := range uint64(seeds) {
			there := c.i
			there.Delay = 500 * time.Microsecond
			s := setup{mtu: 1500, queues: [2]int{1, 1}, tcp: accel.TCP{TimeWait: time.Second}, there: there, back: fault.Impairment{Delay: 500 * time.Microsecond}}
			run(t, seed, s, func(w *world) { total += transferOnce(w, size) })
		}
		got := seeds * size / total.Seconds() / 1e6
		t.Logf("%-12s %8.1f MB/s", c.name, got)
		if got < c.least {
			t.Errorf("%s: %.1f MB/s, want at least %.1f", c.name, got, c.least)
		}
	}
}
