package tpanet

import (
	"net"
	"sync/atomic"

	"github.com/gotpa/tpa/internal/transport"
)

// AcceptFunc accepts connections until the listener is closed, or its deadline has
// passed, and returns Accept's error. It calls f for each, in the poller of the
// connection's shard, without the wake-up of a goroutine: f must not wait, but may
// call Conn.Go, Conn.Handle, or the go statement. While it runs nobody calls Accept.
func (l *Listener) AcceptFunc(f func(*Conn)) error {
	fail := func(err error) error {
		return &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
	}
	name := nameOf(f)
	acceptors := make([]*acceptor, len(l.queues))
	for i, q := range l.queues {
		a := &acceptor{l: l, q: q, f: f}
		a.task.Init(q.stack.RunQueue(), a, name)
		acceptors[i] = a
		started.Store(true)
		q.inPoller.Store(&a.task)
		a.task.Ready() // for those that wait already
	}
	defer func() {
		for i, q := range l.queues {
			q.inPoller.Store(nil)
			acceptors[i].stopped.Store(true)
			q.acc.Load().waker.Assert() // what was told to the acceptor alone
		}
	}()
	l.acc.mu.Lock()
	defer l.acc.mu.Unlock()
	for {
		if err := l.acc.err(); err != nil {
			return fail(err)
		}
		for _, a := range acceptors {
			if err := a.err.Load(); err != nil {
				return fail(*err)
			}
		}
		l.acc.waker.Wait()
	}
}

// acceptBurst is how many connections one run accepts: others have their turn
// between.
const acceptBurst = 32

// An acceptor is AcceptFunc on one shard.
type acceptor struct {
	task    transport.Task
	l       *Listener
	q       *acceptQueue
	f       func(*Conn)
	stopped atomic.Bool
	err     atomic.Pointer[error]
}

// Run implements transport.Runner.
func (a *acceptor) Run() {
	for range acceptBurst {
		if a.stopped.Load() {
			return
		}
		c, err := a.l.takeFrom(a.q)
		if err != nil {
			a.err.Store(&err)
			a.l.acc.wake()
			return
		}
		if c == nil {
			return
		}
		a.f(c)
	}
	a.task.Ready()
}
