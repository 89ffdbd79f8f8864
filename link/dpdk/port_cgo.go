//go:build dpdk && cgo && linux

package dpdk

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/link"
)

// device is a started port.
type device struct {
	id     C.uint16_t
	info   link.Info
	queues []*queue
	pools  []pool
	lcores []C.int

	mu     sync.Mutex // guards what follows, and the calls that control the port
	closed bool
	last   link.DeviceStats // when it was closed
}

const (
	headroom  = 128 // RTE_PKTMBUF_HEADROOM
	vlanTag   = 4
	ethernet  = 14
	cacheSize = 256 // mbufs in a mempool's cache for each side of a queue
	// bigBuffers is how many frames to be cut by the device a queue can have
	// under way: 128 of 64 KB fill a 100 Gbit/s link for 0.7 ms.
	bigBuffers = 128
)

// buffersPerQueue is how many mbufs a queue needs so that full rings never starve
// the other side: rings, staging area, stock, the burst that is being worked on,
// and what hides in the two caches, which hold up to 1.5 times their size.
func buffersPerQueue(rxRing, txRing, staging int) int {
	return rxRing + txRing + staging + 3*link.MaxBurst + 2*cacheSize*3/2
}

// needMB estimates the memory of a port before its device is known.
func needMB(c Config) int {
	ring := func(n int) int {
		if n == 0 {
			return 2048
		}
		return n
	}
	mtu := c.MTU
	if mtu == 0 {
		mtu = 1500
	}
	const mbuf = 128 + 64 + headroom // struct, header of the pool, headroom
	const pool = 2 << 20             // caches for 128 lcores, the ring
	bytes := c.Queues * (buffersPerQueue(ring(c.RxRing), ring(c.TxRing), c.Staging)*(mbuf+mtu+ethernet+vlanTag+64) + pool)
	return max(64, 2*bytes>>20)
}

// open opens a port whose configuration was checked.
func open(e EAL, c Config) (*Port, error) {
	environment.mu.Lock()
	defer environment.mu.Unlock()

	if strings.Contains(c.Device, "exec(") {
		return nil, fmt.Errorf("%s: a device that runs commands (exec) is refused", c.name())
	}
	if err := startEAL(e, needMB(c)); err != nil {
		return nil, err
	}
	p := new(Port)
	if err := p.open(c); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	return p, nil
}

func (d *device) open(c Config) (err error) {
	env := &environment
	env.log.begin()

	args, freeArgs := cString(c.Device)
	defer freeArgs()
	name, freeName := cString(c.name())
	defer freeName()
	if err := errno(C.tpa_probe(args, name, &d.id)); err != nil {
		return probeError(err, env.log.reason())
	}
	defer func() {
		if err != nil {
			d.release()
		}
	}()

	var info C.struct_tpa_info
	if err := errno(C.tpa_get_info(d.id, &info)); err != nil {
		return fmt.Errorf("cannot be asked for its properties: %w", err)
	}
	setup, err := negotiate(&info, &c)
	if err != nil {
		return err
	}
	if err := errno(C.tpa_configure(d.id, &setup)); err != nil {
		return fmt.Errorf("refuses %d queues with MTU %d: %w%s", c.Queues, setup.mtu, err, env.log.reason())
	}
	mtu := int(setup.mtu)
	d.info = link.Info{
		Name:         c.name(),
		Driver:       C.GoString(&info.driver[0]),
		HardwareAddr: make(net.HardwareAddr, 6),
		MTU:          mtu,
		MaxFrame:     mtu + ethernet + vlanTag,
		Queues:       c.Queues,
		NUMANode:     int(info.numa),
		Capabilities: link.Capabilities{
			RxChecksum:     setup.offloads&C.TPA_RX_TCP_CHECKSUM != 0,
			TxIPv4Checksum: setup.offloads&C.TPA_TX_IPV4_CHECKSUM != 0,
			TxTCPChecksum:  setup.offloads&C.TPA_TX_TCP_CHECKSUM != 0,
		},
	}
	for i := range d.info.HardwareAddr {
		d.info.HardwareAddr[i] = byte(info.mac[i])
	}
	for i := range c.Queues {
		if err := d.addQueue(i, &info, &setup, &c); err != nil {
			return err
		}
	}
	if err := errno(C.tpa_start(d.id, &setup)); err != nil {
		return fmt.Errorf("does not start: %w%s", err, env.log.reason())
	}
	return nil
}

// addQueue makes the mempools and both sides of queue i.
func (d *device) addQueue(i int, info *C.struct_tpa_info, setup *C.struct_tpa_setup, c *Config) error {
	q := &queue{room: align(d.info.MaxFrame, 64)}
	buffers, err := newPool(fmt.Sprintf("tpa_p%d_q%d", d.id, i),
		buffersPerQueue(int(setup.rx_ring), int(setup.tx_ring), c.Staging), q.room, info.numa)
	if err != nil {
		return err
	}
	d.pools = append(d.pools, buffers)
	var big pool
	if setup.offloads&C.TPA_TX_TSO != 0 {
		q.bigRoom = 65535 - headroom
		big, err = newPool(fmt.Sprintf("tpa_p%d_q%d_tso", d.id, i), bigBuffers, q.bigRoom, info.numa)
		if err != nil {
			return err
		}
		d.pools = append(d.pools, big)
		d.info.TSO = q.bigRoom
	}
	if err := errno(C.tpa_setup_queue(d.id, C.uint16_t(i), setup, buffers.c)); err != nil {
		return fmt.Errorf("queue %d with rings of %d and %d cannot be set up: %w%s", i, setup.rx_ring, setup.tx_ring, err, environment.log.reason())
	}
	rxLcore, txLcore := takeLcore(), takeLcore()
	d.lcores = append(d.lcores, rxLcore, txLcore)
	q.rx = C.tpa_rx_new(d.id, C.uint16_t(i), rxLcore, C.uint32_t(d.info.MaxFrame), setup.offloads)
	q.tx = C.tpa_tx_new(d.id, C.uint16_t(i), txLcore, buffers.c, big.c, C.uint32_t(c.Staging), info.pads)
	if q.rx == nil || q.tx == nil {
		return syscall.ENOMEM
	}
	d.queues = append(d.queues, q)
	return nil
}

// negotiate chooses what to ask of a device, within its limits.
func negotiate(info *C.struct_tpa_info, c *Config) (C.struct_tpa_setup, error) {
	var errs []error
	if c.Queues > int(info.max_queues) {
		errs = append(errs, fmt.Errorf("Config.Queues is %d: the device has at most %d", c.Queues, info.max_queues))
	}
	ring := func(name string, want int, l *C.struct_tpa_ring_limits) C.uint16_t {
		low, high, step := max(int(l.min), 1), int(l.max), max(int(l.align), 1)
		if high == 0 {
			high = 65535
		}
		if want == 0 {
			if want = int(l.wish); want == 0 {
				want = 1024
			}
			want = min(max(align(want, step), low), high)
		}
		if want < low || want > high || want%step != 0 {
			errs = append(errs, fmt.Errorf("Config.%s is %d: the device takes %d to %d in steps of %d", name, want, low, high, step))
		}
		return C.uint16_t(want)
	}
	setup := C.struct_tpa_setup{
		queues:      C.uint16_t(c.Queues),
		rx_ring:     ring("RxRing", c.RxRing, &info.rx),
		tx_ring:     ring("TxRing", c.TxRing, &info.tx),
		mtu:         info.mtu,
		sets_mtu:    info.sets_mtu,
		promiscuous: C.bool(c.Promiscuous),
		offloads:    info.offloads,
	}
	if c.MTU != 0 {
		setup.mtu = C.uint16_t(c.MTU)
		if info.sets_mtu && (setup.mtu < info.min_mtu || setup.mtu > info.max_mtu) {
			errs = append(errs, fmt.Errorf("Config.MTU is %d: the device takes %d to %d", c.MTU, info.min_mtu, info.max_mtu))
		}
	}
	// One buffer holds a whole frame, so nothing arrives in pieces by intent.
	setup.offloads &^= C.TPA_RX_SCATTER
	if setup.offloads&C.TPA_TX_TCP_CHECKSUM == 0 {
		setup.offloads &^= C.TPA_TX_TSO
	}
	if setup.offloads&C.TPA_TX_TSO == 0 {
		setup.offloads &^= C.TPA_TX_MULTI_SEGS
	} else {
		// It wants one mempool per queue.
		setup.offloads &^= C.TPA_TX_FAST_FREE
	}
	return setup, errors.Join(errs...)
}

// probeError says what to do about a device that could not be attached.
func probeError(err error, reason string) error {
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("is open in this process already: %w", err)
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EFAULT):
		return fmt.Errorf("no such device: check the spelling and, for a PCI address, that the device is bound to vfio-pci (dpdk-devbind.py --status): %w%s", os.ErrNotExist, reason)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("no permission: run as root or give the program the capabilities that the driver needs: %w%s", err, reason)
	}
	return fmt.Errorf("cannot be attached: %w%s", err, reason)
}

func (d *device) Info() link.Info {
	info := d.info
	info.HardwareAddr = slices.Clone(info.HardwareAddr)
	return info
}

func (d *device) Queue(i int) link.Queue { return d.queues[i] }

func (d *device) LinkUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closed && bool(C.tpa_link_up(d.id))
}

func (d *device) Stats() link.DeviceStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.last
	}
	return d.stats()
}

func (d *device) stats() link.DeviceStats {
	var s C.struct_tpa_link_stats
	C.tpa_get_stats(d.id, &s)
	stats := link.DeviceStats{
		RxPackets: uint64(s.rx_packets), RxBytes: uint64(s.rx_bytes),
		TxPackets: uint64(s.tx_packets), TxBytes: uint64(s.tx_bytes),
		RxMissed: uint64(s.rx_missed), RxNoBuffer: uint64(s.rx_no_buffer),
		RxErrors: uint64(s.rx_errors), TxErrors: uint64(s.tx_errors),
	}
	for _, p := range d.pools {
		stats.BuffersInUse += p.inUse()
		stats.BuffersTotal += p.size()
	}
	return stats
}

func (d *device) RSS() (link.RSS, error)  { return link.RSS{}, ErrNotSupported }
func (d *device) SetRSS(r link.RSS) error { return ErrNotSupported }

func (d *device) Close() error {
	environment.mu.Lock()
	defer environment.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.last = d.stats()
	return d.release()
}

// release undoes open as far as it came. The caller holds environment.mu.
func (d *device) release() error {
	for _, q := range d.queues {
		q.Close()
	}
	var err error
	if d.info.Driver == "net_memif" {
		err = errno(C.tpa_memif_remove(d.id))
	} else {
		err = errno(C.tpa_remove(d.id))
	}
	for _, q := range d.queues {
		q.free()
	}
	if err != nil {
		err = fmt.Errorf("dpdk: %s: cannot be given back: %w", d.info.Name, err)
	}
	for _, p := range d.pools {
		// What is still in use has an owner that may yet write to it: better lose
		// the pool than free it.
		if n := p.inUse(); n > 0 {
			environment.log.logger.Error("dpdk: buffers lost on close", "device", d.info.Name, "buffers", n)
			err = errors.Join(err, fmt.Errorf("dpdk: %s: %d of %d buffers did not come back", d.info.Name, n, p.size()))
			continue
		}
		p.free()
	}
	d.pools = nil
	d.last.BuffersInUse, d.last.BuffersTotal = 0, 0
	putLcores(d.lcores...)
	d.lcores = nil
	return err
}

func align(n, step int) int { return (n + step - 1) / step * step }
