package recorder

import (
	"testing"
	"unsafe" // sizes and offsets only: nothing is read through it
)

// TestSizes checks that rows begin with a line of the cache.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(row{}); n != 64 {
		t.Errorf("a row has %d bytes, want 64", n)
	}
	if n := unsafe.Offsetof(Trace{}.recovering) + 8; n > 64 {
		t.Errorf("what every record needs of a trace ends at %d, want 64", n)
	}
	if n := unsafe.Sizeof(Trace{}); n != 128 { // memory of this size begins with a line
		t.Errorf("a trace has %d bytes, want 128", n)
	}
	if headerSize%64 != 0 || slotSize%64 != 0 || unsafe.Offsetof(slot{}.rows)%64 != 0 {
		t.Errorf("header %d, slot %d, rows at %d: want multiples of 64", headerSize, slotSize, unsafe.Offsetof(slot{}.rows))
	}
}
