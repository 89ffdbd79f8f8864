package accel

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
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
	}
	if err := checkSystem(runtime.GOOS, c.Device); err != nil {
		return nil, err
	}
	if c.ofDPDK() {
		env := c.DPDK
		if env.Logger == nil {
			env.Logger = c.Logger
		}
		return openPort(env, c)
	}
	return openInterface(c)
}

// ofDPDK tells whether Device is one of DPDK. Anything else is the name of an interface.
func (c *Config) ofDPDK() bool {
	return strings.HasPrefix(c.Device, "net_") || pciAddress.MatchString(c.Device)
}

// checkDevice refuses settings that are not for the device that is named.
func (c *Config) checkDevice() error {
	named := cmp.Or(c.Device, "Config.Link")
	var errs []error
	if c.NoChecksum && (c.Link != nil || c.Device != "" && !strings.HasPrefix(c.Device, "net_memif")) {
		errs = append(errs, fmt.Errorf("%s: TCP without checksums (TPA_CHECKSUM=no, Config.NoChecksum) is for net_memif, whose shared memory keeps bytes as they are; leave it out", named))
	}
	if c.Link != nil || c.Device == "" || c.ofDPDK() {
		return errors.Join(errs...)
	}
	if c.VLAN != 0 {
		errs = append(errs, fmt.Errorf("%s: Config.VLAN is for devices of DPDK; the kernel has an interface for each VLAN: TPA_DEV=%s.%d (ip link add link %s name %s.%d type vlan id %d), without TPA_VLAN",
			named, named, c.VLAN, named, named, c.VLAN, c.VLAN))
	}
	if c.Steering != SteerAuto {
		errs = append(errs, fmt.Errorf("%s: steering %v is for devices of DPDK; a kernel interface has a filter: leave out TPA_STEERING", named, c.Steering))
	}
	return errors.Join(errs...)
}

// checkSystem refuses devices on systems that have none for us.
func checkSystem(goos, device string) error {
	if goos == "linux" {
		return nil
	}
	return fmt.Errorf("%s: devices are opened on Linux only, this is %s; leave out the device (TPA_DEV) to serve through the kernel: %w",
		device, goos, errors.ErrUnsupported)
}

// openPort opens a device of DPDK, in isolated mode where it is shared.
func openPort(env dpdk.EAL, c *Config) (link.Device, error) {
	if strings.Count(c.Device, ":") == 1 && pciAddress.MatchString(c.Device) {
		c.Device = "0000:" + c.Device
	}
	cfg := dpdk.Config{Device: c.Device, Queues: c.Queues, MTU: c.MTU, VLAN: c.VLAN, NoChecksum: c.NoChecksum}
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

// sharedInterface returns the name of the interface by which the kernel has the
// device, too, with its addresses and neighbours; "" for a device of our own.
func sharedInterface(d link.Device) string {
	if s, ok := d.(link.Sharer); ok {
		sharing, _ := s.Sharing()
		return sharing.Interface
	}
	return ""
}
