package tpanet

import (
	"fmt"
	"runtime"
	"testing"

	"gvisor.dev/gvisor/pkg/goid"
)

// TestGoroutineID checks that gVisor reads the number of a goroutine from where
// this version of Go has it.
func TestGoroutineID(t *testing.T) {
	done := make(chan struct{})
	for range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			b := make([]byte, 64)
			b = b[:runtime.Stack(b, false)]
			var want int64
			if _, err := fmt.Sscanf(string(b), "goroutine %d ", &want); err != nil {
				t.Errorf("%q: %v", b, err)
			}
			if got := goid.Get(); got != want {
				t.Errorf("got %d, want %d", got, want)
			}
		}()
	}
	for range 3 {
		<-done
	}
}
