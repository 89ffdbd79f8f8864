package fault

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

const (
	// ring is how many frames may be staged before Flush.
	ring = 256
	// looks is how many bursts in a row may be lost as a whole before the reader
	// gets its turn.
	looks = 8
	// retry is when a timer that found the device's ring full tries again.
	retry = time.Millisecond
)

// A queue is a queue of the wrapped device with a line in each direction.
type queue struct {
	inner link.Queue
	info  link.Info

	// Owned by the receiving goroutine.
	rx    line
	burst [link.MaxBurst]link.Frame // of the wrapped queue
	lent  [][]byte                  // handed out by the last Receive

	// mu guards everything below, and Reserve, Commit and Flush of the wrapped
	// queue: the timer sends what was due while nobody flushed.
	mu      sync.Mutex
	tx      line
	direct  bool // the last Reserve was the wrapped queue's
	owed    bool // the wrapped queue holds frames that the timer must flush
	staged  []staged
	scratch []byte // one segment
	timer   *time.Timer
	closed  bool

	txDropped atomic.Uint64
}

type staged struct {
	buf     []byte
	n       int
	offload link.TxOffload
}

func newQueue(d *Device, inner link.Queue, seed uint64, i int) *queue {
	info := d.inner.Info()
	return &queue{
		inner: inner,
		info:  info,
		rx:    line{impairment: &d.receive, counters: &d.receiveCounters, fates: newFates(seed, receive, i)},
		tx:    line{impairment: &d.transmit, counters: &d.transmitCounters, fates: newFates(seed, transmit, i)},
	}
}

// Receive implements link.Queue.
func (q *queue) Receive(frames []link.Frame) (int, error) {
	for i, b := range q.lent {
		q.rx.recycle(b)
		q.lent[i] = nil
	}
	q.lent = q.lent[:0]
	if q.rx.idle() {
		return q.inner.Receive(frames)
	}
	now := time.Now()
	// If all of a burst is lost or waits, the caller may go to sleep. Another look
	// gives the burst back to the device before.
	for range looks {
		n, err := q.inner.Receive(q.burst[:])
		if err != nil {
			return 0, err
		}
		for i := range q.burst[:n] {
			q.rx.enter(q.burst[i].Data, q.burst[i].Checksum, now)
		}
		if _, due := q.rx.due(now); n == 0 || due {
			break
		}
	}
	n := 0
	for n < min(len(frames), link.MaxBurst) {
		w, ok := q.rx.due(now)
		if !ok {
			break
		}
		q.rx.leave()
		q.lent = append(q.lent, w.data)
		frames[n] = link.Frame{Data: w.data, Checksum: w.status}
		n++
	}
	return n, nil
}

// Reserve implements link.Queue.
func (q *queue) Reserve(n int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	// Frames keep their order: none passes by what waits. From here to Commit the
	// wrapped queue is the caller's, the timer stays away.
	if q.direct = len(q.staged) == 0 && !q.owed && q.tx.idle(); q.direct {
		return q.inner.Reserve(n)
	}
	if q.closed || len(q.staged) == ring {
		return nil
	}
	// The slot behind the staged ones keeps its buffer from earlier rounds.
	if len(q.staged) == cap(q.staged) {
		q.staged = append(q.staged, staged{})[:len(q.staged)]
	}
	s := &q.staged[:len(q.staged)+1][len(q.staged)]
	if len(s.buf) < n {
		s.buf = make([]byte, max(n, q.info.MaxFrame))
	}
	return s.buf
}

// Commit implements link.Queue.
func (q *queue) Commit(n int, tx link.TxOffload) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.direct {
		q.inner.Commit(n, tx)
		return
	}
	q.staged = q.staged[:len(q.staged)+1]
	s := &q.staged[len(q.staged)-1]
	s.n, s.offload = n, tx
}

// Flush implements link.Queue. Frames that are not due do not count as pending:
// they leave on a timer.
func (q *queue) Flush() (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for i := range q.staged {
		q.enterLocked(&q.staged[i], now)
	}
	q.staged = q.staged[:0]
	return q.sendLocked(now)
}

// enterLocked makes the frames of the wire out of a staged one and lets them meet
// their fate.
func (q *queue) enterLocked(s *staged, now time.Time) {
	if s.offload.MSS != 0 && q.scratch == nil {
		q.scratch = make([]byte, q.info.MaxFrame)
	}
	err := offload.Transmit(s.buf[:s.n], s.offload, q.info.Capabilities, q.scratch, func(frame []byte) {
		q.tx.enter(frame, link.Unchecked, now)
	})
	if err != nil {
		q.txDropped.Add(1)
	}
}

// sendLocked hands what is due to the wrapped queue, sets the timer for the rest, and
// returns how many frames are due and still here.
func (q *queue) sendLocked(now time.Time) (pending int, err error) {
	full := false
	for {
		w, ok := q.tx.due(now)
		if !ok {
			break
		}
		b := q.inner.Reserve(len(w.data))
		if b == nil {
			// Staged frames leave, or the ring of the device is full.
			if _, err = q.inner.Flush(); err != nil {
				return 0, q.failLocked(err)
			}
			if b = q.inner.Reserve(len(w.data)); b == nil {
				full = true
				break
			}
		}
		q.inner.Commit(copy(b, w.data), link.TxOffload{})
		q.tx.leave()
		q.tx.recycle(w.data)
	}
	if pending, err = q.inner.Flush(); err != nil {
		return 0, q.failLocked(err)
	}
	if full {
		pending++ // at least the one that found no buffer
	}
	q.owed = pending > 0 && !q.direct
	if q.owed {
		q.wakeAfterLocked(retry)
	} else if next, ok := q.tx.next(); ok {
		q.wakeAfterLocked(next.Sub(now))
	}
	return pending, nil
}

// failLocked drops what waits when the device is gone.
func (q *queue) failLocked(err error) error {
	q.txDropped.Add(uint64(q.tx.discard()))
	return err
}

// wakeAfterLocked lets the timer send after that long.
func (q *queue) wakeAfterLocked(d time.Duration) {
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.tick)
	} else {
		q.timer.Reset(d)
	}
}

func (q *queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed && (q.owed || len(q.tx.waiting.frames) > 0) {
		q.sendLocked(time.Now())
	}
}

// Stats implements link.Queue. The counters are those of the wrapped queue, and
// TxDropped also counts frames that could not be made or did not leave in time.
func (q *queue) Stats() link.QueueStats {
	s := q.inner.Stats()
	s.TxDropped += q.txDropped.Load()
	return s
}

// Close implements link.Queue.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		if q.timer != nil {
			q.timer.Stop()
		}
		q.rx.discard()
		q.lent = nil
		q.txDropped.Add(uint64(q.tx.discard() + len(q.staged)))
		q.staged = nil
	}
	return q.inner.Close()
}

// A waiterQueue is a queue whose wrapped queue can put its reader to sleep.
type waiterQueue struct {
	*queue
	waiter link.Waiter
}

// Wait implements link.Waiter: it also ends when a frame that waits is due.
func (q *waiterQueue) Wait(timeout time.Duration) {
	if next, ok := q.rx.next(); ok {
		wait := time.Until(next)
		if wait <= 0 {
			return
		}
		if timeout < 0 || wait < timeout {
			timeout = wait
		}
	}
	q.waiter.Wait(timeout)
}

// Wake implements link.Waiter.
func (q *waiterQueue) Wake() { q.waiter.Wake() }
