//go:build !linux

package shard

import "errors"

// machineMemory is a guess: tests and development do not need more.
func machineMemory() uint64 { return 4 << 30 }

// pin fails.
func pin(int) error { return errors.ErrUnsupported }
