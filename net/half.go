package tpanet

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/prefetch"
	"github.com/gotpa/tpa/internal/transport"
)

// Bits of half.state. 0 is the common case, so that the data path tests all of
// them with one load.
const (
	closed  = 1 << iota // Close was called
	expired             // the deadline has passed
	shut                // this direction was shut down: it ends instead of waiting
)

// A half is one direction of a connection: its operations take turns and wait
// here. A listener has one for accepting.
type half struct {
	// mu makes operations of this direction take turns. It is held while one
	// waits.
	mu sync.Mutex

	// waker ends the wait of a goroutine, or the next one. It is asserted, by wake,
	// after any change that must be seen: events of the endpoint, and state.
	waker parker

	// task is what is made ready instead while a coroutine waits, or was the last
	// to; news says that it was, as the coroutine may wait for something else by then.
	// callbacks is made ready besides.
	task, callbacks atomic.Pointer[transport.Task]
	news            atomic.Bool

	// memory is where data went last; waiter is the stack of who waits here, or what
	// callbacks belong to.
	memory, waiter prefetch.Hint

	state atomic.Uint32
	// deadline is nil before the first one: many connections never have any.
	deadline atomic.Pointer[deadline]
}

// err tells why an operation may not start or go on, if so.
func (h *half) err() error {
	switch s := h.state.Load(); {
	case s&closed != 0:
		return net.ErrClosed
	case s&expired != 0:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// lock takes mu. A coroutine lets others run meanwhile; callbacks, which cannot, get
// ErrWouldBlock.
func (h *half) lock() error {
	if h.mu.TryLock() {
		return nil
	}
	co, poller := running()
	if poller {
		return transport.ErrWouldBlock
	}
	if co == nil {
		h.mu.Lock()
		return nil
	}
	for !h.mu.TryLock() {
		co.sleep(lockPause)
	}
	return nil
}

// lockPause is how long a coroutine waits between two looks at a lock that a
// goroutine holds.
const lockPause = 50 * time.Microsecond

// wake ends the current wait, or the next one.
func (h *half) wake() {
	if t := h.callbacks.Load(); t != nil {
		t.Ready()
	}
	if t := h.task.Load(); t != nil {
		h.news.Store(true)
		t.Ready()
		return
	}
	h.waker.Assert()
}

// waitLocked parks until wake is called, or for a shorter time. It fails, with
// ErrWouldBlock, in callbacks. mu is held.
//
// Who waits in another way than the one before must look again first: what came
// meanwhile was told to that one.
func (h *half) waitLocked() error {
	co, poller := running()
	if poller {
		return transport.ErrWouldBlock
	}
	h.waiter.Here()
	switch {
	case co == nil:
		if h.task.Load() != nil {
			h.task.Store(nil)
			return nil
		}
		h.waker.Wait()
	case h.task.Load() != &co.task:
		h.task.Store(&co.task)
	default:
		for !h.news.Swap(false) {
			co.wait()
		}
	}
	return nil
}

// prefetch asks for what wake needs, and who is woken by it. Anyone may call it.
func (h *half) prefetch() {
	h.memory.Around(0, 2*prefetch.Line)
	t := h.callbacks.Load()
	if t != nil {
		h.waiter.Around(0, objectSize)
	} else {
		h.waiter.Around(stackBelow, stackAbove)
		t = h.task.Load()
	}
	if t != nil {
		prefetch.Of(t)
	} else {
		h.waker.prefetch()
	}
}

// Who is woken soon needs its stack, in bytes: above the wait Read and who called it,
// and below it what Write needs more than Read. Callbacks need some of what they
// belong to.
const (
	stackBelow, stackAbove = 896, 832
	objectSize             = 256
)

// set sets bits of the state, wakes who waits, and returns the state before.
func (h *half) set(bits uint32) (before uint32) {
	before = h.state.Or(bits)
	h.wake()
	return before
}

// close makes all operations of this direction fail with net.ErrClosed and
// tells whether it is the first call to do so.
func (h *half) close() bool {
	if h.set(closed)&closed != 0 {
		return false
	}
	h.stopDeadline()
	return true
}

// settle waits for the operation that has the turn and those behind it, after close.
// In callbacks it does not: that operation may be one of the same poller's.
func (h *half) settle() {
	if h.lock() == nil {
		h.mu.Unlock()
	}
}

// setDeadline makes operations fail from t on; the zero time means never.
func (h *half) setDeadline(t time.Time) error {
	if h.state.Load()&closed != 0 {
		return net.ErrClosed
	}
	d := h.deadline.Load()
	if d == nil {
		if t.IsZero() {
			return nil
		}
		d = new(deadline)
		if !h.deadline.CompareAndSwap(nil, d) {
			d = h.deadline.Load()
		}
	}
	d.set(h, t)
	return nil
}

func (h *half) stopDeadline() {
	if d := h.deadline.Load(); d != nil {
		d.stop()
	}
}

// A deadline sets the expired bit of a half at a point in time.
//
// It is lazy: a deadline that moves further away, as those of idle timeouts do
// with each request, leaves the timer alone. The timer finds out when it fires
// and goes on for the rest. No operation reads the clock.
type deadline struct {
	mu    sync.Mutex
	when  time.Time   // zero: none
	armed time.Time   // when the timer fires, zero when it is not running
	timer *time.Timer // made by the first deadline in the future
}

func (d *deadline) set(h *half, t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.state.Load()&closed != 0 {
		return // stop has been here, or is about to
	}
	d.when = t
	if t.IsZero() {
		h.state.And(^uint32(expired))
		return
	}
	if d.armed.IsZero() || t.Before(d.armed) {
		left := time.Until(t)
		if left <= 0 {
			h.set(expired)
			return
		}
		d.arm(h, t, left)
	}
	h.state.And(^uint32(expired))
}

// arm makes the timer fire at t, which is left from now.
func (d *deadline) arm(h *half, t time.Time, left time.Duration) {
	d.armed = t
	if d.timer == nil {
		d.timer = time.AfterFunc(left, func() { d.fire(h) })
		return
	}
	d.timer.Reset(left)
}

// fire runs when the timer fires. An earlier firing may be late and meet a
// timer that was armed anew; it then finds time left and arms it again.
func (d *deadline) fire(h *half) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = time.Time{}
	if d.when.IsZero() {
		return
	}
	if left := time.Until(d.when); left > 0 {
		d.arm(h, d.when, left)
		return
	}
	h.set(expired)
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.when = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}
