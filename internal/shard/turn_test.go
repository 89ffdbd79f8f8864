package shard

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link/memory"
)

// endless is a handler that always has something to do.
type endless struct {
	task transport.Task
	runs atomic.Int64
	stop atomic.Bool
}

// Run implements transport.Runner.
func (e *endless) Run() {
	e.runs.Add(1)
	for start := time.Now(); time.Since(start) < 200*time.Microsecond; {
	}
	if !e.stop.Load() {
		e.task.Ready()
	}
}

// TestTurns checks that goroutines which wait in the global run queue go on beside
// handlers that never end, with one P for all.
func TestTurns(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	_, b := newPair(t, memory.Options{}, TCP{})
	name := "endless"
	e := &endless{}
	e.task.Init(b.RunQueue(), e, &name)
	e.task.Ready()
	defer e.stop.Store(true)

	const goroutines, switches = 500, 4
	before := e.runs.Load()
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range switches {
				runtime.Gosched() // to the global run queue
			}
		})
	}
	all.Wait()
	// A P that takes one of them in 61 switches would run the handler 61 times for each.
	if runs := e.runs.Load() - before; runs > goroutines*switches {
		t.Errorf("the handler ran %d times while %d goroutines switched %d times, want fewer runs than switches", runs, goroutines, switches)
	}
}
