package transport

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Runner is what a Task does.
type Runner interface {
	// Run is called by the poller, which does nothing else meanwhile.
	Run()
}

// A Task is run by a poller whenever somebody has made it ready. Init comes before
// all else.
type Task struct {
	queue  *RunQueue
	runner Runner
	// name tells which handler it is of, for reports about long ones.
	name atomic.Pointer[string]
	// next is that of the list that the task is in.
	next   *Task
	queued atomic.Bool
}

// Init says who runs the task, what it does, and which handler it is of.
func (t *Task) Init(q *RunQueue, r Runner, name *string) {
	t.queue, t.runner = q, r
	t.name.Store(name)
}

// Rename says that the task is of another handler from now on.
func (t *Task) Rename(name *string) {
	if t.name.Load() != name {
		t.name.Store(name)
	}
}

// Name is the name of its handler.
func (t *Task) Name() *string { return t.name.Load() }

// Runner is what the task does.
func (t *Task) Runner() Runner { return t.runner }

// Queue is where the task runs.
func (t *Task) Queue() *RunQueue { return t.queue }

// Ready has the poller run the task soon: in this poll, if the poller comes to it
// before its handlers run. Anyone may call it, with any lock held. One call or
// many before the run are the same, one during the run asks for another.
func (t *Task) Ready() {
	if t.queued.Swap(true) {
		return
	}
	q := t.queue
	for {
		head := q.ready.Load()
		t.next = head
		if q.ready.CompareAndSwap(head, t) {
			break
		}
	}
	q.wake()
}

// A RunQueue is what a poller runs beside TCP: handlers of connections whose
// events it has just seen.
//
// It takes no lock: what any goroutine makes ready is pushed on a list, which the
// poller takes as a whole.
type RunQueue struct {
	ready atomic.Pointer[Task] // last in, first out
	// current is the task that runs, or that was the last to.
	current atomic.Pointer[Task]
	// owner identifies the poller's goroutine, 0 before it runs.
	owner atomic.Int64
	// live counts what has joined and not left; -1 when the queue has ended.
	live atomic.Int64

	clock  func() int64
	wake   func()
	long   func() time.Duration
	onLong func(name string, took time.Duration)

	// idle are tasks that can be given something to do, the poller's.
	idle []*Task

	counters runCounters
}

// RunOptions are what a RunQueue needs. All must be set.
type RunOptions struct {
	// Clock is the time in nanoseconds.
	Clock func() int64
	// Wake ends the poller's sleep, if it sleeps. Anyone may call it.
	Wake func()
	// Long is how long a handler may run. OnLong is called, by the poller, for each
	// that took longer.
	Long   func() time.Duration
	OnLong func(name string, took time.Duration)
}

// maxIdle is how many coroutines wait for new connections, per shard: each has a
// stack of some KB.
const maxIdle = 256

// RunStats count what a RunQueue did.
type RunStats struct {
	// Coroutines and Callbacks are the connections' handlers that are there now.
	Coroutines, Callbacks int64
	// Runs counts how often the poller ran a handler.
	Runs uint64
	// Long counts runs that took longer than they may, Longest is the time of the
	// longest of them.
	Long    uint64
	Longest time.Duration
	// Detached counts what handlers gave to goroutines, Detaching is how much of it
	// is under way.
	Detached  uint64
	Detaching int64
}

type runCounters struct {
	coroutines, callbacks, detaching atomic.Int64
	runs, long, detached             atomic.Uint64
	longest                          atomic.Int64
}

// queues are those of all shards of the process that have not ended.
var queues struct {
	mu  sync.Mutex
	all atomic.Pointer[[]*RunQueue]
}

// RunQueues returns those of all shards of the process, to be read only.
func RunQueues() []*RunQueue {
	if all := queues.all.Load(); all != nil {
		return *all
	}
	return nil
}

// NewRunQueue returns the queue of a poller, which calls End.
func NewRunQueue(o RunOptions) *RunQueue {
	q := &RunQueue{clock: o.Clock, wake: o.Wake, long: o.Long, onLong: o.OnLong}
	queues.mu.Lock()
	defer queues.mu.Unlock()
	all := append(slices.Clone(RunQueues()), q)
	queues.all.Store(&all)
	return q
}

// forget takes q from the list of all.
func (q *RunQueue) forget() {
	queues.mu.Lock()
	defer queues.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(RunQueues()), func(o *RunQueue) bool { return o == q })
	queues.all.Store(&all)
}

// Waiting tells whether a task is ready.
func (q *RunQueue) Waiting() bool { return q.ready.Load() != nil }

// Run runs each task that is ready, once; what becomes ready meanwhile waits for
// the next Run. It returns how many there were. The poller calls it.
func (q *RunQueue) Run() int {
	if q.ready.Load() == nil {
		return 0
	}
	now, long := q.clock(), q.long()
	var first *Task
	for t := q.ready.Swap(nil); t != nil; {
		next := t.next
		t.next = first
		first, t = t, next
	}
	n := 0
	for t := first; t != nil; n++ {
		next := t.next
		t.next = nil
		t.queued.Store(false)
		q.SetCurrent(t)
		t.runner.Run()
		t = next
		end := q.clock()
		if took := time.Duration(end - now); took > long {
			q.tookLong(q.Running(), took) // it may have begun another one
		}
		now = end
	}
	c := &q.counters
	c.runs.Store(c.runs.Load() + uint64(n))
	return n
}

func (q *RunQueue) tookLong(name string, took time.Duration) {
	c := &q.counters
	c.long.Add(1)
	if int64(took) > c.longest.Load() {
		c.longest.Store(int64(took))
	}
	q.onLong(name, took)
}

// SetCurrent says that t runs from now on. The poller calls it.
func (q *RunQueue) SetCurrent(t *Task) {
	if q.current.Load() != t {
		q.current.Store(t)
	}
}

// Current is the task that runs now, or that ran last: whoever asks for itself
// compares goroutines.
func (q *RunQueue) Current() *Task { return q.current.Load() }

// Running names the handler that runs now, or that ran last; "" before the first.
func (q *RunQueue) Running() string {
	if t := q.current.Load(); t != nil {
		return *t.name.Load()
	}
	return ""
}

// SetOwner names the poller's goroutine, as package goid does.
func (q *RunQueue) SetOwner(id int64) { q.owner.Store(id) }

// Owner is the poller's goroutine.
func (q *RunQueue) Owner() int64 { return q.owner.Load() }

// Kind is a way to handle a connection.
type Kind int

const (
	// Coroutine runs code that waits, Callback code that does not.
	Coroutine Kind = iota
	Callback
)

// Join says that a handler is going to run here until Leave. It fails when the
// poller has ended: who needs to run takes a goroutine.
func (q *RunQueue) Join(k Kind) bool {
	for {
		n := q.live.Load()
		if n < 0 {
			return false
		}
		if q.live.CompareAndSwap(n, n+1) {
			q.count(k).Add(1)
			return true
		}
	}
}

// Leave ends what Join began. The poller calls it.
func (q *RunQueue) Leave(k Kind) {
	q.count(k).Add(-1)
	q.live.Add(-1)
}

func (q *RunQueue) count(k Kind) *atomic.Int64 {
	if k == Callback {
		return &q.counters.callbacks
	}
	return &q.counters.coroutines
}

// Detached counts what a handler gives to a goroutine. The caller calls what it
// returns when that is done.
func (q *RunQueue) Detached() (done func()) {
	q.counters.detached.Add(1)
	q.counters.detaching.Add(1)
	return func() { q.counters.detaching.Add(-1) }
}

// PutIdle keeps a task that has nothing to do, false where there are enough. Its
// runner has a method End, which is called when the queue ends. The poller calls
// it.
func (q *RunQueue) PutIdle(t *Task) bool {
	if len(q.idle) == maxIdle {
		return false
	}
	q.idle = append(q.idle, t)
	return true
}

// Idle takes a task that has nothing to do, nil when there is none. The poller
// calls it.
func (q *RunQueue) Idle() *Task {
	last := len(q.idle) - 1
	if last < 0 {
		return nil
	}
	t := q.idle[last]
	q.idle[last] = nil
	q.idle = q.idle[:last]
	return t
}

// End is the poller's last call: it runs handlers until all have left, and waits
// on sleep meanwhile, which Wake ends.
func (q *RunQueue) End(sleep func()) {
	for {
		q.Run()
		if q.live.CompareAndSwap(0, -1) {
			break
		}
		if q.ready.Load() == nil {
			sleep()
		}
	}
	for t := q.Idle(); t != nil; t = q.Idle() {
		t.runner.(interface{ End() }).End()
	}
	q.forget()
}

// Stats reads the counters. Anyone may call it.
func (q *RunQueue) Stats() RunStats {
	c := &q.counters
	return RunStats{
		Coroutines: c.coroutines.Load(), Callbacks: c.callbacks.Load(),
		Runs: c.runs.Load(), Long: c.long.Load(), Longest: time.Duration(c.longest.Load()),
		Detached: c.detached.Load(), Detaching: c.detaching.Load(),
	}
}
