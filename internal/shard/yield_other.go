//go:build !linux

package shard

// yieldThread does nothing.
func yieldThread() {}
