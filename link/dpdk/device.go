package dpdk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

const pciDevices = "/sys/bus/pci/devices"

var pciAddress = regexp.MustCompile(`^(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

// name is the device's name without the driver's arguments.
func (c *Config) name() string {
	name, _, _ := strings.Cut(c.Device, ",")
	return name
}

// arg returns the value of one of the driver's arguments, or otherwise.
func (c *Config) arg(name, otherwise string) string {
	_, args, _ := strings.Cut(c.Device, ",")
	for arg := range strings.SplitSeq(args, ",") {
		if n, v, _ := strings.Cut(arg, "="); n == name {
			return v
		}
	}
	return otherwise
}

func (c *Config) isPCI() bool { return pciAddress.MatchString(c.name()) }

// checkDevice refuses names that cannot be a device's and devices that run
// commands, and spells a PCI address as DPDK does.
func (c *Config) checkDevice() error {
	const want = "want a virtual device such as net_memif0, or a PCI address such as 0000:3b:00.0"
	switch {
	case c.Device == "":
		return errors.New("Config.Device is empty: " + want)
	case strings.ContainsAny(c.Device, "\x00\n"):
		return fmt.Errorf("Config.Device is %q: want one line", c.Device)
	case strings.Contains(c.Device, "exec("):
		// net_failsafe runs what is in the brackets.
		return fmt.Errorf("Config.Device is %q: a device that runs commands is refused", c.Device)
	case c.isPCI():
		c.Device = strings.ToLower(c.name()) + c.Device[len(c.name()):]
		if strings.Count(c.name(), ":") == 1 {
			c.Device = "0000:" + c.Device
		}
	case !strings.HasPrefix(c.Device, "net_") && !strings.HasPrefix(c.Device, "eth_"):
		return fmt.Errorf("Config.Device is %q: %s", c.Device, want)
	}
	return nil
}

// attachError says what to do about a device that a driver did not take. reason
// is what DPDK logged.
func (c *Config) attachError(err error, reason string) error {
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("is open in this process already: %w", err)
	case c.isPCI():
		return c.attachPCIError(err, reason)
	case errors.Is(err, syscall.EFAULT), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("this DPDK has no driver for a virtual device of that name: check the spelling and that the driver's package is installed (Debian: librte-net-*): %w", os.ErrNotExist)
	}
	return attachError("cannot be attached", err, reason)
}

func (c *Config) attachPCIError(err error, reason string) error {
	device := filepath.Join(pciDevices, c.name())
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("there is no such PCI device (lspci -D lists them): %w", os.ErrNotExist)
	}
	driver := "no driver"
	if link, err := os.Readlink(filepath.Join(device, "driver")); err == nil {
		driver = filepath.Base(link)
	}
	switch driver {
	case "vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core":
		return attachError("cannot be attached", err, reason)
	}
	return fmt.Errorf("DPDK cannot use it while it is bound to %s: if it is a network device that the kernel can do without, bind it with \"dpdk-devbind.py --bind=vfio-pci %s\": %w%s",
		driver, c.name(), ErrNotSupported, reason)
}

// attachError makes an error of a driver's number and of what DPDK logged.
func attachError(what string, err error, reason string) error {
	if !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%s: %w%s", what, err, reason)
	}
	// Drivers return -1 for anything, which is EPERM's number.
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s, perhaps for want of permission (run as root): %w%s", what, err, reason)
	}
	return fmt.Errorf("%s%s", what, reason)
}
