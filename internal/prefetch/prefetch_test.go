package prefetch

import (
	"math"
	"testing"
)

// TestNowhere asks for memory that is not there: nothing happens.
func TestNowhere(t *testing.T) {
	for _, address := range []uintptr{0, 1, 4096, math.MaxUint - 1, math.MaxUint &^ (1<<47 - 1)} {
		Bytes(address, 1)
		Bytes(address, 1000)
	}
	var nowhere Hint
	nowhere.Around(100, 100)
	Of((*[1000]byte)(nil))
	Start((*[1000]byte)(nil), 10)
}

// TestMoved asks for a stack that was left behind by a larger one, and for that of a
// goroutine that has ended.
func TestMoved(t *testing.T) {
	var h Hint
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Here()
		deeper(1000)
		h.Around(1000, 1000)
	}()
	<-done
	h.Around(1000, 1000)
	h.SetObject(new(int))
	h.Around(0, 8)
	var b [64]byte
	h.Set(&b[0])
	h.Around(0, len(b))
}

//go:noinline
func deeper(n int) int {
	var b [256]byte
	if n == 0 {
		return int(b[0])
	}
	return deeper(n-1) + int(b[n%len(b)])
}
