//go:build dpdk && cgo && linux

package dpdk

// Views of C memory. They are sound because none of this memory is Go's: mbufs,
// frames and slots are allocated in C and live until the queue is closed, which
// the contract of link.Queue forbids while a view is in use. Bounds come from
// the shim, which checked them against the mbuf.

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"sync/atomic"
	"unsafe"
)

// frameData returns the bytes of a received frame.
func frameData(f *C.struct_tpa_frame) []byte {
	return unsafe.Slice((*byte)(f.data), int(f.len))
}

// room returns a buffer's data room of n bytes.
func room(b *C.struct_tpa_buffer, n int) []byte {
	return unsafe.Slice((*byte)(b.room), n)
}

// slot returns slot i of the staging area, i < tx.depth.
func slot(tx *C.struct_tpa_tx, i C.uint32_t) *C.struct_tpa_slot {
	return (*C.struct_tpa_slot)(unsafe.Add(unsafe.Pointer(tx.slots), uintptr(i)*unsafe.Sizeof(*tx.slots)))
}

// load reads a counter that C writes with a relaxed atomic store.
func load(counter *C.uint64_t) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(counter)))
}

// cString returns a copy of s in C memory and the function that frees it.
func cString(s string) (*C.char, func()) {
	c := C.CString(s)
	return c, func() { C.free(unsafe.Pointer(c)) }
}

// cStrings returns a copy of the strings in C memory for good: the EAL keeps
// pointers to its arguments.
func cStrings(list []string) **C.char {
	p := (**C.char)(C.calloc(C.size_t(len(list)+1), C.size_t(unsafe.Sizeof((*C.char)(nil)))))
	for i, s := range list {
		unsafe.Slice(p, len(list))[i] = C.CString(s)
	}
	return p
}

// cInts returns the address of the first number, nil when there is none.
func cInts(list []C.int) *C.int { return unsafe.SliceData(list) }
