package softnic

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/notifier"
)

// A queue is one receive and one transmit ring. Buffers are made when a slot is
// first used, so that a card costs little until it works.
type queue struct {
	nic    *NIC
	closed atomic.Bool

	// The receive ring. Positions only grow; a position's slot is its low bits.
	// Senders write slots and then tail, under rxMu. The reader reads slots below
	// tail, then stores head when it gives them back.
	rx        []received
	rxMu      sync.Mutex
	tail      atomic.Uint64
	head      atomic.Uint64
	read      uint64 // next slot to hand out; owned by the reader
	rxStalled atomic.Bool

	// sleeping tells senders that a notification is wanted. The reader sets it
	// before it looks at tail for the last time, senders look at it after they
	// stored tail: one of the two sees the other.
	sleeping atomic.Bool
	notifier *notifier.Notifier

	// The transmit ring, owned by the sender.
	tx        []staged
	ntx       int    // staged frames
	scratch   []byte // one segment cut from a large frame
	txStalled atomic.Bool
	txWaiting atomic.Int64 // ntx, for Stats

	rxFrames, rxBytes, txFrames, txBytes, txDropped, txFull, rxLost atomic.Uint64
}

type received struct {
	buf    []byte
	status link.ChecksumStatus
}

type staged struct {
	buf     []byte // its capacity
	n       int    // what was committed
	offload link.TxOffload
}

func newQueue(n *NIC, ring int) *queue {
	return &queue{
		nic:      n,
		rx:       make([]received, ring),
		tx:       make([]staged, ring),
		notifier: notifier.New(),
	}
}

// arrive copies a frame into the receive ring, without the VLAN tag when tag is
// its length. It returns false when the ring is full.
func (q *queue) arrive(frame []byte, tag int, v link.ChecksumStatus) bool {
	q.rxMu.Lock()
	tail := q.tail.Load()
	if tail-q.head.Load() == uint64(len(q.rx)) || q.closed.Load() {
		q.rxMu.Unlock()
		q.rxLost.Add(1)
		return false
	}
	s := &q.rx[tail&uint64(len(q.rx)-1)]
	s.buf = append(append(s.buf[:0], frame[:12]...), frame[12+tag:]...)
	s.status = v
	q.tail.Store(tail + 1)
	q.rxMu.Unlock()
	if q.sleeping.Load() {
		q.Wake()
	}
	return true
}

// Receive implements link.Queue.
func (q *queue) Receive(frames []link.Frame) (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	if q.head.Load() != q.read {
		q.head.Store(q.read)
	}
	if q.rxStalled.Load() {
		return 0, nil
	}
	n := int(min(q.tail.Load()-q.read, uint64(len(frames)), link.MaxBurst))
	if n == 0 {
		return 0, nil
	}
	bytes := 0
	for i := range n {
		s := &q.rx[q.read&uint64(len(q.rx)-1)]
		frames[i] = link.Frame{Data: s.buf, Checksum: s.status}
		bytes += len(s.buf)
		q.read++
	}
	q.rxFrames.Add(uint64(n))
	q.rxBytes.Add(uint64(bytes))
	return n, nil
}

// Wait implements link.Waiter.
func (q *queue) Wait(timeout time.Duration) {
	q.sleeping.Store(true)
	defer q.sleeping.Store(false)
	if q.closed.Load() || q.tail.Load() != q.read && !q.rxStalled.Load() {
		return
	}
	q.notifier.Wait(timeout)
}

// Wake implements link.Waiter.
func (q *queue) Wake() { q.notifier.Notify() }

// Reserve implements link.Queue.
func (q *queue) Reserve(n int) []byte {
	if q.ntx == len(q.tx) || q.closed.Load() {
		return nil
	}
	s := &q.tx[q.ntx]
	if len(s.buf) < n {
		// A slot serves frames of one packet until a larger one comes.
		s.buf = make([]byte, max(n, q.nic.info.MaxFrame))
	}
	return s.buf
}

// Commit implements link.Queue.
func (q *queue) Commit(n int, tx link.TxOffload) {
	s := &q.tx[q.ntx]
	s.n, s.offload = n, tx
	q.ntx++
	q.txWaiting.Store(int64(q.ntx))
}

// Flush implements link.Queue.
func (q *queue) Flush() (int, error) {
	if q.closed.Load() {
		q.drop()
		return 0, net.ErrClosed
	}
	if q.ntx == 0 {
		return 0, nil
	}
	if q.txStalled.Load() {
		q.txFull.Add(1)
		return q.ntx, nil
	}
	bytes := 0
	for i := range q.ntx {
		s := &q.tx[i]
		bytes += s.n
		q.leave(s.buf[:s.n], s.offload)
	}
	q.txFrames.Add(uint64(q.ntx))
	q.txBytes.Add(uint64(bytes))
	q.ntx = 0
	q.txWaiting.Store(0)
	return 0, nil
}

// leave puts a staged frame on the wire. What the card was not made for, or what
// is too long for the wire, is lost and counted.
func (q *queue) leave(frame []byte, tx link.TxOffload) {
	n := q.nic
	if tx.MSS != 0 && q.scratch == nil {
		q.scratch = make([]byte, n.info.MaxFrame)
	}
	if len(frame) < ethernetLen || tx.MSS == 0 && len(frame) > n.info.MaxFrame {
		n.txErrors.Add(1)
		return
	}
	if tx == (link.TxOffload{}) {
		n.send(frame)
		return
	}
	if err := offload.Transmit(frame, tx, n.info.Capabilities, q.scratch, n.send); err != nil {
		n.txErrors.Add(1)
	}
}

// drop counts the staged frames as lost.
func (q *queue) drop() {
	q.txDropped.Add(uint64(q.ntx))
	q.ntx = 0
	q.txWaiting.Store(0)
}

// buffers is the number of slots that hold frames.
func (q *queue) buffers() int {
	if q.closed.Load() {
		return 0
	}
	return int(q.tail.Load()-q.head.Load()) + int(q.txWaiting.Load())
}

// Stats implements link.Queue. Frames lost because the ring was full count as
// RxNoBuffer here, too.
func (q *queue) Stats() link.QueueStats {
	return link.QueueStats{
		RxFrames: q.rxFrames.Load(), RxBytes: q.rxBytes.Load(),
		TxFrames: q.txFrames.Load(), TxBytes: q.txBytes.Load(),
		RxNoBuffer: q.rxLost.Load(), TxDropped: q.txDropped.Load(), TxFull: q.txFull.Load(),
	}
}

// Close implements link.Queue.
func (q *queue) Close() error {
	if !q.closed.Swap(true) {
		q.drop()
		q.Wake()
	}
	return nil
}
