package accel

import (
	"errors"
	"regexp"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
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
	return openInterface(c)
}

// openInterface opens an interface that the kernel has, too: by AF_XDP, or behind
// the XDP of another program by a packet socket.
func openInterface(c *Config) (link.Device, error) {
	if name, ok := strings.CutPrefix(c.Device, "packet:"); ok {
		return openPacket(name)
	}
	name, only := strings.CutPrefix(c.Device, "xdp:")
	dev, err := xdp.Open(xdp.Config{Interface: name, Queues: max(c.Queues, 1)})
	if errors.Is(err, xdp.ErrOccupied) && !only {
		// A server of this kind, or another program: neither has to notice.
		c.Logger.Info("the interface's XDP is in use: a packet socket takes its place", "device", name, "reason", err)
		dev, perr := openPacket(name)
		if perr != nil {
			return nil, errors.Join(err, perr)
		}
		return dev, nil
	}
	if err != nil {
		return nil, err
	}
	if why := dev.NotNative(); why != nil {
		c.Logger.Warn("the driver does not run XDP at this MTU or at all: the generic mode of the kernel takes its place, at a higher price for each frame",
			"device", dev, "reason", why)
	}
	return dev, nil
}

func openPacket(name string) (link.Device, error) {
	dev, err := packet.Open(packet.Config{Interface: name})
	if err != nil {
		return nil, err
	}
	return dev, nil
}

// isShared tells whether the kernel has the device, too, with its addresses and
// neighbours.
func isShared(d link.Device) bool {
	switch d.(type) {
	case *xdp.Device, *packet.Device:
		return true
	}
	return false
}
