// Package netdev keeps what the kernel knows of a network interface for a device
// that shares it: facts, state and counters.
package netdev

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Interface is one that a device has open. Methods may be called from any
// goroutine.
type Interface struct {
	// Link is the interface as it was when the device opened it.
	Link netlink.Link
	// kernel asks in the namespace that Open was called in.
	kernel *netlink.Handle
	// Ethtool asks there, too.
	Ethtool *ethtool.Socket
	// before are the driver's own counters when it was opened.
	before map[string]uint64

	// mu guards the following fields.
	mu     sync.Mutex
	closed bool
	// counters reads the driver's own counters.
	counters *ethtool.Statistics
	// extended are those counters since it was opened, as they were at extendedAt.
	extended   map[string]uint64
	extendedAt time.Time
	// final are the device's counters when it was closed.
	final link.DeviceStats
}

// Open looks up an interface in the network namespace of the calling thread.
// Where there is none the error is a netlink.LinkNotFoundError.
func Open(name string) (*Interface, error) {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	l, err := kernel.LinkByName(name)
	if err != nil {
		kernel.Close()
		return nil, err
	}
	i := &Interface{Link: l, kernel: kernel}
	if i.Ethtool, err = ethtool.Open(); err != nil {
		kernel.Close()
		return nil, err
	}
	i.counters = i.Ethtool.Statistics(name)
	i.before, _ = i.counters.Read()
	return i, nil
}

// Info returns what is the same however a device uses the interface.
func (i *Interface) Info() link.Info {
	attrs := i.Link.Attrs()
	driver := i.Link.Type()
	if d, err := i.Ethtool.Driver(attrs.Name); err == nil {
		driver = d.Name
	}
	return link.Info{
		Name:         attrs.Name,
		Driver:       driver,
		HardwareAddr: attrs.HardwareAddr,
		MTU:          attrs.MTU,
		NUMANode:     numaNode(attrs.Name),
	}
}

// Up tells whether the interface has a carrier.
func (i *Interface) Up() bool {
	l, err := i.kernel.LinkByIndex(i.Link.Attrs().Index)
	return err == nil && l.Attrs().RawFlags&unix.IFF_RUNNING != 0
}

// Stats returns what count returns, completed by what the interface has missed,
// by its errors and by its speed. After Close it returns the last counters.
func (i *Interface) Stats(count func() link.DeviceStats) link.DeviceStats {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return i.final
	}
	return i.completeLocked(count())
}

// completeLocked counts from when the device was opened.
func (i *Interface) completeLocked(st link.DeviceStats) link.DeviceStats {
	before := i.Link.Attrs()
	st.LinkSpeed = speed(before.Name)
	l, err := i.kernel.LinkByIndex(before.Index)
	if err != nil || l.Attrs().Statistics == nil || before.Statistics == nil {
		return st
	}
	now := l.Attrs().Statistics
	st.RxMissed = now.RxMissedErrors - before.Statistics.RxMissedErrors
	st.RxErrors = now.RxErrors - before.Statistics.RxErrors
	st.TxErrors = now.TxErrors - before.Statistics.TxErrors
	st.Extended = i.extendedLocked()
	return st
}

// extendedEvery is how often a driver is asked for its own counters at most: that of
// mlx5 has thousands, and asks the card for some of them.
const extendedEvery = time.Second

// extendedLocked returns the driver's own counters since the device was opened. They are
// up to extendedEvery old, but of the open device's first call, and of Close's.
func (i *Interface) extendedLocked() map[string]uint64 {
	if i.extended != nil && !i.closed && time.Since(i.extendedAt) < extendedEvery {
		return i.extended
	}
	all, err := i.counters.Read()
	if err != nil {
		return nil
	}
	for name, v := range i.before {
		// A driver that was loaded anew, or a queue, starts over.
		all[name] -= min(v, all[name])
	}
	i.extended, i.extendedAt = all, time.Now()
	return all
}

// Close counts once more and then calls free, which closes the device's filter
// and queues. Calls after the first do nothing.
func (i *Interface) Close(count func() link.DeviceStats, free func() error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	i.final = i.completeLocked(count())
	i.final.BuffersInUse, i.final.BuffersTotal = 0, 0
	err := free()
	i.kernel.Close()
	i.Ethtool.Close()
	return err
}

// speed returns the speed in bits per second, 0 when the kernel does not know it:
// virtual interfaces have none.
func speed(name string) uint64 {
	v, err := attribute(name, "speed") // in Mbit/s
	if err != nil || v < 0 {
		return 0
	}
	return uint64(v) * 1e6
}

func numaNode(name string) int {
	v, err := attribute(name, "device/numa_node")
	if err != nil {
		return -1
	}
	return v
}

// attribute reads a number that sysfs has about an interface.
func attribute(name, file string) (int, error) {
	b, err := os.ReadFile("/sys/class/net/" + name + "/" + file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
