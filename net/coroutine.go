package tpanet

import (
	"fmt"
	"iter"
	"net"
	"reflect"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/goid"

	"github.com/gotpa/tpa/internal/transport"
)

// Go runs f in the poller of the connection's shard, as a coroutine: where Read
// and Write would wait, the poller goes on with other connections, and comes back
// when there is something. That saves the wake-up of a goroutine for each request.
//
// All that waits or computes elsewhere keeps the poller, and so all connections of
// the shard, waiting: channels, locks, other kinds of connections, time.Sleep. That
// is what Detach is for. Dial and Accept of package accel are detached by
// themselves. f must not call runtime.LockOSThread.
//
// As with the go statement nobody closes the connection when f returns, a panic
// ends the program, and other goroutines may use the connection at any time. Go
// does not wait. When the runtime is closed already, f runs in a goroutine.
func (c *Conn) Go(f func(net.Conn)) {
	start(c.stack.RunQueue(), nameOf(f), func() { f(c) })
}

// Detach runs f in a goroutine of its own and waits for it, while the poller goes
// on: code that runs by Conn.Go calls what waits or computes for long by it. Anywhere
// else Detach just calls f.
func Detach(f func()) {
	if co, _ := running(); co != nil {
		co.detach(f)
		return
	}
	f()
}

// A coroutine runs one handler after the other in a poller.
//
// iter.Pull makes it, which is why a handler's goroutine and the poller's take
// turns: next runs the handler until it waits, yield is that wait. The runtime wants
// both on one thread where the poller is locked to its own, as a pinned one is: so
// the poller makes all coroutines, and none ever leaves it.
type coroutine struct {
	task  transport.Task
	queue *transport.RunQueue
	id    atomic.Int64 // its goroutine's
	next  func() (struct{}, bool)
	yield func(struct{}) bool
	f     func() // the handler, nil while there is none
	ended bool
}

// started is set by the first handler of the process: until then nobody looks for
// coroutines.
var started atomic.Bool

// running is the coroutine that the caller runs in, nil in other goroutines. poller
// tells whether the caller is a poller by itself, which must not wait.
func running() (co *coroutine, poller bool) {
	if !started.Load() {
		return nil, false
	}
	id := goid.Get()
	for _, q := range transport.RunQueues() {
		if q.Owner() == id {
			return nil, true
		}
		if t := q.Current(); t != nil {
			if co, ok := t.Runner().(*coroutine); ok && co.id.Load() == id {
				return co, false
			}
		}
	}
	return nil, false
}

// start runs f as a coroutine of q's poller: at once where that is the caller.
func start(q *transport.RunQueue, name *string, f func()) {
	if !q.Join(transport.Coroutine) {
		go f()
		return
	}
	started.Store(true)
	if q.Owner() == goid.Get() {
		begin(q, name, f)
		return
	}
	s := &starter{f: f}
	s.task.Init(q, s, name)
	s.task.Ready()
}

// A starter is a coroutine to be.
type starter struct {
	task transport.Task
	f    func()
}

// Run implements transport.Runner.
func (s *starter) Run() { begin(s.task.Queue(), s.task.Name(), s.f) }

// begin is start in the poller.
func begin(q *transport.RunQueue, name *string, f func()) {
	var co *coroutine
	if t := q.Idle(); t != nil {
		co = t.Runner().(*coroutine)
		co.task.Rename(name)
	} else {
		co = &coroutine{queue: q}
		co.task.Init(q, co, name)
		co.next, _ = iter.Pull(co.loop)
	}
	co.f = f
	co.Run()
}

// Run implements transport.Runner: the handler runs until it waits.
func (co *coroutine) Run() {
	co.queue.SetCurrent(&co.task)
	defer func() {
		if v := recover(); v != nil && v != exited {
			panic(v)
		}
	}()
	co.next()
}

// exited is a panic that only says that a handler called runtime.Goexit, which
// iter.Pull would have the poller do, too.
var exited any = new(byte)

// loop runs handlers.
func (co *coroutine) loop(yield func(struct{}) bool) {
	co.id.Store(goid.Get())
	co.yield = yield
	for {
		co.call()
		co.f = nil
		if !co.queue.PutIdle(&co.task) {
			return
		}
		for co.f == nil {
			if co.wait(); co.ended {
				return
			}
		}
	}
}

// End ends a coroutine that has nothing to do.
func (co *coroutine) End() {
	co.ended = true
	co.Run()
}

func (co *coroutine) call() {
	returned := false
	defer func() {
		co.queue.Leave(transport.Coroutine)
		if returned {
			return
		}
		if v := recover(); v != nil {
			panic(&HandlerPanic{Value: v, Stack: debug.Stack()})
		}
		panic(exited)
	}()
	co.f()
	returned = true
}

// A HandlerPanic is what a program ends with when a handler in a poller panics:
// the poller's own stack says nothing of it.
type HandlerPanic struct {
	// Value is what the handler panicked with.
	Value any
	// Stack is the handler's, as debug.Stack returns it.
	Stack []byte
}

// Error returns both.
func (p *HandlerPanic) Error() string {
	return fmt.Sprintf("%v\n\nin a handler:\n%s", p.Value, p.Stack)
}

// Unwrap returns the value if that is an error.
func (p *HandlerPanic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// wait returns when the task was made ready, which others may do without need.
func (co *coroutine) wait() { co.yield(struct{}{}) }

// sleep is time.Sleep, or shorter.
func (co *coroutine) sleep(d time.Duration) {
	t := time.AfterFunc(d, co.task.Ready)
	co.wait()
	t.Stop()
}

func (co *coroutine) detach(f func()) {
	var finished atomic.Bool
	done := co.queue.Detached()
	go func() {
		defer func() {
			done()
			finished.Store(true)
			co.task.Ready()
		}()
		f()
	}()
	for !finished.Load() {
		co.wait()
	}
}

// names has the names of functions by their code.
var names sync.Map // of uintptr to *string

// nameOf is the name of a function.
func nameOf(f any) *string {
	pc := reflect.ValueOf(f).Pointer()
	if name, ok := names.Load(pc); ok {
		return name.(*string)
	}
	name := "unknown"
	if fn := runtime.FuncForPC(pc); fn != nil {
		name = fn.Name()
	}
	known, _ := names.LoadOrStore(pc, &name)
	return known.(*string)
}
