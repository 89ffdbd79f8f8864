package accel

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// pciAddress is domain:bus:device.function; lspci leaves the domain 0000 out.
var pciAddress = regexp.MustCompile(`^(?:[0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

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
		return openPort(env, c)
	}
	// Anything else is the name of an interface.
	if c.Steering != SteerAuto {
		return nil, fmt.Errorf("%s: steering %v is for devices of DPDK; an interface of the kernel's has a filter: leave out TPA_STEERING", c.Device, c.Steering)
	}
	return openInterface(c)
}

// openPort opens a device of DPDK, in isolated mode where it is shared.
func openPort(env dpdk.EAL, c *Config) (link.Device, error) {
	if strings.Count(c.Device, ":") == 1 && pciAddress.MatchString(c.Device) {
		c.Device = "0000:" + c.Device
	}
	cfg := dpdk.Config{Device: c.Device, Queues: c.Queues, MTU: c.MTU}
	switch c.Steering {
	case SteerRules:
		cfg.Isolated = true
	case SteerAuto:
		cfg.Isolated = kernelHas(c.Device)
	}
	port, err := dpdk.Open(env, cfg)
	if cfg.Isolated && errors.Is(err, dpdk.ErrNotSupported) && c.Steering == SteerAuto {
		return nil, fmt.Errorf("%w: this driver cannot share the device with the kernel: TPA_DEV=INTERFACE shares it by AF_XDP; bound to vfio-pci, DPDK has all of it", err)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Isolated && sharedInterface(port) == "" {
		port.Close()
		return nil, fmt.Errorf("%s: the kernel has no interface for this device, and so no addresses and no neighbours to share: want TPA_STEERING=whole", c.Device)
	}
	return port, nil
}

// kernelHas tells whether the kernel has an interface for a PCI device. It has
// none while the device is bound to VFIO.
func kernelHas(device string) bool {
	for _, dir := range []string{"net/*", "virtio*/net/*"} {
		if found, _ := filepath.Glob(filepath.Join("/sys/bus/pci/devices", device, dir)); found != nil {
			return true
		}
	}
	return false
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
	if i, err := net.InterfaceByName(name); err == nil && i.MTU > dev.Info().MTU && !only {
		// Its frames do not fit AF_XDP's chunks.
		if p, err := openPacket(name); err == nil {
			dev.Close()
			c.Logger.Info("the MTU is too great for AF_XDP: a packet socket takes its place", "device", name, "mtu", i.MTU)
			return p, nil
		}
	}
	if why := dev.NotNative(); why != nil && !only && c.Queues <= 1 {
		// Generic mode drops segments that the interface has joined to larger ones.
		if p, err := openPacket(name); err == nil {
			dev.Close()
			c.Logger.Info("the driver does not run XDP at this MTU or at all: a packet socket takes its place", "device", name, "reason", why)
			return p, nil
		}
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

// sharedInterface returns the name of the interface by which the kernel has the
// device, too, with its addresses and neighbours; "" for a device of our own.
func sharedInterface(d link.Device) string {
	if s, ok := d.(link.Sharer); ok {
		sharing, _ := s.Sharing()
		return sharing.Interface
	}
	return ""
}
