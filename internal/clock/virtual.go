package clock

import "sync/atomic"

var virtual atomic.Bool

// SetVirtual says that the time of the whole process is that of testing/synctest,
// where it stands still while any goroutine runs: pollers that are made from now on
// sleep as soon as they are idle, because they would wait for time to pass for
// ever. Tests that run in virtual time call it first.
func SetVirtual() { virtual.Store(true) }

// Virtual tells whether SetVirtual was called.
func Virtual() bool { return virtual.Load() }
