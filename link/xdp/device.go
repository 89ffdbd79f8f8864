package xdp

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/netdevgenl"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/netdev"
	"github.com/gotpa/tpa/link/internal/packetsocket"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Device is an interface shared with the kernel.
type Device struct {
	info   link.Info
	netdev *netdev.Interface
	filter *bpf.Filter
	// notNative is why the filter is attached in generic mode although native mode
	// was tried.
	notNative error
	// interrupts are deferred, nil where they are not. notDeferred is what of
	// Config.BusyPoll could not be done.
	interrupts  *interrupts
	notDeferred error
	zeroCopy    bool
	queues      []*Queue
}

var (
	_ link.Device = (*Device)(nil)
	_ link.Sharer = (*Device)(nil)
)

// Open opens an interface: it attaches a filter that passes everything, and opens
// a socket for each receive queue. Nothing leaves the kernel before ports are
// claimed with the filter of Device.Sharing. Errors are those of Config, or of
// type *link.InterfaceError.
func Open(cfg Config) (_ *Device, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dev := &Device{}
	if dev.netdev, err = netdev.Open(cfg.Interface); err != nil {
		return nil, bpf.NoInterface(cfg.Interface, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Unpin())
			dev.Close()
		}
	}()
	l := dev.netdev.Link
	attrs := l.Attrs()

	cleanInterface(attrs.Index)
	facts := ask(l)
	plan := cfg.plan(facts)
	receive := plan.Queues
	if cfg.Queues == 0 {
		cfg.Queues = receive
	}
	if cfg.Queues > receive {
		return nil, &link.InterfaceError{
			Interface: attrs.Name, Problem: fmt.Sprintf("%d queues were asked for and the interface has %d", cfg.Queues, receive),
			Remedy: fmt.Sprintf("ethtool -L %s combined %d, or ask for fewer", attrs.Name, cfg.Queues), Err: unix.EINVAL,
		}
	}
	if receive > bpf.MaxQueues {
		return nil, &link.InterfaceError{
			Interface: attrs.Name, Problem: fmt.Sprintf("the interface has %d receive queues", receive),
			Remedy: fmt.Sprintf("ethtool -L %s combined %d", attrs.Name, bpf.MaxQueues), Err: unix.E2BIG,
		}
	}

	if len(facts.lowerGRO) > 0 && facts.before(6, 6) && cfg.Attach != AttachNative && cfg.Place == nil {
		return nil, errLowerGRO(attrs.Name, facts)
	}
	// The filter comes first: some drivers open sockets only when they run XDP.
	options := bpf.Options{Mode: bpf.Mode(cfg.Attach), Pinned: cfg.Pin, Fragments: plan.Fragments && plan.Attach == AttachNative}
	if cfg.Place != nil {
		dev.filter, err = bpf.Replace(l, cfg.Place, options)
	} else {
		dev.filter, dev.notNative, err = bpf.Open(l, options)
	}
	if err != nil {
		return nil, err
	}
	if dev.filter.Mode() == bpf.Generic && facts.virtio.joins() {
		return nil, errJoined(attrs.Name, dev.notNative)
	}
	// virtio_net takes more queues into use with XDP, one for each processor, and
	// receives on them, too.
	if receive, err = moreQueues(cfg, attrs, receive); err != nil {
		return nil, errSocket(attrs.Name, receive, err)
	}
	if facts.harm() != "" || facts.device != nil && !facts.device.Features.Has(netdevgenl.ZeroCopy) {
		cfg.Copy = true // xp_assign_dev would say so, once the memory is there
	} else if drivers[plan.Driver].addsQueues && receive > plan.Queues {
		cfg.Copy, plan.Copies = true, cmp.Or(plan.Copies, staleQueues)
	}
	if dev.filter.Mode() == bpf.Generic {
		plan.Fragments = plan.generic(facts).Fragments
	}
	dev.info = dev.netdev.Info()
	dev.info.Queues = cfg.Queues
	zeroCopy := 0
	for i := range cfg.Queues {
		q, err := dev.openQueue(cfg, plan, i, receive)
		if err != nil {
			return nil, err
		}
		dev.queues = append(dev.queues, q)
		dev.info.QueueModes = append(dev.info.QueueModes, q.mode())
		if q.zeroCopy {
			zeroCopy++
		}
		if most := q.maxFrame(); i == 0 || most < dev.info.MaxFrame {
			dev.info.MaxFrame = most
		}
	}
	if cfg.BusyPoll > 0 {
		var notPolled error
		for _, q := range dev.queues {
			notPolled = cmp.Or(notPolled, q.notPolled)
		}
		if dev.notDeferred = notPolled; notPolled == nil {
			dev.interrupts, dev.notDeferred = deferInterrupts(attrs)
			dev.notDeferred = errors.Join(dev.notDeferred, dev.queues[0].sleepsUnpolled)
		}
	}
	dev.zeroCopy = zeroCopy == cfg.Queues
	dev.info.MTU = min(dev.info.MTU, dev.info.MaxFrame-headerLen)
	dev.info.RxRing = cfg.RingSize
	copying := "copy"
	switch {
	case dev.zeroCopy:
		copying = "zero-copy"
	case zeroCopy > 0:
		copying = fmt.Sprintf("zero-copy on %d of %d queues", zeroCopy, cfg.Queues)
	}
	dev.info.Capabilities = packetsocket.Capabilities(l)
	for _, q := range dev.queues {
		if q.out == nil {
			dev.info.Capabilities.TSO = 0
			dev.info.Capabilities.TxTCPChecksum = dev.info.Capabilities.TxTCPChecksum && q.memory.metadata
		}
	}
	dev.info.Mode = fmt.Sprintf("XDP %v, %s", dev.filter.Mode(), copying)
	return dev, nil
}

const headerLen = link.EthernetHeaderLen

// headroom is what the kernel keeps free in front of an arriving frame, in bytes.
const headroom = unix.XDP_PACKET_HEADROOM

// The two sizes of chunks where pages have 4 KB.
const (
	halfPage = 2048
	pageSize = 4096
)

// chunkSize returns the size of chunks for frames of an MTU. Frames of a greater
// MTU than the larger size holds do not fit: Info.MTU is then smaller than the
// interface's.
func (d driver) chunkSize(mtu int) int {
	if !d.pageChunks && mtu+headerLen <= halfPage-headroom {
		return halfPage
	}
	return pageSize
}

// A memoryMode is a way for a queue to get at the frames.
type memoryMode struct {
	chunk int // bytes
	copy  bool
}

// memoryModes returns the ways to try for frames of an MTU, best first. A driver
// that does not say so may want chunks of a page, too.
func (d driver) memoryModes(mtu int, copy bool) (all []memoryMode) {
	if !copy {
		all = append(all, memoryMode{chunk: d.chunkSize(mtu)})
		if d.chunkSize(mtu) != pageSize {
			all = append(all, memoryMode{chunk: pageSize})
		}
	}
	return append(all, memoryMode{driver{}.chunkSize(mtu), true})
}

// openQueue opens link queue i, in the first mode that the driver takes.
func (d *Device) openQueue(cfg Config, plan Plan, i, receive int) (q *Queue, err error) {
	l := d.netdev.Link
	copies := plan.Copies
	for _, m := range drivers[plan.Driver].memoryModes(l.Attrs().MTU, cfg.Copy || plan.Fragments || d.filter.Mode() == bpf.Generic) {
		if q, err = d.openQueueAs(m, cfg, plan, i, receive); err == nil {
			q.copies = copies
			return q, nil
		}
		if m.copy || !refused(err) {
			return nil, err
		}
		// The plan may know the reason, the last refusal is one.
		copies = cmp.Or(plan.Copies, fmt.Sprintf("the driver refuses zero-copy mode with chunks of %d bytes: %v", m.chunk, errors.Unwrap(err)))
		if errors.Is(err, unix.EOPNOTSUPP) {
			copies = cmp.Or(plan.Copies, "the driver has no zero-copy mode")
		}
	}
	return nil, err
}

// refused tells whether opening a queue failed for what the driver does not do, so
// that another mode may work.
func refused(err error) bool {
	for _, no := range []error{unix.EPERM, unix.EBUSY, unix.ENODEV, unix.EAFNOSUPPORT, unix.ENOBUFS, unix.EMFILE} {
		if errors.Is(err, no) {
			return false
		}
	}
	return true
}

// openQueueAs opens link queue i in one mode. It serves the receive queues i,
// i+cfg.Queues, i+2*cfg.Queues and so on.
func (d *Device) openQueueAs(m memoryMode, cfg Config, plan Plan, i, receive int) (_ *Queue, err error) {
	attrs := d.netdev.Link.Attrs()
	count := (receive - i + cfg.Queues - 1) / cfg.Queues
	q := &Queue{name: attrs.Name, zeroCopy: !m.copy}
	defer func() {
		if err != nil {
			q.abandon()
		}
	}()
	if q.memory, err = newUmem((1+count)*cfg.RingSize, m.chunk); err != nil {
		return nil, errSocket(attrs.Name, i, err)
	}
	q.memory.metadata = !m.copy && plan.TxChecksum || cfg.softwareChecksum
	q.memory.software = cfg.softwareChecksum
	for n := range cfg.RingSize {
		q.free = append(q.free, uint64(n*m.chunk))
	}
	q.txFree.Store(int32(len(q.free)))
	flags := uint16(unix.XDP_USE_NEED_WAKEUP | unix.XDP_ZEROCOPY)
	if m.copy {
		flags = unix.XDP_USE_NEED_WAKEUP | unix.XDP_COPY
	}
	if q.fragments = plan.Fragments; q.fragments {
		flags |= unix.XDP_USE_SG
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
	}
	if m.copy && !cfg.sendByRing {
		if q.out, err = packetsocket.Open(attrs.Index, bpf.Gone(attrs.Name, "xdp")); err != nil {
			return nil, errSocket(attrs.Name, i, err)
		}
	}
	if q.sleeper, err = newSleeper(q.sockets); err != nil {
		return nil, errSocket(attrs.Name, i, err)
	}
	if cfg.BusyPoll > 0 {
		q.pollBusily(cfg, d.filter.Mode())
	}
	// Frames come from here on.
	for _, s := range q.sockets {
		if err := d.filter.SetSocket(s.queue, s.fd); err != nil {
			return nil, errSocket(attrs.Name, s.queue, err)
		}
	}
	return q, nil
}

// Info implements link.Device. MaxFrame is what the chunks hold: an MTU that
// grows while the device is open can be used up to MaxFrame-14.
func (d *Device) Info() link.Info { return d.info }

// Queue implements link.Device.
func (d *Device) Queue(i int) link.Queue { return d.queues[i] }

// Sharing implements link.Sharer. The filter is a link.FlowFilter.
func (d *Device) Sharing() (link.Sharing, bool) {
	return link.Sharing{Filter: d.filter, Interface: d.info.Name}, true
}

// StepAside leaves the interface's XDP to another process, with all that is claimed here.
// open is to open a packet socket with tap as its socket filter (packet.OpenQueue), which
// gets our frames from then on. The queues get no more, and can be closed when what is in
// them has been received. The filter moves with the frames. place is what the other
// process needs, for Config.Place; while it is open, XDP is in use. It needs Linux 6.6; on
// error nothing has changed.
func (d *Device) StepAside(open func(tap int) error) (place *os.File, err error) {
	return d.filter.StepAside(open)
}

// NotNative returns why the filter is attached in generic mode although native
// mode was tried, else nil.
func (d *Device) NotNative() error { return d.notNative }

// Unpin undoes Config.Pin: the filter goes with the device or its process, after all.
func (d *Device) Unpin() error {
	if d.filter == nil {
		return nil
	}
	return d.filter.Unpin()
}

// NotDeferred returns why Config.BusyPoll could not defer interrupts, or the kernel not
// poll the device before a queue sleeps, else nil.
func (d *Device) NotDeferred() error { return d.notDeferred }

// ZeroCopy tells whether the interface itself reads and writes the chunks, of all
// queues.
func (d *Device) ZeroCopy() bool { return d.zeroCopy }

// String describes how the interface is used: "eth0 (ixgbe): XDP native,
// zero-copy".
func (d *Device) String() string {
	return fmt.Sprintf("%s (%s): %s", d.info.Name, d.info.Driver, d.info.Mode)
}

// LinkUp implements link.Device.
func (d *Device) LinkUp() bool { return d.netdev.Up() }

// Stats implements link.Device. Packets and bytes are those of the queues; misses
// and errors are those of the whole interface, the kernel's included.
func (d *Device) Stats() link.DeviceStats { return d.netdev.Stats(d.count) }

func (d *Device) count() (st link.DeviceStats) {
	for _, q := range d.queues {
		st.AddQueue(q.Stats())
		total, inUse := q.chunks()
		st.BuffersTotal += total
		st.BuffersInUse += inUse
	}
	return st
}

// Close implements link.Device. The kernel gets every frame again.
func (d *Device) Close() error { return d.netdev.Close(d.count, d.free) }

// free closes the filter first: nothing is redirected to a socket that is gone.
func (d *Device) free() (err error) {
	if d.interrupts != nil {
		err = d.interrupts.restore()
	}
	if d.filter != nil {
		err = errors.Join(err, d.filter.Close())
	}
	for _, q := range d.queues {
		err = errors.Join(err, q.Close())
	}
	return err
}

// moreQueues returns the number of receive queues in use, n at least. Nothing in
// the kernel tells it for every driver and namespace (the channel count does not
// rise with the queues that XDP takes, and sysfs shows the namespace that mounted
// it), but binding a socket to a queue that is not in use fails with EINVAL
// (xp_assign_dev). Drivers that have no more queues are not asked.
func moreQueues(cfg Config, attrs *netlink.LinkAttrs, n int) (int, error) {
	cfg.RingSize, cfg.BusyPoll = 64, 0
	for limit := min(attrs.NumRxQueues, bpf.MaxQueues); n < limit; n++ {
		memory, err := newUmem(cfg.RingSize, halfPage)
		if err != nil {
			return n, err
		}
		s, err := openSocket(cfg, attrs.Index, n, memory, 0, nil, unix.XDP_COPY)
		if err == nil {
			s.close()
		}
		memory.free()
		if errors.Is(err, unix.EINVAL) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
