package clock

import (
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestLayout(t *testing.T) {
	var zero tcpip.MonotonicTime
	for _, ns := range []int64{0, 1, int64(time.Hour), -int64(time.Second)} {
		if got, want := monotonic(ns), zero.Add(time.Duration(ns)); got != want {
			t.Errorf("monotonic(%d) = %v, want %v", ns, got, want)
		}
	}
}

func TestCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		start := c.NowMonotonic()
		elapsed := func() time.Duration { return c.NowMonotonic().Sub(start) }
		time.Sleep(time.Second)
		if got := elapsed(); got != time.Second {
			t.Errorf("before the first Refresh: %v, want 1s", got)
		}
		c.Refresh()
		time.Sleep(time.Second)
		if got := elapsed(); got != time.Second {
			t.Errorf("cached: %v, want 1s", got)
		}
		fired := make(chan time.Duration, 1)
		c.AfterFunc(time.Second, func() { fired <- elapsed() })
		if got := <-fired; got != 3*time.Second {
			t.Errorf("in a timer: %v, want 3s", got)
		}
		time.Sleep(time.Second)
		c.Stop()
		if got := elapsed(); got != 4*time.Second {
			t.Errorf("stopped: %v, want 4s", got)
		}
	})
}

func BenchmarkNowMonotonic(b *testing.B) {
	c := New()
	c.Refresh()
	b.ReportAllocs()
	for b.Loop() {
		c.NowMonotonic()
	}
}
