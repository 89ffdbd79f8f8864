// Package memory joins two devices by queues in memory: what one sends, the
// other receives. It carries real Ethernet frames between two stacks in one
// process, without privileges, for tests, examples and simulations.
//
// Queue i of one device is wired to queue i of the other. Each direction is a
// bounded ring with one producer, the sending endpoint, and one consumer, the
// receiving poller. Frames change sides by swapping buffers: nothing is copied
// or allocated. A full ring holds its sender back; it never loses a frame.
package memory

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/notifier"
)

// Options describe a pair of devices. The zero value works.
type Options struct {
	// Queues is the number of queues of each device, 1 to 256. Default: 1.
	Queues int
	// MTU is the greatest IP packet in bytes, 576 to 65535. Default: 1500.
	MTU int
	// Ring is the number of frames in flight per queue and direction, a power of
	// two, 2 to 65536. Default: 512.
	Ring int
}

// Pair returns two devices that are wired to each other. Their MAC addresses
// are locally administered: 02:00:00:00:00:01 and …:02.
func Pair(o Options) (a, b *Device, err error) {
	o.Queues, o.MTU, o.Ring = orElse(o.Queues, 1), orElse(o.MTU, 1500), orElse(o.Ring, 512)
	switch {
	case o.Queues < 1 || o.Queues > 256:
		return nil, nil, fmt.Errorf("memory: Options.Queues is %d: want 1 to 256", o.Queues)
	case o.MTU < 576 || o.MTU > 65535:
		return nil, nil, fmt.Errorf("memory: Options.MTU is %d: want 576 to 65535", o.MTU)
	case o.Ring < 2 || o.Ring > 65536 || o.Ring&(o.Ring-1) != 0:
		return nil, nil, fmt.Errorf("memory: Options.Ring is %d: want a power of two from 2 to 65536", o.Ring)
	}
	a, b = newDevice("memory0", 1, o), newDevice("memory1", 2, o)
	for i := range o.Queues {
		there, back := newRing(o.Ring), newRing(o.Ring)
		a.queues[i] = newQueue(there, back, a.info.MaxFrame)
		b.queues[i] = newQueue(back, there, b.info.MaxFrame)
		a.queues[i].peer, b.queues[i].peer = b.queues[i], a.queues[i]
	}
	return a, b, nil
}

func orElse(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// A Device is one side of a pair.
type Device struct {
	info   link.Info
	queues []*queue
}

var _ link.Device = (*Device)(nil)

func newDevice(name string, last byte, o Options) *Device {
	return &Device{
		info: link.Info{
			Name: name, Driver: "memory",
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, last},
			MTU:          o.MTU, MaxFrame: o.MTU + link.EthernetHeaderLen,
			Queues: o.Queues, NUMANode: -1,
		},
		queues: make([]*queue, o.Queues),
	}
}

// Info implements link.Device.
func (d *Device) Info() link.Info { return d.info }

// Queue implements link.Device.
func (d *Device) Queue(i int) link.Queue { return d.queues[i] }

// LinkUp implements link.Device: the link is up until one side is closed.
func (d *Device) LinkUp() bool {
	q := d.queues[0]
	return !q.closed.Load() && !q.peer.closed.Load()
}

// Stats implements link.Device.
func (d *Device) Stats() link.DeviceStats {
	var s link.DeviceStats
	for _, q := range d.queues {
		qs := q.Stats()
		s.AddQueue(qs)
		s.TxErrors += qs.TxDropped
		s.BuffersTotal += len(q.rx.slots)
		if !q.closed.Load() {
			s.BuffersInUse += int(q.rx.tail.Load() - q.rx.head.Load())
		}
	}
	return s
}

// Close implements link.Device.
func (d *Device) Close() error {
	for _, q := range d.queues {
		q.Close()
	}
	return nil
}

// ring carries frames one way. The producer owns tail and the slots from tail
// on, the consumer owns head and the slots up to tail. Publishing a position is
// an atomic store that the other side loads, so slots need no lock.
type ring struct {
	slots []slot
	mask  uint64
	_     [64]byte
	head  atomic.Uint64 // next slot to consume
	_     [56]byte
	tail  atomic.Uint64 // next slot to fill
	_     [56]byte
}

// slot is a frame and the room it lies in.
type slot struct {
	room []byte
	size int
}

func newRing(n int) *ring { return &ring{slots: make([]slot, n), mask: uint64(n - 1)} }

type queue struct {
	rx, tx   *ring
	peer     *queue
	maxFrame int

	// reserved is the buffer handed out by Reserve; staged are slots of tx that
	// are filled but not published. Owned by the sender.
	staged uint64

	// consumed is the number of rx slots handed out by the last Receive. Owned by
	// the receiver.
	consumed uint64

	closed   atomic.Bool
	asleep   atomic.Bool
	notifier *notifier.Notifier

	rxFrames, rxBytes, txFrames, txBytes, txDropped, txFull atomic.Uint64
}

var (
	_ link.Queue  = (*queue)(nil)
	_ link.Waiter = (*queue)(nil)
)

func newQueue(tx, rx *ring, maxFrame int) *queue {
	return &queue{tx: tx, rx: rx, maxFrame: maxFrame, notifier: notifier.New()}
}

func (q *queue) Receive(frames []link.Frame) (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	head := q.rx.head.Load() + q.consumed
	if q.consumed > 0 {
		q.rx.head.Store(head)
	}
	n := min(q.rx.tail.Load()-head, uint64(min(len(frames), link.MaxBurst)))
	bytes := 0
	for i := range n {
		s := &q.rx.slots[(head+i)&q.rx.mask]
		frames[i] = link.Frame{Data: s.room[:s.size]}
		bytes += s.size
	}
	q.consumed = n
	if n > 0 {
		q.rxFrames.Add(n)
		q.rxBytes.Add(uint64(bytes))
	}
	return int(n), nil
}

func (q *queue) Reserve(n int) []byte {
	t := q.tx.tail.Load() + q.staged
	if n > q.maxFrame || t-q.tx.head.Load() >= uint64(len(q.tx.slots)) {
		return nil
	}
	s := &q.tx.slots[t&q.tx.mask]
	if s.room == nil {
		s.room = make([]byte, q.maxFrame)
	}
	return s.room
}

func (q *queue) Commit(n int, _ link.TxOffload) {
	q.tx.slots[(q.tx.tail.Load()+q.staged)&q.tx.mask].size = n
	q.staged++
}

// Flush publishes what is staged. The ring itself is the staging area, so
// nothing stays behind.
func (q *queue) Flush() (int, error) {
	n := q.staged
	q.staged = 0
	if q.closed.Load() {
		q.txDropped.Add(n)
		return 0, net.ErrClosed
	}
	if q.peer.closed.Load() {
		q.txDropped.Add(n)
		return 0, nil // like a cable that is not plugged in
	}
	if n == 0 {
		q.txFull.Add(1)
		return 0, nil
	}
	bytes, t := 0, q.tx.tail.Load()
	for i := range n {
		bytes += q.tx.slots[(t+i)&q.tx.mask].size
	}
	q.tx.tail.Store(t + n)
	q.txFrames.Add(n)
	q.txBytes.Add(uint64(bytes))
	if q.peer.asleep.Load() {
		q.peer.Wake()
	}
	return 0, nil
}

func (q *queue) Stats() link.QueueStats {
	return link.QueueStats{
		RxFrames: q.rxFrames.Load(), RxBytes: q.rxBytes.Load(),
		TxFrames: q.txFrames.Load(), TxBytes: q.txBytes.Load(),
		TxDropped: q.txDropped.Load(), TxFull: q.txFull.Load(),
	}
}

// Wait implements link.Waiter. It looks at the ring once more after it has
// announced its sleep: a sender that did not see the announcement has published
// before, so the frame is seen here.
func (q *queue) Wait(timeout time.Duration) {
	q.asleep.Store(true)
	defer q.asleep.Store(false)
	if q.closed.Load() || q.rx.tail.Load() != q.rx.head.Load()+q.consumed {
		return
	}
	q.notifier.Wait(timeout)
}

// Wake implements link.Waiter.
func (q *queue) Wake() { q.notifier.Notify() }

func (q *queue) Close() error {
	if !q.closed.Swap(true) {
		q.Wake()
	}
	return nil
}
