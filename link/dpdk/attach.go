//go:build dpdk && cgo && linux

package dpdk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

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
	driver := c.boundDriver(pciDevices)
	if strings.Contains(reason, "Expecting 'PA' IOVA mode") {
		return fmt.Errorf("without huge pages, %s has no physical addresses to give to the device: sysctl -w vm.nr_hugepages=256 and, if TPA_HUGEPAGES is set, TPA_HUGEPAGES=auto: %w%s",
			driver, ErrNotSupported, reason)
	}
	if strings.Contains(reason, "Cannot open /dev/vfio/") && strings.Contains(reason, "Device or resource busy") {
		return fmt.Errorf("another process has it, or another device of its IOMMU group: end that process, or use another device: %w", syscall.EBUSY)
	}
	switch driver {
	case "vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core":
		return attachError("cannot be attached", err, reason)
	}
	if driver == "" {
		driver = "no driver"
	}
	return fmt.Errorf("DPDK cannot use it while it is bound to %s: if it is a network device that the kernel can do without, bind it with \"modprobe %[2]s && dpdk-devbind.py --bind=%[2]s %[3]s\": %[4]w%[5]s",
		driver, userDriver(), c.name(), ErrNotSupported, reason)
}

// userDriver names the kernel's driver for devices that are driven from user space:
// vfio-pci wants an IOMMU.
func userDriver() string {
	if units, err := os.ReadDir("/sys/class/iommu"); err == nil && len(units) == 0 {
		return "uio_pci_generic"
	}
	return "vfio-pci"
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
	if reason == "" {
		reason = ", and the driver does not say why: check its arguments"
	}
	return fmt.Errorf("%s%s", what, reason)
}
