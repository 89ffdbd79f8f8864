package tpanet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// ErrWouldBlock is what operations return that would have to wait and must not:
// TryRead, TryWrite, and all others that callbacks call in a poller.
var ErrWouldBlock = transport.ErrWouldBlock

// Callbacks are what a connection's poller calls: one at a time, and none that
// waits. See Conn.Handle.
type Callbacks interface {
	// Data is called when something came: data, the peer's end, an error, a
	// deadline, a call of Wake, or room to write after TryWrite found none. There may
	// be nothing, too. What it leaves unread it is not told of again until more comes.
	Data()
	// Closed is called once, last, some time after Close.
	Closed()
}

// A CallbackConn is a connection with Callbacks. Those use TryRead and TryWrite;
// Read and Write, which wait, are for goroutines: in a callback they return
// ErrWouldBlock instead of waiting. Any goroutine may call any method but Detach at
// any time.
type CallbackConn struct {
	net.Conn
	callbacks Callbacks

	// Of a connection in a poller.
	conn *Conn
	task transport.Task
	// open makes callbacks, until it has.
	open func(*CallbackConn) Callbacks
	left bool // it is no longer the poller's
	done func()

	// Of one that has a goroutine.
	threaded *threaded
}

// Handle has the connection call callbacks, in the poller of its shard: open is
// called first, and returns them. Nobody has to be woken for a request then, and a
// connection that waits needs no stack. As with Conn.Go, callbacks must not wait,
// and what takes long is for CallbackConn.Detach. The connection is closed when
// somebody calls Close.
func (c *Conn) Handle(open func(*CallbackConn) Callbacks) { handle(c, open, func() {}) }

// handle is HandleConn. done is called when the callbacks have ended.
func handle(conn net.Conn, open func(*CallbackConn) Callbacks, done func()) {
	c, ok := conn.(*Conn)
	if !ok || !c.stack.RunQueue().Join(transport.Callback) {
		t := &threaded{conn: conn}
		t.changed.L = &t.mu
		go func() {
			defer done()
			t.run(&CallbackConn{Conn: t, threaded: t}, open)
		}()
		return
	}
	started.Store(true)
	q := c.stack.RunQueue()
	e := &CallbackConn{Conn: c, conn: c, open: open, done: done}
	e.task.Init(q, e, nameOf(open))
	c.rd.callbacks.Store(&e.task)
	c.wr.callbacks.Store(&e.task)
	e.task.Ready() // for what came before
}

// Run implements transport.Runner.
func (e *CallbackConn) Run() {
	if e.left {
		return
	}
	if open := e.open; open != nil {
		e.open = nil
		if e.callbacks = open(e); e.left {
			return
		}
		e.conn.rd.waiter.SetObject(e.callbacks)
	}
	if e.conn.rd.state.Load()&closed == 0 {
		e.callbacks.Data()
		return
	}
	e.leave()
	e.callbacks.Closed()
	e.done()
}

// leave ends the callbacks.
func (e *CallbackConn) leave() {
	e.left = true
	e.conn.rd.callbacks.Store(nil)
	e.conn.wr.callbacks.Store(nil)
	e.task.Queue().Leave(transport.Callback)
}

// TryRead reads up to len(b) bytes without waiting. It returns ErrWouldBlock when
// there are none, and io.EOF after the peer's last. When n is less than len(b) there
// are no more at the moment: Data will be called.
func (e *CallbackConn) TryRead(b []byte) (int, error) {
	if e.threaded != nil {
		return e.threaded.tryRead(b)
	}
	c := e.conn
	if !c.rd.mu.TryLock() {
		e.task.Ready() // some goroutine reads: look again
		return 0, ErrWouldBlock
	}
	n, err := c.tryReadLocked(b)
	c.rd.mu.Unlock()
	switch err {
	case nil:
		return n, nil
	case errMore:
		if n < len(b) {
			e.task.Ready()
		}
		return n, nil
	case ErrWouldBlock, io.EOF:
		return 0, err
	}
	return 0, c.opError("read", err)
}

// errMore says that tryReadLocked left something.
var errMore = errors.New("there is more")

func (c *Conn) tryReadLocked(b []byte) (int, error) {
	if err := c.rd.err(); err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, nil
	}
	c.drained = false
	n, more, err := c.ep.Read(b)
	if n > 0 {
		c.rd.memory.Set(&b[0])
		c.bytesRead.Add(uint64(n))
		if more {
			err = errMore
		}
		return n, err
	}
	if err == transport.ErrWouldBlock && c.rd.state.Load()&shut == 0 {
		return 0, err
	}
	return 0, c.readErrorLocked(err)
}

// TryWrite writes what there is room for, without waiting, and returns
// ErrWouldBlock where that is less than b: Data will be called when there is room
// again. A kernel connection, which has a goroutine, waits instead.
func (e *CallbackConn) TryWrite(b []byte) (int, error) {
	if e.threaded != nil {
		return e.Conn.Write(b)
	}
	c := e.conn
	if !c.wr.mu.TryLock() {
		e.task.Ready() // some goroutine writes: look again
		return 0, ErrWouldBlock
	}
	n, err := c.tryWriteLocked(b)
	c.wr.mu.Unlock()
	if err != nil && err != ErrWouldBlock {
		err = c.opError("write", err)
	}
	return n, err
}

func (c *Conn) tryWriteLocked(b []byte) (n int, err error) {
	if err := c.wr.err(); err != nil {
		return 0, err
	}
	for n < len(b) && err == nil {
		var k int
		k, err = c.ep.Write(b[n:])
		n += k
	}
	c.bytesWritten.Add(uint64(n))
	if err != nil && err != transport.ErrWouldBlock {
		err = c.writeErrorLocked(err)
	}
	return n, err
}

// Wake has Data called soon: for what callbacks left, or for something that another
// goroutine has for them.
func (e *CallbackConn) Wake() {
	if e.threaded != nil {
		e.threaded.wake()
		return
	}
	e.task.Ready()
}

// Detach ends the callbacks, without a call of Closed, and runs f with the
// connection in a goroutine. Only a callback of the connection may call it.
func (e *CallbackConn) Detach(f func(net.Conn)) {
	if e.threaded != nil {
		e.threaded.detach(f)
		return
	}
	if e.left {
		return
	}
	q := e.task.Queue()
	e.leave()
	done := q.Detached()
	go func() {
		defer e.done()
		defer done()
		f(e.conn)
	}()
}

// HandleConn is Conn.Handle for any connection: one that is not of a TCP of ours has
// a goroutine that waits for data and calls the callbacks, with the same outcomes.
// There TryWrite waits for room.
func HandleConn(c net.Conn, open func(*CallbackConn) Callbacks) { handle(c, open, func() {}) }

// threadedBuffer is how much a goroutine reads before it calls Data, in bytes.
const threadedBuffer = 64 << 10

// threaded is a CallbackConn with a goroutine. It is also the net.Conn that its
// callbacks see.
type threaded struct {
	conn      net.Conn
	callbacks Callbacks

	// called is held while a callback runs.
	called sync.Mutex

	// mu guards the following fields.
	mu      sync.Mutex
	changed sync.Cond
	in      []byte // what was read and not taken
	err     error  // what ended reading, until it is read again
	// deadline is the one of reading.
	deadline time.Time
	closed   bool
	detached func(net.Conn)
	woken    bool
}

// run is the goroutine.
func (t *threaded) run(e *CallbackConn, open func(*CallbackConn) Callbacks) {
	t.called.Lock()
	t.callbacks = open(e)
	t.called.Unlock()
	b := make([]byte, threadedBuffer)
	for {
		t.mu.Lock()
		for !t.closed && t.detached == nil && (len(t.in) > 0 || t.err != nil) {
			t.changed.Wait()
		}
		end, f := t.closed, t.detached
		t.mu.Unlock()
		if f != nil {
			f(t.rest())
			return
		}
		if end {
			t.called.Lock()
			t.callbacks.Closed()
			t.called.Unlock()
			return
		}
		n, err := t.conn.Read(b)
		t.mu.Lock()
		t.in, t.err = b[:n], err
		// Somebody closed the connection below.
		t.closed = t.closed || errors.Is(err, net.ErrClosed)
		skip := t.closed || t.detached != nil
		t.mu.Unlock()
		if !skip {
			t.data()
		}
	}
}

// data calls Data.
func (t *threaded) data() {
	t.called.Lock()
	defer t.called.Unlock()
	t.mu.Lock()
	skip := t.closed || t.detached != nil
	t.mu.Unlock()
	if !skip {
		t.callbacks.Data()
	}
}

func (t *threaded) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.woken {
		return
	}
	t.woken = true
	go func() {
		t.mu.Lock()
		t.woken = false
		t.mu.Unlock()
		t.data()
	}()
}

func (t *threaded) tryRead(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return t.conn.Read(b) // its error
	case len(t.in) > 0:
		n := copy(b, t.in)
		if t.in = t.in[n:]; len(t.in) == 0 {
			t.changed.Signal()
		}
		return n, nil
	case t.err != nil:
		return 0, t.err
	}
	return 0, ErrWouldBlock
}

func (t *threaded) detach(f func(net.Conn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.detached != nil || t.closed {
		return
	}
	t.detached = f
	t.conn.SetReadDeadline(time.Unix(1, 0)) // the goroutine may be reading
	t.changed.Signal()
}

// rest is the connection for who it was detached for: with what was read already.
func (t *threaded) rest() net.Conn {
	t.conn.SetReadDeadline(t.deadline)
	if len(t.in) == 0 {
		return t.conn
	}
	return &restConn{Conn: t.conn, rest: t.in}
}

// The following methods are those of net.Conn.

func (t *threaded) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.changed.Signal()
	return t.conn.Close()
}

func (t *threaded) SetDeadline(d time.Time) error {
	return errors.Join(t.SetReadDeadline(d), t.conn.SetWriteDeadline(d))
}

func (t *threaded) SetReadDeadline(d time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.detached != nil {
		return t.conn.SetReadDeadline(d)
	}
	t.deadline = d
	if errors.Is(t.err, os.ErrDeadlineExceeded) {
		t.err = nil
		t.changed.Signal()
	}
	return t.conn.SetReadDeadline(d)
}

// Read is for goroutines, as with a connection in a poller: it takes turns with the
// one that reads for Data.
func (t *threaded) Read(b []byte) (int, error)         { return t.conn.Read(b) }
func (t *threaded) Write(b []byte) (int, error)        { return t.conn.Write(b) }
func (t *threaded) LocalAddr() net.Addr                { return t.conn.LocalAddr() }
func (t *threaded) RemoteAddr() net.Addr               { return t.conn.RemoteAddr() }
func (t *threaded) SetWriteDeadline(d time.Time) error { return t.conn.SetWriteDeadline(d) }

// NetConn returns the connection below.
func (t *threaded) NetConn() net.Conn { return t.conn }

// A restConn is a connection of which a part was read.
type restConn struct {
	net.Conn
	mu   sync.Mutex
	rest []byte
}

func (c *restConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if len(c.rest) > 0 {
		n := copy(b, c.rest)
		c.rest = c.rest[n:]
		c.mu.Unlock()
		return n, nil
	}
	c.mu.Unlock()
	return c.Conn.Read(b)
}

// NetConn returns the connection below.
func (c *restConn) NetConn() net.Conn { return c.Conn }
