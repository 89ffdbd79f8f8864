//go:build !race

// The race detector makes sync.Pool drop things on purpose.

package tcp

import (
	"bytes"
	"testing"
)

func TestBufferDoesNotAllocate(t *testing.T) {
	for _, size := range []int{1, 64, smallChunk, smallChunk + 1, largeChunk, 3 * largeChunk} {
		var q buffer
		b := bytes.Repeat([]byte{'x'}, size)
		got := testing.AllocsPerRun(200, func() {
			q.write(b)
			q.CopyAt(b, q.begin)
			q.read(b)
		})
		// Less than one: a garbage collection may empty the pool.
		if got >= 1 {
			t.Errorf("%d bytes in and out: %v allocations, want 0", size, got)
		}
	}
}
