package clock

import (
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// MonotonicTime hides its one field, a number of nanoseconds, and its exported
// arithmetic goes through time.Time, which costs more than the rest of a cached
// clock. This conversion is sound because the type is a struct of exactly
// one int64: the array below does not compile for another size, and TestLayout
// checks the meaning.

var _ [unsafe.Sizeof(tcpip.MonotonicTime{}) - 8]struct{}
var _ [8 - unsafe.Sizeof(tcpip.MonotonicTime{})]struct{}

func monotonic(ns int64) tcpip.MonotonicTime { return *(*tcpip.MonotonicTime)(unsafe.Pointer(&ns)) }
