//go:build dpdk && cgo && linux

package dpdk

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gotpa/tpa/link"
)

// pciDevices is the kernel's directory of PCI devices.
const pciDevices = "/sys/bus/pci/devices"

// device is a started port.
type device struct {
	id     C.uint16_t
	info   link.Info
	queues []*queue
	pools  []pool
	lcores []C.int
	// kernel is the name of the kernel's interface for the device, if it has one.
	kernel   string
	isolated bool // from the start
	vlan     int  // 0: none
	// cleanup undoes after a crash what the driver did to the kernel's interface,
	// nil where the kernel does that alone.
	cleanup *cleanupHelper
	claim   *claim

	keySize   C.uint8_t // of RSS, 0: none
	tableSize C.uint16_t

	mu     sync.Mutex // guards what follows, and the calls that control the port
	closed bool
	last   link.DeviceStats // when it was closed
	rules  map[*FlowRule]flow
}

const (
	ethernet  = 14 // bytes of an Ethernet header
	vlanTag   = 4
	headroom  = 128              // RTE_PKTMBUF_HEADROOM
	maxRoom   = 65535 - headroom // an mbuf's length has 16 bits
	cacheSize = 256              // mbufs in a mempool's cache for each side of a queue
	// bigBuffers is how many frames to be cut by the device a queue can have
	// under way: 128 of 64 KB fill a 100 Gbit/s link for 0.7 ms.
	bigBuffers = 128
	// lesserRoom is the size of these frames where there have to be more.
	lesserRoom = 16384 - headroom
)

// Offloads, as the shim names them.
const (
	rxIPv4Checksum = C.TPA_RX_IPV4_CHECKSUM
	rxTCPChecksum  = C.TPA_RX_TCP_CHECKSUM
	rxScatter      = C.TPA_RX_SCATTER
	txIPv4Checksum = C.TPA_TX_IPV4_CHECKSUM
	txTCPChecksum  = C.TPA_TX_TCP_CHECKSUM
	txTSO          = C.TPA_TX_TSO
	txMultiSegs    = C.TPA_TX_MULTI_SEGS
	txFastFree     = C.TPA_TX_FAST_FREE
	rxVLANFilter   = C.TPA_RX_VLAN_FILTER
	noChecksum     = C.TPA_NO_CHECKSUM
)

// buffersPerQueue is how many mbufs a queue needs so that full rings never starve
// the other side: rings, staging area, stock, the burst that is being worked on,
// and what hides in the two caches, which hold up to 1.5 times their size.
func buffersPerQueue(rxRing, txRing, staging int) int {
	return rxRing + txRing + staging + 3*link.MaxBurst + 2*cacheSize*3/2
}

// bufferRoom is the data room of an mbuf that takes a whole frame. Devices that
// count it in kB round it down, and some want 2 kB.
func bufferRoom(maxFrame int) int {
	return min(max(2048, align(maxFrame, 1024)), maxRoom)
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
	buffers := buffersPerQueue(ring(c.RxRing), ring(c.TxRing), c.Staging) * (mbuf + bufferRoom(mtu+ethernet+vlanTag))
	if !c.isMemif() {
		buffers += pool + max(bigBuffers*(mbuf+maxRoom), (ring(c.TxRing)+link.MaxBurst)*(mbuf+lesserRoom))
	}
	return max(64, 3*c.Queues*(buffers+pool)/2>>20)
}

// open opens a port whose configuration was checked.
func open(e EAL, c Config) (*Port, error) {
	environment.mu.Lock()
	defer environment.mu.Unlock()

	one := c
	one.Queues = 1
	d := demand{mb: needMB(c), oneQueueMB: needMB(one), queues: c.Queues, physical: c.physical(pciDevices)}
	if err := startEAL(e, d); err != nil {
		return nil, err
	}
	p := new(Port)
	if err := c.prepareMemif(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	if err := p.open(c); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name(), err)
	}
	return p, nil
}

func (d *device) open(c Config) (err error) {
	env := &environment
	env.log.begin()
	d.info.Name = c.name()

	d.cleanup = c.cleanupHelper()
	if d.claim, err = c.claim(pciDevices); err != nil {
		return err
	}
	args, freeArgs := cString(c.Device)
	defer freeArgs()
	name, freeName := cString(c.name())
	defer freeName()
	if err := errno(C.tpa_probe(args, name, &d.id)); err != nil {
		d.claim.Close()
		return c.attachError(err, env.log.reason())
	}
	defer func() {
		if err != nil {
			d.releaseLocked()
		}
	}()

	var info C.struct_tpa_info
	if err := errno(C.tpa_get_info(d.id, &info)); err != nil {
		return fmt.Errorf("cannot be asked for its properties: %w", err)
	}
	d.info.Driver = C.GoString(&info.driver[0])
	env.log.begin() // being asked, drivers log errors that are none
	d.keySize, d.tableSize = info.key_size, info.reta_size
	if info.if_index != 0 {
		if i, err := net.InterfaceByIndex(int(info.if_index)); err == nil {
			d.kernel = i.Name
		}
	}
	d.isolated, d.vlan = c.Isolated, c.VLAN
	setup, err := negotiate(&info, &c)
	if err != nil {
		return err
	}
	if c.Isolated {
		if err := d.setIsolatedLocked(true); err != nil {
			return err
		}
	}
	if err := errno(C.tpa_configure(d.id, &setup)); err != nil {
		return attachError(fmt.Sprintf("refuses %d queues with MTU %d", c.Queues, setup.mtu), err, env.log.reason())
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
			RxChecksum:     setup.offloads&(rxTCPChecksum|noChecksum) != 0,
			TxIPv4Checksum: setup.offloads&txIPv4Checksum != 0,
			TxTCPChecksum:  setup.offloads&(txTCPChecksum|noChecksum) != 0,
			NoChecksum:     setup.offloads&noChecksum != 0,
		},
	}
	if c.VLAN != 0 {
		d.info.MaxFrame = mtu + ethernet // the tag is the device's
	}
	for i := range d.info.HardwareAddr {
		d.info.HardwareAddr[i] = byte(info.mac[i])
	}
	for i := range c.Queues {
		if err := d.addQueue(i, &info, &setup, &c); err != nil {
			return err
		}
	}
	err = errno(C.tpa_start(d.id, &setup))
	if c.isMemif() && !c.isMemifServer() {
		if err != nil || !d.connectMemif() {
			return c.startMemifError()
		}
	}
	if err != nil {
		return attachError("does not start", err, env.log.reason())
	}
	if d.cleanup != nil {
		if err := d.cleanup.start(); err != nil {
			env.log.logger.Warn("dpdk: what the driver does to the interface stays if this process is killed", "interface", d.cleanup.name, "err", err)
		}
	}
	if setup.offloads&txTSO != 0 {
		for i := range d.queues {
			if err := d.addBigBuffers(i, &setup); err != nil {
				return err
			}
		}
	}
	return nil
}

// addQueue makes the mempools and both sides of queue i.
func (d *device) addQueue(i int, info *C.struct_tpa_info, setup *C.struct_tpa_setup, c *Config) error {
	maxFrame := d.info.MTU + ethernet + vlanTag
	q := &queue{room: bufferRoom(maxFrame)}
	buffers, err := newPool(fmt.Sprintf("tpa_p%d_q%d", d.id, i),
		buffersPerQueue(int(setup.rx_ring), int(setup.tx_ring), c.Staging), q.room, info.numa)
	if err != nil {
		return err
	}
	d.pools = append(d.pools, buffers)
	if err := errno(C.tpa_setup_queue(d.id, C.uint16_t(i), setup, buffers.c)); err != nil {
		return attachError(fmt.Sprintf("queue %d with rings of %d and %d descriptors cannot be set up", i, setup.rx_ring, setup.tx_ring), err, environment.log.reason())
	}
	rxLcore, txLcore := takeLcore(), takeLcore()
	d.lcores = append(d.lcores, rxLcore, txLcore)
	q.rx = C.tpa_rx_new(d.id, C.uint16_t(i), rxLcore, C.uint32_t(maxFrame), setup.offloads, setup.vlan)
	q.tx = C.tpa_tx_new(d.id, C.uint16_t(i), txLcore, buffers.c, C.uint32_t(c.Staging), info.pads, setup.offloads, setup.vlan)
	if q.rx == nil || q.tx == nil {
		return syscall.ENOMEM
	}
	d.queues = append(d.queues, q)
	return nil
}

// addBigBuffers gives queue i what it needs to send frames that the device cuts.
func (d *device) addBigBuffers(i int, setup *C.struct_tpa_setup) error {
	q := d.queues[i]
	n, room := bigBuffers, maxRoom
	if errno(C.tpa_tx_reap(q.tx)) == syscall.ENOTSUP && !quirks[d.info.Driver].reaps {
		// What was sent comes back only when the ring has to make room. There must be
		// more buffers than that can be, or the last of them is waited for in vain.
		n, room = int(setup.tx_ring)+link.MaxBurst, lesserRoom
	}
	big, err := newPool(fmt.Sprintf("tpa_p%d_q%d_tso", d.id, i), n, room, C.int(d.info.NUMANode))
	if err != nil {
		return err
	}
	d.pools = append(d.pools, big)
	q.bigRoom, q.tx.big_pool = room, big.c
	d.info.TSO = room
	return nil
}

// negotiate chooses what to ask of a device, within its limits.
func negotiate(info *C.struct_tpa_info, c *Config) (C.struct_tpa_setup, error) {
	var errs []error
	quirk := quirks[C.GoString(&info.driver[0])]
	if quirk.oneQueue && c.Queues > 1 {
		errs = append(errs, fmt.Errorf("Config.Queues is %d: this driver lets flows change queues, use 1: %w", c.Queues, ErrNotSupported))
	}
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
			errs = append(errs, fmt.Errorf("%s is %d: the device takes %d to %d in steps of %d", name, want, low, high, step))
		}
		return C.uint16_t(want)
	}
	setup := C.struct_tpa_setup{
		queues:      C.uint16_t(c.Queues),
		rx_ring:     ring("Config.RxRing", c.RxRing, &info.rx),
		tx_ring:     ring("Config.TxRing", c.TxRing, &info.tx),
		mtu:         info.mtu,
		sets_mtu:    info.sets_mtu,
		promiscuous: C.bool(c.Promiscuous),
		offloads:    info.offloads,
		vlan:        C.uint16_t(c.VLAN),
	}
	if c.VLAN == 0 {
		setup.offloads &^= rxVLANFilter
	}
	if c.NoChecksum {
		setup.offloads |= noChecksum // the shim's: no driver is asked
	}
	if c.MTU != 0 {
		setup.mtu = C.uint16_t(c.MTU)
		if info.sets_mtu && (setup.mtu < info.min_mtu || setup.mtu > info.max_mtu) {
			errs = append(errs, fmt.Errorf("Config.MTU is %d: the device takes %d to %d", c.MTU, info.min_mtu, info.max_mtu))
		}
	}
	// One buffer holds a whole frame, so nothing arrives in pieces by intent.
	setup.offloads &^= rxScatter
	if setup.offloads&txTCPChecksum == 0 || quirk.noTSO {
		setup.offloads &^= txTSO
	}
	if setup.offloads&txTSO == 0 {
		setup.offloads &^= txMultiSegs
	} else {
		// It wants one mempool per queue.
		setup.offloads &^= txFastFree
	}
	return setup, errors.Join(errs...)
}

func (d *device) Info() link.Info {
	info := d.info
	info.HardwareAddr = slices.Clone(info.HardwareAddr)
	return info
}

func (d *device) Queue(i int) link.Queue { return d.queues[i] }

// connectMemif waits until a server has taken a client that started. One whose
// own port has not started yet refuses, and the driver does not try again.
func (d *device) connectMemif() bool {
	for range memifTries {
		for deadline := time.Now().Add(memifTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if C.tpa_link_up(d.id) {
				return true
			}
		}
		if C.tpa_memif_restart(d.id) != 0 {
			return false
		}
	}
	return bool(C.tpa_link_up(d.id))
}

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
	return d.statsLocked()
}

func (d *device) statsLocked() link.DeviceStats {
	var s C.struct_tpa_link_stats
	C.tpa_get_stats(d.id, &s)
	var sum link.QueueStats
	for _, q := range d.queues {
		sum.Add(q.Stats())
	}
	// Some drivers (memif) forget their counters with the link.
	stats := link.DeviceStats{
		RxPackets: max(uint64(s.rx_packets), sum.RxFrames), RxBytes: max(uint64(s.rx_bytes), sum.RxBytes),
		TxPackets: max(uint64(s.tx_packets), sum.TxFrames), TxBytes: max(uint64(s.tx_bytes), sum.TxBytes),
		RxMissed: uint64(s.rx_missed), RxNoBuffer: uint64(s.rx_no_buffer),
		RxErrors: uint64(s.rx_errors), TxErrors: uint64(s.tx_errors),
		LinkSpeed: uint64(C.tpa_link_speed(d.id)),
	}
	for _, p := range d.pools {
		stats.BuffersInUse += p.inUse()
		stats.BuffersTotal += p.size()
	}
	stats.Extended = d.extendedLocked()
	if d.vlan != 0 {
		if stats.Extended == nil {
			stats.Extended = make(map[string]uint64)
		}
		for _, q := range d.queues {
			stats.Extended["rx_other_vlan"] += load(&q.rx.n_other_vlan)
		}
	}
	return stats
}

// extendedLocked returns the driver's own counters.
func (d *device) extendedLocked() map[string]uint64 {
	n := C.tpa_get_xstats(d.id, nil, 0)
	if n <= 0 {
		return nil
	}
	list := make([]C.struct_tpa_xstat, n)
	n = min(n, C.tpa_get_xstats(d.id, &list[0], C.unsigned(n)))
	if n <= 0 {
		return nil
	}
	counters := make(map[string]uint64, n)
	for i := range list[:n] {
		counters[C.GoString(&list[i].name[0])] = uint64(list[i].value)
	}
	return counters
}

func (d *device) Close() error {
	environment.mu.Lock()
	defer environment.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.last = d.statsLocked()
	return d.releaseLocked()
}

// errorf makes an error of a port that is open.
func (d *device) errorf(format string, args ...any) error {
	return fmt.Errorf("dpdk: %s: %w", d.info.Name, fmt.Errorf(format, args...))
}

// releaseLocked undoes open as far as it came. The lock is environment.mu.
func (d *device) releaseLocked() error {
	for _, q := range d.queues {
		q.Close()
	}
	err := d.removeRulesLocked()
	var removed error
	if d.info.Driver == memif {
		removed = errno(C.tpa_memif_remove(d.id))
	} else {
		removed = errno(C.tpa_remove(d.id))
	}
	err = errors.Join(err, d.cleanup.finish(), d.claim.Close())
	for _, q := range d.queues {
		q.free()
	}
	if removed != nil {
		err = errors.Join(err, d.errorf("cannot be given back: %w", removed))
	}
	for _, p := range d.pools {
		// What is still in use has an owner that may yet write to it: better lose
		// the pool than free it.
		if n := p.inUse(); n > 0 && !quirks[d.info.Driver].keepsBuffers {
			environment.log.logger.Error("dpdk: buffers lost on close", "device", d.info.Name, "buffers", n)
			err = errors.Join(err, d.errorf("%d of %d buffers did not come back", n, p.size()))
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

// align rounds n up to a multiple of step.
func align(n, step int) int { return (n + step - 1) / step * step }
