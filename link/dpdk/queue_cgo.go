//go:build dpdk && cgo && linux

package dpdk

// #include "shim.h"
import "C"

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gotpa/tpa/link"
)

// errRemoved ends a queue whose device is no longer there.
var errRemoved = errors.New("dpdk: the device was removed")

// queue implements link.Queue.
type queue struct {
	rx       *C.struct_tpa_rx
	tx       *C.struct_tpa_tx
	room     int // bytes of a buffer from the stock
	bigRoom  int // bytes of a big buffer, 0 when there are none
	reserved int // bytes of the buffer last reserved, 0 when there is none
	big      bool
	closed   atomic.Bool

	mu   sync.Mutex       // guards the counters against being freed
	last *link.QueueStats // after the port was closed
}

func (q *queue) Receive(frames []link.Frame) (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	rx := q.rx
	if rx.next == rx.count {
		if C.tpa_rx_burst(rx); rx.gone {
			return 0, errRemoved
		}
	}
	// Drivers that work on vectors give nothing when asked for few, so the shim
	// always asks for a full burst, and a short slice is filled from what is left.
	n := min(len(frames), int(rx.count-rx.next))
	for i := range frames[:n] {
		f := &rx.frames[int(rx.next)+i]
		frames[i] = link.Frame{Data: frameData(f), Checksum: link.ChecksumStatus(f.checksum)}
	}
	rx.next += C.uint32_t(n)
	return n, nil
}

func (q *queue) Reserve(n int) []byte {
	tx := q.tx
	if q.closed.Load() || tx.tail == tx.depth {
		return nil
	}
	if q.big = n > q.room; q.big {
		return q.reserveBig(n)
	}
	if tx.nstock == 0 {
		if C.tpa_tx_stock(tx); tx.nstock == 0 {
			return nil
		}
	}
	q.reserved = q.room
	return room(&tx.stock[tx.nstock-1], q.room)
}

func (q *queue) reserveBig(n int) []byte {
	if n > q.bigRoom {
		panic("dpdk: Reserve of more than MaxFrame or Capabilities.TSO")
	}
	tx := q.tx
	if tx.big.mbuf == 0 {
		if C.tpa_tx_stock_big(tx); tx.big.mbuf == 0 {
			return nil
		}
	}
	q.reserved = q.bigRoom
	return room(&tx.big, q.bigRoom)
}

func (q *queue) Commit(n int, o link.TxOffload) {
	if n <= 0 || n > q.reserved {
		panic("dpdk: Commit of nothing, of more than was reserved, or without Reserve")
	}
	q.reserved = 0
	tx := q.tx
	s := slot(tx, tx.tail)
	if q.big {
		s.mbuf = tx.big.mbuf
		tx.big.mbuf = 0
	} else {
		tx.nstock--
		s.mbuf = tx.stock[tx.nstock].mbuf
	}
	s.len = C.uint32_t(n)
	s.mss = C.uint16_t(o.MSS)
	s.flags = C.uint8_t(o.Flags)
	s.tagged = false
	s.l2_len, s.l3_len, s.l4_len = C.uint8_t(o.L2Len), C.uint8_t(o.L3Len), C.uint8_t(o.L4Len)
	tx.tail++
}

func (q *queue) Flush() (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	tx := q.tx
	for tx.head != tx.tail && bool(C.tpa_tx_burst(tx)) {
	}
	if tx.gone {
		C.tpa_tx_release(tx)
		return 0, errRemoved
	}
	return int(tx.tail - tx.head), nil
}

func (q *queue) Stats() link.QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last != nil {
		return *q.last
	}
	return link.QueueStats{
		RxFrames:    load(&q.rx.n_frames),
		RxBytes:     load(&q.rx.n_bytes),
		RxMalformed: load(&q.rx.n_malformed),
		TxFrames:    load(&q.tx.n_frames),
		TxBytes:     load(&q.tx.n_bytes),
		TxFull:      load(&q.tx.n_full),
		TxDropped:   load(&q.tx.n_dropped),
	}
}

func (q *queue) Close() error {
	if !q.closed.Swap(true) {
		C.tpa_rx_release(q.rx)
		C.tpa_tx_release(q.tx)
	}
	return nil
}

// free closes the queue and frees its C memory.
func (q *queue) free() {
	q.Close()
	stats := q.Stats()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last == nil {
		q.last = &stats
		C.tpa_rx_free(q.rx)
		C.tpa_tx_free(q.tx)
		q.rx, q.tx = nil, nil
	}
}
