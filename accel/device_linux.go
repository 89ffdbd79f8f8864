package accel

import (
	"errors"
	"net"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// openInterface opens an interface that the kernel has, too: by AF_XDP, or by a packet
// socket where that is faster or AF_XDP cannot be had.
func openInterface(c *Config) (link.Device, error) {
	if name, ok := strings.CutPrefix(c.Device, "packet:"); ok {
		return openPacket(name, "")
	}
	name, only := strings.CutPrefix(c.Device, "xdp:")
	cfg := xdp.Config{Interface: name, Queues: max(c.Queues, 1), Pin: c.XDP.Pin, BusyPoll: c.XDP.BusyPoll}
	// A packet socket has one queue.
	either := !only && c.Queues <= 1
	if either && !cfg.Pin && cfg.BusyPoll == 0 {
		if plan, err := cfg.Plan(); err == nil && plan.Slower != "" {
			dev, err := openPacket(name, plan.Slower)
			if err == nil {
				c.Logger.Info("a packet socket is faster here than AF_XDP", "device", name, "reason", plan.Slower, "instead", "TPA_DEV=xdp:"+name)
				return dev, nil
			}
			c.Logger.Info("a packet socket would be faster here than AF_XDP and cannot be had", "device", name, "err", err)
		}
	}
	dev, err := openXDP(c, cfg)
	if errors.Is(err, xdp.ErrOccupied) && !only {
		// A server of this kind, or another program: neither has to notice.
		c.Logger.Info("the interface's XDP is in use: a packet socket takes its place", "device", name, "reason", err)
		dev, perr := openPacket(name, "the interface's XDP is in use")
		if perr != nil {
			return nil, errors.Join(err, perr)
		}
		return dev, nil
	}
	if errors.Is(err, xdp.ErrJoined) && either {
		c.Logger.Info("AF_XDP would lose segments here: a packet socket takes its place", "device", name, "reason", err)
		dev, perr := openPacket(name, "AF_XDP would lose segments")
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
		if p, err := openPacket(name, "the MTU is too great for AF_XDP"); err == nil {
			closeForGood(dev)
			c.Logger.Info("the MTU is too great for AF_XDP: a packet socket takes its place", "device", name, "mtu", i.MTU)
			return p, nil
		}
	}
	if why := dev.NotNative(); why != nil && either {
		// Generic mode drops segments that the interface has joined to larger ones.
		if p, err := openPacket(name, "the driver does not run XDP"); err == nil {
			closeForGood(dev)
			c.Logger.Info("the driver does not run XDP at this MTU or at all: a packet socket takes its place", "device", name, "reason", why)
			return p, nil
		}
	}
	if why := dev.NotDeferred(); why != nil {
		c.Logger.Warn("busy polling does less than it could", "device", dev, "reason", why)
	}
	if why := dev.NotNative(); why != nil {
		c.Logger.Warn("the driver does not run XDP at this MTU or at all: the generic mode of the kernel takes its place, at a higher price for each frame",
			"device", dev, "reason", why)
	}
	return movable(c, dev), nil
}

// closeForGood closes a device that another one replaces: it leaves nothing.
func closeForGood(dev *xdp.Device) {
	_ = dev.Unpin()
	dev.Close()
}

// openPacket opens a packet socket. why says what was against AF_XDP, "" where
// nobody asked.
func openPacket(name, why string) (link.Device, error) {
	dev, err := packet.Open(packet.Config{Interface: name})
	if err != nil {
		return nil, err
	}
	return &packetDevice{dev, why}, nil
}

// A packetDevice says why it is none of AF_XDP.
type packetDevice struct {
	*packet.Device
	why string
}

// Info implements link.Device.
func (d *packetDevice) Info() link.Info {
	info := d.Device.Info()
	if d.why != "" {
		info.QueueModes = []string{"no AF_XDP: " + d.why}
	}
	return info
}
