package dpdk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// boundDriver returns the kernel's driver that has a PCI device, "" for none or for
// another kind of device. dir is the kernel's directory of them.
func (c *Config) boundDriver(dir string) string {
	if !c.isPCI() {
		return ""
	}
	target, err := os.Readlink(filepath.Join(dir, c.name(), "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// isUIO tells whether a driver is one of the kernel's for drivers in user space
// that work without an IOMMU.
func isUIO(driver string) bool { return driver == "uio_pci_generic" || driver == "igb_uio" }

// physical returns the driver of a device that is given physical addresses, which
// only huge pages have; "" for others.
func (c *Config) physical(dir string) string {
	driver := c.boundDriver(dir)
	if isUIO(driver) {
		return driver
	}
	if driver == "vfio-pci" {
		// Documentation/driver-api/vfio.rst: the mode without an IOMMU.
		name, _ := os.ReadFile(filepath.Join(dir, c.name(), "iommu_group/name"))
		if strings.TrimSpace(string(name)) == "vfio-noiommu" {
			return driver + " without an IOMMU"
		}
	}
	return ""
}

// A claim keeps other processes that ask for one away from a device. It ends with
// Close or with the process.
type claim struct{ f *os.File }

// Close gives the device up. A nil claim has none.
func (c *claim) Close() error {
	if c == nil {
		return nil
	}
	return c.f.Close()
}

// claim claims a PCI device whose driver in the kernel lets any number of processes
// have it: with a second one, both would program the same rings. VFIO sees to that
// itself, and drivers that share a card (mlx5) mean to be used by several.
//
// The claim is a lock on the device's configuration space in sysfs. Opening
// /dev/uioN would not do: closing it stops the device's access to memory, under the
// process that has it (uio_pci_generic). A process in another network namespace has
// a sysfs of its own, and is not seen.
func (c *Config) claim(dir string) (*claim, error) {
	driver := c.boundDriver(dir)
	if !isUIO(driver) {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, c.name(), "config"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process has it, and %s does not keep two apart: end that process, or use another device: %w", driver, syscall.EBUSY)
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return &claim{f}, nil
}
