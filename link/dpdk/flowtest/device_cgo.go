//go:build dpdk && cgo && linux

package flowtest

// #cgo pkg-config: libdpdk
// #include "flow.h"
import "C"

import (
	"syscall"
	"testing"
)

// Refuse says which calls fail, and how. 0: they do not. EBUSY from Isolate holds
// for one call.
type Refuse struct{ Validate, Create, Destroy, Isolate syscall.Errno }

// Play plays a device until the test ends.
func Play(tb testing.TB, r Refuse) {
	Start(r)
	tb.Cleanup(func() { C.flowtest_play(0, 0, 0, 0, 0) })
}

// Start plays a device until the process ends.
func Start(r Refuse) {
	C.flowtest_play(1, C.int(r.Validate), C.int(r.Create), C.int(r.Destroy), C.int(r.Isolate))
	Take()
}

// Take returns what was asked of the device since the last Take, one call a line.
// One goroutine may call it.
func Take() string { return C.GoString(C.flowtest_take()) }
