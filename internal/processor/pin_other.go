//go:build !linux

package processor

import "errors"

// Pin fails.
func Pin(int) error { return errors.ErrUnsupported }
