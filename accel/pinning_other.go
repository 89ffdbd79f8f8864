//go:build !linux

package accel

import (
	"errors"
	"fmt"
	"runtime"
)

// checkCPUs refuses all: threads cannot be pinned on this system.
func checkCPUs([]int) error {
	return fmt.Errorf("Config.CPUs pins pollers on Linux only, this is %s: leave it out: %w", runtime.GOOS, errors.ErrUnsupported)
}
