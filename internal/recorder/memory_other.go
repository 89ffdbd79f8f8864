//go:build !linux

package recorder

import (
	"errors"
	"fmt"
)

// mapMemory has no files on this system: a recording ends with its process.
func mapMemory(path string, size int) ([]byte, error) {
	if path != "" {
		return nil, fmt.Errorf("recorder: %s: files are mapped on Linux only: %w", path, errors.ErrUnsupported)
	}
	return make([]byte, size), nil
}

// discard leaves the memory to the garbage collector: a hook may still write to it.
func discard([]byte, bool) error { return nil }
