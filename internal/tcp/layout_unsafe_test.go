package tcp

import (
	"testing"
	"unsafe"
)

// TestHotPart bounds what every segment needs, which is fetched ahead, and an endpoint
// to the size that an idle connection may cost.
func TestHotPart(t *testing.T) {
	const line, lines = 64, 17
	var e Endpoint
	if hotPart > lines*line {
		t.Errorf("the hot part has %d bytes: more than %d cache lines", hotPart, lines)
	}
	if got := unsafe.Sizeof(e); got > 1536 {
		t.Errorf("an endpoint has %d bytes, want at most 1,536, a size of Go's allocator", got)
	}
}
