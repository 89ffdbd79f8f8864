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
	C.flowtest_play(1, C.int(r.Validate), C.int(r.Create), C.int(r.Destroy), C.int(r.Isolate))
	C.flowtest_take()
	tb.Cleanup(func() { C.flowtest_play(0, 0, 0, 0, 0) })
}

// Take returns what was asked of the device since the last Take, one call a line.
func Take() string { return C.GoString(C.flowtest_take()) }
