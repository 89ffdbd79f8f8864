package counter

import (
	"sync"
	"testing"
)

// TestReaders counts under a lock while others look.
func TestReaders(t *testing.T) {
	const writers, times = 4, 1000
	var (
		c  Counter
		f  Flag
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for range writers {
		wg.Go(func() {
			for range times {
				mu.Lock()
				c.Add(1)
				f.Set(!f.Load())
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for last := uint64(0); last < writers*times; {
			n := c.Load()
			if n < last {
				t.Errorf("%d after %d", n, last)
				return
			}
			last = n
			f.Load()
		}
	})
	wg.Wait()
	if got := c.Load(); got != writers*times {
		t.Errorf("count %d, want %d", got, writers*times)
	}
	if f.Load() {
		t.Error("the flag is on after an even number of changes")
	}
}
