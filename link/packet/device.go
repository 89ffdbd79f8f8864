package packet

import (
	"errors"
	"fmt"
	"math/bits"
	"syscall"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/netdev"
	"github.com/gotpa/tpa/link/internal/packetsocket"
)

// Config describes a device. Only Interface has to be set.
type Config struct {
	// Interface is the name of an Ethernet interface in the network namespace of
	// the calling thread.
	Interface string
	// RingSize is the number of frames in the receive ring, a power of two from 64
	// to 32768. Default: what 16 MB hold, 8192 at an MTU of 1500, but at least 2048.
	RingSize int
}

// A Device is an interface shared with the kernel, and with other devices of this
// kind. It has one queue.
type Device struct {
	info   link.Info
	netdev *netdev.Interface
	filter *bpf.Filter
	queue  *Queue
}

var (
	_ link.Device = (*Device)(nil)
	_ link.Sharer = (*Device)(nil)
)

const (
	// Thousands of connections may send a request each at once. Frames that find the
	// ring full are lost, and those sent again fill it anew.
	ringMemory          = 16 << 20 // bytes
	leastRing, mostRing = 2048, 8192

	headerLen = 14 // of Ethernet, without a VLAN tag
	maxFrame  = packetsocket.MaxFrame
)

// Open opens an interface: it attaches a filter that passes everything, and opens
// the sockets. Nothing leaves the kernel before ports are claimed with
// the filter of Device.Sharing. Errors are those of Config, or of type
// *link.InterfaceError.
func Open(cfg Config) (*Device, error) {
	switch {
	case cfg.Interface == "":
		return nil, errors.New("packet: Config.Interface is empty: want the name of an interface")
	case cfg.RingSize == 0:
	case cfg.RingSize < 64 || cfg.RingSize > 32768 || bits.OnesCount(uint(cfg.RingSize)) != 1:
		return nil, fmt.Errorf("packet: Config.RingSize is %d: want a power of two from 64 to 32768", cfg.RingSize)
	}
	filter, err := bpf.OpenIngress(cfg.Interface)
	if err != nil {
		return nil, err
	}
	n, err := netdev.Open(cfg.Interface)
	if err != nil {
		filter.Close()
		return nil, fmt.Errorf("packet: %w", err)
	}
	d := &Device{info: n.Info(), netdev: n, filter: filter}
	if d.queue, err = openQueue(n.Link.Attrs(), filter.Tap(), cfg.RingSize); err != nil {
		d.Close()
		return nil, errSocket(cfg.Interface, err)
	}
	d.info.MaxFrame = maxFrame
	d.info.Queues = 1
	d.info.RxRing, _ = d.queue.buffers()
	d.info.Mode = "packet socket"
	d.info.Capabilities = packetsocket.Capabilities(n.Link)
	d.info.Capabilities.RxChecksum = true
	return d, nil
}

// errSocket explains why a socket could not be opened.
func errSocket(name string, err error) error {
	e := &link.InterfaceError{Interface: name, Problem: "cannot open a packet socket", Remedy: "use Linux 6.6 or newer", Err: err}
	switch {
	case errors.Is(err, syscall.EPERM):
		e.Problem = "opening a packet socket needs CAP_NET_RAW"
		e.Remedy = bpf.Capabilities
	case errors.Is(err, syscall.EAFNOSUPPORT):
		e.Problem = "the kernel has no packet sockets"
		e.Remedy = "use one built with CONFIG_PACKET=y"
	}
	return e
}

// Info implements link.Device. MaxFrame is that of joined frames.
func (d *Device) Info() link.Info { return d.info }

// Queue implements link.Device.
func (d *Device) Queue(int) link.Queue { return d.queue }

// Sharing implements link.Sharer. The filter is a link.FlowFilter.
func (d *Device) Sharing() (link.Sharing, bool) {
	return link.Sharing{Filter: d.filter, Interface: d.info.Name}, true
}

// String describes how the interface is used: "eth0 (ixgbe): packet socket".
func (d *Device) String() string {
	return fmt.Sprintf("%s (%s): %s", d.info.Name, d.info.Driver, d.info.Mode)
}

// LinkUp implements link.Device.
func (d *Device) LinkUp() bool { return d.netdev.Up() }

// Stats implements link.Device. Packets and bytes are those of the queue; misses
// and errors are those of the whole interface, the kernel's included.
func (d *Device) Stats() link.DeviceStats { return d.netdev.Stats(d.count) }

func (d *Device) count() (st link.DeviceStats) {
	if d.queue == nil {
		return st
	}
	q := d.queue.Stats()
	st = link.DeviceStats{
		RxPackets: q.RxFrames, RxBytes: q.RxBytes, TxPackets: q.TxFrames, TxBytes: q.TxBytes,
		RxNoBuffer: q.RxNoBuffer,
	}
	st.BuffersTotal, st.BuffersInUse = d.queue.buffers()
	return st
}

// Close implements link.Device. The kernel gets every frame again.
func (d *Device) Close() error { return d.netdev.Close(d.count, d.free) }

func (d *Device) free() error {
	err := d.filter.Close()
	if d.queue != nil {
		err = errors.Join(err, d.queue.Close())
	}
	return err
}
