package processor

import (
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/clock"
)

// TestIdler has a poller find nothing for two seconds, and looks at how long it
// sleeps, in a time of its own.
func TestIdler(t *testing.T) {
	const us = time.Microsecond
	for _, c := range []struct {
		name                string
		polling             Polling
		first, second, last time.Duration
	}{
		{"default", Polling{Spin: time.Nanosecond}, firstSleep, 2 * firstSleep, deepSleep},
		{"by choice", Polling{Spin: time.Nanosecond, MaxSleep: 500 * us}, firstSleep, 2 * firstSleep, 500 * us},
		{"short by choice", Polling{Spin: time.Nanosecond, MaxSleep: 10 * us}, 10 * us, 10 * us, 10 * us},
		{"never", Polling{Spin: -1}, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.polling.Policy()
			i := NewIdler(clock.New(), false)
			for range 2 { // a frame starts it over
				var slept []time.Duration
				now := int64(1)
				for now < int64(2*time.Second) {
					if i.Spin(now, p) {
						now += int64(100 * time.Millisecond)
						continue
					}
					slept = append(slept, i.Sleep(now, p))
					now += int64(slept[len(slept)-1])
				}
				if c.first == 0 {
					if len(slept) > 0 {
						t.Fatalf("slept %v", slept)
					}
					continue
				}
				if n := len(slept); n < 3 || slept[0] != c.first || slept[1] != c.second || slept[n-1] != c.last {
					t.Fatalf("%d sleeps, want %v, %v, ... %v", n, c.first, c.second, c.last)
				}
				i.Reset(now)
			}
		})
	}
}
