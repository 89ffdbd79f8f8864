//go:build !linux

package accel

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/gotpa/tpa/link"
)

// openInterface fails.
func openInterface(c *Config) (link.Device, error) {
	return nil, fmt.Errorf("%s: AF_XDP and packet sockets are Linux's, this is %s; leave out TPA_DEV to serve through the kernel: %w",
		c.Device, runtime.GOOS, errors.ErrUnsupported)
}

// sharedInterface returns "": no device is shared with the kernel on this system.
func sharedInterface(link.Device) string { return "" }
