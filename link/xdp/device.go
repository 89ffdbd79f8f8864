package xdp

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/gotpa/tpa/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Device is an interface shared with the kernel.
type Device struct {
	info   link.Info
	index  int // of the interface
	filter *Filter
	// notNative is why the filter is attached in generic mode although native mode
	// was tried.
	notNative error
	zeroCopy  bool
	queues    []*Queue
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

// Open opens an interface: it attaches a filter that passes everything, and opens
// a socket for each receive queue. Nothing leaves the kernel before ports are
// claimed with Device.Filter. Errors are those of Config, or of type *Error.
func Open(cfg Config) (_ *Device, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dev := &Device{}
	defer func() {
		if err != nil {
			dev.Close()
		}
	}()
	if dev.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("xdp: open netlink: %w", err)
	}
	l, err := dev.kernel.LinkByName(cfg.Interface)
	if err != nil {
		return nil, errNoInterface(cfg.Interface, err)
	}
	attrs := l.Attrs()
	if len(attrs.HardwareAddr) != 6 {
		return nil, &Error{attrs.Name, "not an Ethernet interface", "name one that has a MAC address of 6 bytes", errors.ErrUnsupported}
	}
	dev.index = attrs.Index
	if attrs.Statistics != nil {
		dev.before = *attrs.Statistics
	}

	receive := receiveQueues(attrs)
	if cfg.Queues == 0 {
		cfg.Queues = receive
	}
	if cfg.Queues > receive {
		return nil, &Error{attrs.Name, fmt.Sprintf("%d queues were asked for and the interface has %d", cfg.Queues, receive),
			fmt.Sprintf("ethtool -L %s combined %d, or ask for fewer", attrs.Name, cfg.Queues), unix.EINVAL}
	}
	if receive > maxQueues {
		return nil, &Error{attrs.Name, fmt.Sprintf("the interface has %d receive queues", receive),
			fmt.Sprintf("ethtool -L %s combined %d", attrs.Name, maxQueues), unix.E2BIG}
	}

	// The filter comes first: some drivers open sockets only when they run XDP.
	if dev.filter, dev.notNative, err = openFilter(attrs.Index, cfg.Attach); err != nil {
		return nil, errFilter(l, cfg.Attach, err)
	}
	chunk := chunkSize(attrs.MTU)
	for i := range cfg.Queues {
		q, err := dev.openQueue(cfg, l, i, receive, chunk)
		if err != nil {
			return nil, err
		}
		dev.queues = append(dev.queues, q)
	}
	dev.zeroCopy = dev.queues[0].zeroCopy

	maxFrame := dev.queues[0].memory.maxFrame()
	dev.info = link.Info{
		Name:         attrs.Name,
		Driver:       driver(l),
		HardwareAddr: attrs.HardwareAddr,
		MTU:          min(attrs.MTU, maxFrame-headerLen),
		MaxFrame:     maxFrame,
		Queues:       cfg.Queues,
		NUMANode:     numaNode(attrs.Name),
	}
	return dev, nil
}

// headerLen is the length of an Ethernet header without a VLAN tag, in bytes.
const headerLen = 14

// chunkSize returns the size of chunks for frames of an MTU. The kernel has two
// sizes to choose from where pages have 4 KB. Frames of a greater MTU do not fit
// the larger one either: Info.MTU is then smaller than the interface's.
func chunkSize(mtu int) int {
	if mtu+headerLen <= 2048-unix.XDP_PACKET_HEADROOM {
		return 2048
	}
	return 4096
}

// openQueue opens link queue i, which serves the receive queues i, i+cfg.Queues,
// i+2*cfg.Queues and so on.
func (d *Device) openQueue(cfg Config, l netlink.Link, i, receive, chunk int) (_ *Queue, err error) {
	attrs := l.Attrs()
	count := (receive - i + cfg.Queues - 1) / cfg.Queues
	q := &Queue{name: attrs.Name, busyPoll: cfg.BusyPoll > 0, veth: l.Type() == "veth"}
	defer func() {
		if err != nil {
			q.abandon()
		}
	}()
	if q.memory, err = newUmem((1+count)*cfg.RingSize, chunk); err != nil {
		return nil, errSocket(attrs.Name, i, err)
	}
	for n := range cfg.RingSize {
		q.free = append(q.free, uint64(n*chunk))
	}
	q.txFree.Store(int32(len(q.free)))
	flags := uint16(unix.XDP_USE_NEED_WAKEUP)
	if cfg.Copy || d.filter.Attach() == AttachGeneric {
		flags |= unix.XDP_COPY
	}
	var first *socket
	for k := range count {
		queue := i + k*cfg.Queues
		s, err := openSocket(cfg, attrs.Index, queue, q.memory, (1+k)*cfg.RingSize, first, flags)
		if err != nil {
			return nil, errSocket(attrs.Name, queue, err)
		}
		if k == 0 {
			first = s
		}
		q.sockets = append(q.sockets, s)
		if err := d.filter.setSocket(queue, s.fd); err != nil {
			return nil, errSocket(attrs.Name, queue, err)
		}
	}
	q.zeroCopy = first.zeroCopy()
	if q.sleeper, err = newSleeper(q.sockets); err != nil {
		return nil, errSocket(attrs.Name, i, err)
	}
	return q, nil
}

// Info implements link.Device. MaxFrame is what the chunks hold: an MTU that
// grows while the device is open can be used up to MaxFrame-14.
func (d *Device) Info() link.Info { return d.info }

// Queue implements link.Device.
func (d *Device) Queue(i int) link.Queue { return d.queues[i] }

// Filter returns the filter of the device.
func (d *Device) Filter() *Filter { return d.filter }

// NotNative returns why the filter is attached in generic mode although native
// mode was tried, else nil.
func (d *Device) NotNative() error { return d.notNative }

// ZeroCopy tells whether the interface itself reads and writes the chunks.
func (d *Device) ZeroCopy() bool { return d.zeroCopy }

// String describes how the interface is used: "eth0 (ixgbe): XDP native,
// zero-copy".
func (d *Device) String() string {
	copying := "copy"
	if d.zeroCopy {
		copying = "zero-copy"
	}
	return fmt.Sprintf("%s (%s): XDP %v, %s", d.info.Name, d.info.Driver, d.filter.Attach(), copying)
}

// LinkUp implements link.Device.
func (d *Device) LinkUp() bool {
	l, err := d.kernel.LinkByIndex(d.index)
	return err == nil && l.Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// Stats implements link.Device. Packets and bytes are those of the queues; misses
// and errors are those of the whole interface, the kernel's included.
func (d *Device) Stats() link.DeviceStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats()
}

func (d *Device) stats() link.DeviceStats {
	if d.closed {
		return d.final
	}
	var st link.DeviceStats
	for _, q := range d.queues {
		s := q.Stats()
		st.RxPackets += s.RxFrames
		st.RxBytes += s.RxBytes
		st.TxPackets += s.TxFrames
		st.TxBytes += s.TxBytes
		st.RxNoBuffer += s.RxNoBuffer
		total, inUse := q.chunks()
		st.BuffersTotal += total
		st.BuffersInUse += inUse
	}
	st.LinkSpeed = linkSpeed(d.info.Name)
	if d.kernel == nil {
		return st
	}
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
	// The filter goes first: nothing is redirected to a socket that is gone.
	if d.filter != nil {
		err = d.filter.Close()
	}
	for _, q := range d.queues {
		err = errors.Join(err, q.Close())
	}
	if d.kernel != nil {
		d.kernel.Close()
	}
	return err
}

// maxQueues is the size of the filter's map of sockets.
const maxQueues = 256

// receiveQueues returns the number of receive queues in use.
func receiveQueues(attrs *netlink.LinkAttrs) int {
	if c, err := getChannels(attrs.Name); err == nil && c.rxCount+c.combinedCount > 0 {
		return int(c.rxCount + c.combinedCount)
	}
	return max(1, attrs.NumRxQueues)
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

// linkSpeed returns the speed in bits per second, 0 when the kernel does not know
// it: virtual interfaces have none.
func linkSpeed(name string) uint64 {
	b, err := os.ReadFile("/sys/class/net/" + name + "/speed") // in Mbit/s
	if err != nil {
		return 0
	}
	speed, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || speed < 0 {
		return 0
	}
	return uint64(speed) * 1e6
}

func numaNode(name string) int {
	b, err := os.ReadFile("/sys/class/net/" + name + "/device/numa_node")
	if err != nil {
		return -1
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return node
}
