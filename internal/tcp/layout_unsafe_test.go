package tcp

import (
	"testing"
	"unsafe"
)

// TestHotPart holds what every segment needs to the memory that prefetch fetches, and
// an endpoint to the size that an idle connection may cost.
func TestHotPart(t *testing.T) {
	const line, lines = 64, 17
	var e Endpoint
	if got := unsafe.Offsetof(e.options); got > lines*line {
		t.Errorf("the hot part has %d bytes: more than the %d cache lines that prefetch fetches", got, lines)
	}
	if got := unsafe.Sizeof(e); got > 1536 {
		t.Errorf("an endpoint has %d bytes, want at most 1,536, a size of Go's allocator", got)
	}
}
