//go:build !linux

package limits

// machineMemory is a guess that is enough for tests and development.
func machineMemory() uint64 { return 4 << 30 }
