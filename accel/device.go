package accel

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// pciAddress is domain:bus:device.function.
var pciAddress = regexp.MustCompile(`^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

// openDevice opens the device that the configuration names.
func openDevice(c *Config) (link.Device, error) {
	switch {
	case c.Link != nil:
		return c.Link, nil
	case c.Device == "":
		return nil, ErrNoDevice
	case strings.HasPrefix(c.Device, "net_"), pciAddress.MatchString(c.Device):
		env := c.DPDK
		if env.Logger == nil {
			env.Logger = c.Logger
		}
		// Not the *Port as it is: a nil one would be a link.Device that is not nil.
		port, err := dpdk.Open(env, dpdk.Config{Device: c.Device, Queues: c.Queues, MTU: c.MTU})
		if err != nil {
			return nil, err
		}
		return port, nil
	}
	return nil, fmt.Errorf("device %q is neither a DPDK virtual device (net_…) nor a PCI address (0000:3b:00.0)", c.Device)
}
