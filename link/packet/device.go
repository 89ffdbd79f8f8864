package packet

import (
	"errors"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config describes a device. Only Interface has to be set.
type Config struct {
	// Interface is the name of an Ethernet interface in the network namespace of
	// the calling thread.
	Interface string
	// RingSize is the number of frames in the receive ring, a power of two from 64
	// to 32768. Default: 2048.
	RingSize int
}

// A Device is an interface shared with the kernel, and with other devices of this
// kind. It has one queue.
type Device struct {
	info   link.Info
	index  int // of the interface
	filter *xdp.Filter
	queue  *Queue
	// kernel asks about the interface in the namespace that Open was called in.
	kernel *netlink.Handle

	// mu guards the following fields.
	mu     sync.Mutex
	closed bool
	// before are the interface's counters when the device was opened, final those
	// of the device when it was closed.
	before netlink.LinkStatistics
	final  link.DeviceStats
}

var _ link.Device = (*Device)(nil)

const (
	headerLen = 14 // of Ethernet, without a VLAN tag
	// maxFrame is the greatest frame that the kernel joins or cuts.
	maxFrame = headerLen + 65535
)

// Open opens an interface: it attaches a filter that passes everything, and opens
// the sockets. Nothing leaves the kernel before ports are claimed with
// Device.Filter. Errors are those of Config, or of type *xdp.Error.
func Open(cfg Config) (_ *Device, err error) {
	if cfg.RingSize == 0 {
		cfg.RingSize = 2048
	}
	switch {
	case cfg.Interface == "":
		return nil, errors.New("packet: Config.Interface is empty: want the name of an interface")
	case cfg.RingSize < 64 || cfg.RingSize > 32768 || bits.OnesCount(uint(cfg.RingSize)) != 1:
		return nil, fmt.Errorf("packet: Config.RingSize is %d: want a power of two from 64 to 32768", cfg.RingSize)
	}
	d := &Device{}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.filter, err = xdp.OpenIngress(cfg.Interface); err != nil {
		return nil, err
	}
	if d.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("packet: open netlink: %w", err)
	}
	l, err := d.kernel.LinkByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("packet: %w", err)
	}
	attrs := l.Attrs()
	if len(attrs.HardwareAddr) != 6 {
		return nil, &xdp.Error{Interface: attrs.Name, Problem: "not an Ethernet interface",
			Remedy: "name one that has a MAC address of 6 bytes", Err: errors.ErrUnsupported}
	}
	d.index = attrs.Index
	if attrs.Statistics != nil {
		d.before = *attrs.Statistics
	}
	if d.queue, err = openQueue(attrs, d.filter.Tap(), cfg.RingSize); err != nil {
		return nil, errSocket(attrs.Name, err)
	}
	d.info = link.Info{
		Name:         attrs.Name,
		Driver:       driver(l),
		HardwareAddr: attrs.HardwareAddr,
		MTU:          attrs.MTU,
		MaxFrame:     maxFrame,
		Queues:       1,
		NUMANode:     -1,
		Capabilities: link.Capabilities{RxChecksum: true, TxTCPChecksum: true, TSO: maxFrame},
	}
	return d, nil
}

// errSocket explains why a socket could not be opened.
func errSocket(name string, err error) error {
	e := &xdp.Error{Interface: name, Problem: "cannot open a packet socket", Remedy: "use Linux 6.6 or newer", Err: err}
	switch {
	case errors.Is(err, syscall.EPERM):
		e.Problem = "opening a packet socket needs CAP_NET_RAW"
		e.Remedy = xdp.Capabilities
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

// Filter returns the filter of the device.
func (d *Device) Filter() *xdp.Filter { return d.filter }

// String describes how the interface is used: "eth0 (ixgbe): packet socket".
func (d *Device) String() string {
	return fmt.Sprintf("%s (%s): packet socket", d.info.Name, d.info.Driver)
}

// LinkUp implements link.Device.
func (d *Device) LinkUp() bool {
	l, err := d.kernel.LinkByIndex(d.index)
	return err == nil && l.Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// Stats implements link.Device. Packets and bytes are those of the queue; misses
// and errors are those of the whole interface, the kernel's included.
func (d *Device) Stats() link.DeviceStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats()
}

func (d *Device) stats() link.DeviceStats {
	if d.closed || d.queue == nil {
		return d.final
	}
	q := d.queue.Stats()
	st := link.DeviceStats{
		RxPackets: q.RxFrames, RxBytes: q.RxBytes, TxPackets: q.TxFrames, TxBytes: q.TxBytes,
		RxNoBuffer: q.RxNoBuffer,
	}
	st.BuffersTotal, st.BuffersInUse = d.queue.buffers()
	if l, err := d.kernel.LinkByIndex(d.index); err == nil && l.Attrs().Statistics != nil {
		now := l.Attrs().Statistics
		st.RxMissed = now.RxMissedErrors - d.before.RxMissedErrors
		st.RxErrors = now.RxErrors - d.before.RxErrors
		st.TxErrors = now.TxErrors - d.before.TxErrors
	}
	return st
}

// Close implements link.Device. The kernel gets every frame again.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.final = d.stats()
	d.final.BuffersInUse, d.final.BuffersTotal = 0, 0
	d.closed = true
	var err error
	if d.filter != nil {
		err = d.filter.Close()
	}
	if d.queue != nil {
		err = errors.Join(err, d.queue.Close())
	}
	if d.kernel != nil {
		d.kernel.Close()
	}
	return err
}

// driver returns the name of the interface's driver.
func driver(l netlink.Link) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return l.Type()
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, l.Attrs().Name)
	if err != nil {
		return l.Type()
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// errGone is what a queue answers when its interface was removed.
func errGone(name string) error {
	return &xdp.Error{Interface: name, Problem: "the interface is gone", Remedy: "open it again when it is back",
		Err: &net.OpError{Op: "read", Net: "packet", Err: syscall.ENODEV}}
}
