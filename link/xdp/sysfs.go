package xdp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/internal/netdevgenl"
	"github.com/vishvananda/netlink"
)

// sysfsNet is where the kernel shows interfaces: those of the network namespace of the
// process that mounted it.
var sysfsNet = "/sys/class/net"

// interfaceInterrupts are the interrupts of an interface, all alike, as kernels before
// 6.13 defer them.
type interfaceInterrupts struct {
	Name   string
	MAC    string
	Before netdevgenl.Deferral
}

// interruptsOf reads how an interface defers its interrupts.
func interruptsOf(attrs *netlink.LinkAttrs) (i *interfaceInterrupts, err error) {
	i = &interfaceInterrupts{Name: attrs.Name, MAC: attrs.HardwareAddr.String()}
	i.Before, err = i.read()
	return i, err
}

// read fails where sysfs shows another interface of that name.
func (i *interfaceInterrupts) read() (d netdevgenl.Deferral, err error) {
	if b, err := os.ReadFile(i.file("address")); err != nil || strings.TrimSpace(string(b)) != i.MAC {
		return d, fmt.Errorf("%s does not show the interface: %w", filepath.Join(sysfsNet, i.Name), errors.Join(err, errors.ErrUnsupported))
	}
	number := func(name string) int {
		b, rerr := os.ReadFile(i.file(name))
		n, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		err = errors.Join(err, rerr, perr)
		return n
	}
	d.HardIRQs = number("napi_defer_hard_irqs")
	d.FlushTimeout = time.Duration(number("gro_flush_timeout"))
	return d, err
}

// write sets what all NAPI contexts of the interface have; there is no timeout for
// suspension.
func (i *interfaceInterrupts) write(d netdevgenl.Deferral) error {
	set := func(name string, n int) error { return os.WriteFile(i.file(name), []byte(strconv.Itoa(n)), 0) }
	return errors.Join(set("napi_defer_hard_irqs", d.HardIRQs), set("gro_flush_timeout", int(d.FlushTimeout)))
}

func (i *interfaceInterrupts) file(name string) string { return filepath.Join(sysfsNet, i.Name, name) }
