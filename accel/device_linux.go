package accel

import (
	"errors"
	"net"
	"strings"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// openInterface opens an interface that the kernel has, too: by AF_XDP, or behind
// the XDP of another program by a packet socket.
func openInterface(c *Config) (link.Device, error) {
	if name, ok := strings.CutPrefix(c.Device, "packet:"); ok {
		return openPacket(name)
	}
	name, only := strings.CutPrefix(c.Device, "xdp:")
	dev, err := openXDP(c, xdp.Config{Interface: name, Queues: max(c.Queues, 1), Pin: c.XDP.Pin, BusyPoll: c.XDP.BusyPoll})
	if errors.Is(err, xdp.ErrOccupied) && !only {
		// A server of this kind, or another program: neither has to notice.
		c.Logger.Info("the interface's XDP is in use: a packet socket takes its place", "device", name, "reason", err)
		dev, perr := openPacket(name)
		if perr != nil {
			return nil, errors.Join(err, perr)
		}
		return dev, nil
	}
	if errors.Is(err, xdp.ErrJoined) && !only && c.Queues <= 1 {
		c.Logger.Info("AF_XDP would lose segments here: a packet socket takes its place", "device", name, "reason", err)
		return openPacket(name)
	}
	if err != nil {
		return nil, err
	}
	if i, err := net.InterfaceByName(name); err == nil && i.MTU > dev.Info().MTU && !only {
		// Its frames do not fit AF_XDP's chunks.
		if p, err := openPacket(name); err == nil {
			closeForGood(dev)
			c.Logger.Info("the MTU is too great for AF_XDP: a packet socket takes its place", "device", name, "mtu", i.MTU)
			return p, nil
		}
	}
	if why := dev.NotNative(); why != nil && !only && c.Queues <= 1 {
		// Generic mode drops segments that the interface has joined to larger ones.
		if p, err := openPacket(name); err == nil {
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

func openPacket(name string) (link.Device, error) {
	dev, err := packet.Open(packet.Config{Interface: name})
	if err != nil {
		return nil, err
	}
	return dev, nil
}
