package tpanet

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/prefetch"
	"github.com/gotpa/tpa/internal/transport"
)

// A Conn is a TCP connection. Besides net.Conn it has the methods of
// *net.TCPConn that programs look for by type assertion.
type Conn struct {
	ep      transport.Endpoint
	stack   transport.Stack
	network string // as the caller of Dial or Listen named it
	addrs   *endpoints
	since   time.Time // when the connection was established

	rd half
	wr half

	// drained says that the last read emptied the endpoint, and that since then
	// nothing was announced: the next read can park without asking. It is guarded by
	// rd.mu.
	drained bool
	// bulk says that the last read brought much: while the next one waits, what arrives
	// is put right where it belongs. It is guarded by rd.mu.
	bulk bool

	// spliced is how many splices read from the connection. They have the turn of rd
	// while they wait for room in another connection.
	spliced atomic.Int32

	linger atomic.Int64 // SetLinger's, in nanoseconds

	// What was read and written, counted under rd.mu and wr.mu.
	bytesRead, bytesWritten counter.Counter
}

var (
	_ net.Conn       = (*Conn)(nil)
	_ io.ReaderFrom  = (*Conn)(nil)
	_ io.WriterTo    = (*Conn)(nil)
	_ transport.User = user{}
)

// newConn takes over ep and listens to its events. The caller calls start once
// the connection is established.
func newConn(stack transport.Stack, ep transport.Endpoint, network string) *Conn {
	c := &Conn{ep: ep, stack: stack, network: network}
	ep.SetSink(user{c})
	return c
}

// start begins the life of an established connection as package net does: no
// delay, and keep-alive unless it is refused.
func (c *Conn) start(addrs *endpoints, keepAlive net.KeepAliveConfig) {
	c.addrs, c.since = addrs, time.Now()
	c.stack.Established(c.ep, user{c})
	if keepAlive.Enable {
		c.setKeepAliveConfig(keepAlive)
	}
}

// A user is a Conn as TCP sees it.
type user struct{ c *Conn }

// Notify implements transport.Sink: it wakes whom events concern.
func (u user) Notify(e transport.Events) {
	if e&(transport.Readable|transport.Ended) != 0 {
		u.c.rd.wake()
	}
	if e&(transport.Writable|transport.Ended) != 0 {
		u.c.wr.wake()
	}
}

// Prefetch implements transport.Sink.
func (u user) Prefetch(d transport.Distance) {
	if d == transport.Near {
		prefetch.Of(u.c)
		return
	}
	u.c.rd.prefetch()
}

// Bytes implements transport.User.
func (u user) Bytes() (read, written uint64) { return u.c.Bytes() }

// Conn implements transport.User.
func (u user) Conn() net.Conn { return u.c }

// opError is err as package net reports it.
func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.network, Source: &c.addrs.local, Addr: &c.addrs.remote, Err: err}
}

// Close closes the connection. Blocked operations return net.ErrClosed, and have
// done so when Close returns, but for what waits for another connection. Data
// already written is still sent, unless SetLinger says otherwise; data not yet
// read makes the peer see a reset.
func (c *Conn) Close() error {
	if !c.rd.close() {
		return c.opError("close", net.ErrClosed)
	}
	c.wr.close()
	c.stack.Closed(c.ep, user{c})
	c.shutdown()
	if c.spliced.Load() == 0 { // one that comes later finds the half closed
		c.rd.settle()
	}
	c.wr.settle()
	return nil
}

// shutdown closes the endpoint. With SetLinger(n > 0) it waits up to n seconds
// until the peer has acknowledged everything, as Linux does.
func (c *Conn) shutdown() {
	c.ep.Close()
	// The endpoint does not announce the acknowledgement of its FIN.
	for pause, left := time.Millisecond, time.Duration(c.linger.Load()); left > 0 && c.unacknowledged(); pause = min(2*pause, 20*time.Millisecond) {
		pause = min(pause, left)
		co, poller := running()
		switch {
		case poller:
			return
		case co != nil:
			co.sleep(pause)
		default:
			time.Sleep(pause)
		}
		left -= pause
	}
}

// LocalAddr returns the local address, a *net.TCPAddr. It is the same one each
// time and must not be changed.
func (c *Conn) LocalAddr() net.Addr { return &c.addrs.local }

// RemoteAddr returns the peer's address, a *net.TCPAddr. It is the same one each
// time and must not be changed.
func (c *Conn) RemoteAddr() net.Addr { return &c.addrs.remote }

// SetDeadline sets the deadlines of reading and writing.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.rd.setDeadline(t)
	if err == nil {
		err = c.wr.setDeadline(t)
	}
	return c.deadlineError(err)
}

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on, those
// that already wait too. The zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.deadlineError(c.rd.setDeadline(t)) }

// SetWriteDeadline does for writes what SetReadDeadline does for reads. A write
// that fails for its deadline may have sent a part.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.deadlineError(c.wr.setDeadline(t)) }

func (c *Conn) deadlineError(err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: "set", Net: c.network, Addr: &c.addrs.local, Err: err}
}
