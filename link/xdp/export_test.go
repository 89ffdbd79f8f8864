package xdp

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/internal/netdevgenl"
)

// Filter returns the filter of the device.
func (d *Device) Filter() *bpf.Filter { return d.filter }

// Run runs the program of an attached filter on a frame and returns what becomes of
// it, as XDP counts: 1 drops, 2 passes, 3 sends, 4 redirects.
func Run(f *bpf.Filter, frame []byte) (action uint32, out []byte, err error) {
	p, err := ebpf.NewProgramFromID(f.Program())
	if err != nil {
		return 0, nil, err
	}
	defer p.Close()
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	action, err = p.Run(&o)
	return action, o.DataOut, err
}

// CompleteAnswers has all answers leave with their checksum, as those of a driver
// do that runs XDP.
func CompleteAnswers(f *bpf.Filter) error {
	p, err := ebpf.NewProgramFromID(f.Program())
	if err != nil {
		return err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return err
	}
	maps, _ := info.MapIDs()
	for _, id := range maps {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		defer m.Close()
		if i, err := m.Info(); err != nil || i.Name != "cookies" {
			continue
		}
		value, err := m.LookupBytes(uint32(0))
		if err != nil {
			return err
		}
		// As struct cookies in filter.c has them.
		partial, behind := value[24:26], value[26:28]
		if binary.NativeEndian.Uint16(behind) != 0 {
			return fmt.Errorf("XDP does not answer")
		}
		clear(partial)
		return m.Put(uint32(0), value)
	}
	return fmt.Errorf("the filter has no map of cookies")
}

// SendByRing has a device send as in zero-copy mode, which no device of the tests
// has: through the transmit ring.
func (c Config) SendByRing() Config {
	c.sendByRing = true
	return c
}

// SoftwareChecksum has a device that sends by the ring ask for checksums as one with
// zero-copy mode may, and the kernel sum up.
func (c Config) SoftwareChecksum() Config {
	c.softwareChecksum = true
	return c
}

// Deferral returns whether the interrupts of all NAPI contexts of an interface are
// deferred as Config.BusyPoll wants it, and how many contexts there are.
func Deferral(ifindex int) (deferred bool, n int, err error) {
	c, err := genetlink.Open()
	if err != nil {
		return false, 0, err
	}
	defer c.Close()
	all, err := netdevgenl.NAPIs(c, ifindex)
	for _, i := range all {
		if i.Deferral != deferral {
			return false, len(all), err
		}
	}
	return len(all) > 0, len(all), err
}

// LeaveIn sets where records of deferred interrupts lie.
func LeaveIn(dir string) { leftoversDir = dir }

// ShowIn sets where the kernel shows interfaces.
func ShowIn(dir string) { sysfsNet = dir }

// DeferBySysfs defers the interrupts of an interface as on kernels before 6.13, and
// returns what ends that.
func DeferBySysfs(name string, mac net.HardwareAddr) (restore func() error, err error) {
	i, err := interruptsOf(&netlink.LinkAttrs{Name: name, HardwareAddr: mac})
	if err != nil {
		return nil, err
	}
	d := &deferrals{Interface: i}
	return func() error { return d.putBack(nil) }, i.write(deferral)
}

// DeferAnyway has a device poll busily and defer interrupts, although the kernel cannot
// poll it.
func (c Config) DeferAnyway() Config {
	c.deferAnyway = true
	return c
}
