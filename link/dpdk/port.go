package dpdk

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/bifurcation"
)

// Config describes a port.
type Config struct {
	// Device names the device: a virtual one with its driver's arguments, such as
	// "net_memif0,role=server,socket=/run/m.sock,socket-abstract=no", or a PCI
	// address, such as "0000:3b:00.0". Required.
	Device string
	// Queues is the number of receive and of transmit queues, 1 to 256 and at
	// most what the device has. Default: 1.
	Queues int
	// RxRing and TxRing are the descriptors of each ring, in the limits of the
	// device. Default: the driver's wish, or 1024 as far as the device allows.
	RxRing, TxRing int
	// MTU is the greatest IP packet in bytes, 68 to 65389 and in the limits of the
	// device. Default: the device's present one.
	MTU int
	// Staging is how many frames of a queue can wait between Commit and Flush, 64
	// to 65536. Default: 4096, so that thousands of connections that answer in one
	// poll do not wait for each other.
	Staging int
	// Promiscuous makes the device accept frames for other addresses. Default: it
	// does not.
	Promiscuous bool
	// VLAN is the number of the VLAN (IEEE 802.1Q) that the port belongs to, 1 to
	// 4094: frames leave with its tag, arrive without, and those of other VLANs or
	// of none are dropped and counted as rx_other_vlan in DeviceStats.Extended.
	// Default: 0, no tags.
	VLAN int
	// NoChecksum leaves the checksums of TCP out, and takes frames without: shared memory
	// does not change bytes. It is for net_memif, and has to be set at both ends: an end
	// without it drops what comes from one with it. Frames that the other end forwards
	// elsewhere are wrong there. Default: checksums are made and checked.
	NoChecksum bool
	// Isolated starts the port in isolated mode: see Port.Isolate. Default: the
	// port receives all that the device does.
	Isolated bool
}

const (
	minMTU     = 68    // RFC 791
	maxMTU     = 65389 // 65535 bytes of an mbuf less headroom, Ethernet header and a VLAN tag
	maxQueues  = 256
	minStaging = link.MaxBurst
	maxStaging = 65536
	maxVLAN    = 4094
)

// check refuses values out of range and fills in those that do not depend on
// the device.
func (c *Config) check() error {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Staging == 0 {
		c.Staging = 4096
	}
	errs := []error{c.checkDevice()}
	for _, v := range []struct {
		name            string
		value, min, max int
	}{
		{"Config.Queues", c.Queues, 1, maxQueues},
		{"Config.RxRing", c.RxRing, 0, 65535},
		{"Config.TxRing", c.TxRing, 0, 65535},
		{"Config.Staging", c.Staging, minStaging, maxStaging},
		{"Config.VLAN", c.VLAN, 0, maxVLAN},
	} {
		if v.value < v.min || v.value > v.max {
			errs = append(errs, fmt.Errorf("%s is %d: want %d to %d", v.name, v.value, v.min, v.max))
		}
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("Config.MTU is %d: want %d to %d", c.MTU, minMTU, maxMTU))
	}
	if c.NoChecksum && !strings.HasPrefix(c.Device, "net_memif") {
		errs = append(errs, errors.New("Config.NoChecksum is set: only the shared memory of net_memif keeps bytes as they are"))
	}
	if c.VLAN != 0 && c.Isolated {
		errs = append(errs, errors.New("Config.VLAN is set: flow rules of isolated mode are for frames without a tag"))
	}
	return errors.Join(errs...)
}

// Open starts the EAL if this is the first port of the process, and opens and
// starts a device. Every further Open must bring the same EAL, or the zero EAL,
// which stands for the one that runs.
//
// A device is open once per process. Errors wrap ErrNotSupported where this
// program or this machine lacks something, and os.ErrPermission, os.ErrExist or
// os.ErrNotExist where that is the cause.
func Open(e EAL, c Config) (*Port, error) {
	if err := errors.Join(e.Check(), c.check()); err != nil {
		return nil, fmt.Errorf("dpdk: %w", err)
	}
	p, err := open(e, c)
	if err != nil {
		return nil, fmt.Errorf("dpdk: %w", err)
	}
	if p.isolated {
		p.filter = p.newRules()
	}
	return p, nil
}

// Port is a device driven by DPDK. It implements link.Device, link.Spreader,
// link.Steerer and, opened in isolated mode, link.Sharer.
type Port struct {
	device
	// filter is that in isolated mode, else nil.
	filter *bifurcation.Rules
}

// Sharing implements link.Sharer: a port in isolated mode is shared, by flow
// rules, each of which spreads its flows over all queues by a hash. The interface
// is that by which the kernel has the same device, as with mlx5 and drivers that
// run on an interface.
func (p *Port) Sharing() (link.Sharing, bool) {
	if p.filter == nil {
		return link.Sharing{}, false
	}
	return link.Sharing{Filter: p.filter, Interface: p.kernel}, true
}

// newRules returns the filter of a port in isolated mode.
func (p *Port) newRules() *bifurcation.Rules {
	queues := make([]uint16, p.Info().Queues)
	for i := range queues {
		queues[i] = uint16(i)
	}
	return bifurcation.NewRules(func(r bifurcation.Rule) (func() error, error) {
		f, err := p.CreateRule(Rule{IPv6: r.Addr.Is6(), Addr: r.Addr, Port: r.Port, PortMask: r.Mask, Queues: queues})
		if err != nil {
			return nil, err
		}
		return f.Remove, nil
	})
}

var (
	_ link.Device   = (*Port)(nil)
	_ link.Spreader = (*Port)(nil)
	_ link.Steerer  = (*Port)(nil)
	_ link.Sharer   = (*Port)(nil)
)
