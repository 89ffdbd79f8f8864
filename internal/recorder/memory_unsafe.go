package recorder

import "unsafe"

// The file is mapped memory in which these structs lie one behind the other.
// They hold numbers only, no pointers; their sizes are multiples of 8 and
// mappings start on a page, so every field is aligned; the memory is never
// unmapped, so the pointers stay valid; and what foreign bytes they are made of
// cannot make them invalid, with one exception: a bool, which Decode sets right
// before it is read.

const (
	headerSize = int(unsafe.Sizeof(fileHeader{}))
	slotSize   = int(unsafe.Sizeof(slot{}))
)

func fileSize(conns int) int { return headerSize + (conns+archived)*slotSize }

// headerOf returns the header at the start of memory.
func headerOf(memory []byte) *fileHeader { return (*fileHeader)(unsafe.Pointer(&memory[0])) }

// layOut returns the parts of memory, which must be at least fileSize bytes and
// start at a multiple of 8.
func layOut(memory []byte, conns int) (*fileHeader, []slot, []slot) {
	first := unsafe.Pointer(&memory[0])
	all := unsafe.Slice((*slot)(unsafe.Add(first, headerSize)), conns+archived)
	return (*fileHeader)(first), all[:conns:conns], all[conns:]
}

// sane makes the bytes of a slot a valid one: a bool is 0 or 1.
func sane(b []byte) {
	v6 := &b[unsafe.Offsetof(slot{}.v6)]
	*v6 &= 1
}
