package tpanet

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestParker hands values over one by one: each assertion ends a wait, and what was
// written before it is seen behind.
func TestParker(t *testing.T) {
	const times, wakers = 10_000, 3
	var (
		p     parker
		count atomic.Int64
		wg    sync.WaitGroup
	)
	for range wakers {
		wg.Go(func() {
			for range times {
				count.Add(1)
				p.Assert()
			}
		})
	}
	for count.Load() < wakers*times {
		p.Wait()
	}
	wg.Wait()

	p.Clear()
	plain := 0
	turn := make(chan struct{})
	go func() {
		for range times {
			plain++
			p.Assert()
			<-turn
		}
	}()
	for i := range times {
		p.Wait()
		if plain != i+1 {
			t.Fatalf("wait %d returned with %d", i+1, plain)
		}
		turn <- struct{}{}
	}

	p.Assert()
	p.Assert()
	p.Wait() // ends at once, and takes both
	p.Assert()
	p.Clear()
	done := make(chan struct{})
	go func() { p.Wait(); close(done) }()
	select {
	case <-done:
		t.Error("an assertion that was cleared ended a wait")
	default:
	}
	p.Assert()
	<-done
}
