//go:build !linux

package processor

// yieldThread does nothing.
func yieldThread() {}
