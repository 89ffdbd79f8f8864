//go:build !linux

package accel

import (
	"errors"

	"github.com/gotpa/tpa/link"
)

// openInterface is never called: see checkSystem.
func openInterface(*Config) (link.Device, error) { return nil, errors.ErrUnsupported }
