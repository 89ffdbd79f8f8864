package tpanet

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// A Listener listens on one port of several shards and merges their accept
// queues.
type Listener struct {
	network   string
	family    family
	addr      *net.TCPAddr
	keepAlive net.KeepAliveConfig
	queues    []*acceptQueue

	acc   half          // the waiting side, which all queues wake
	parts []*Listener   // after Split
	next  atomic.Uint32 // counts looks at the queues, so that each comes first in turn
}

// An acceptQueue is the listening endpoint of one shard.
type acceptQueue struct {
	stack   transport.Stack
	ep      transport.Endpoint
	binding binding
	acc     atomic.Pointer[half] // of the listener, or of the part that has the queue
	// ready says that a connection was announced since the queue was last found
	// empty.
	ready  atomic.Bool
	closed atomic.Bool
	// inPoller is made ready instead of the waker while AcceptFunc serves the queue.
	inPoller atomic.Pointer[transport.Task]

	// queued counts connections that came to wait, accepted those that left.
	queued, accepted atomic.Uint64
}

var (
	_ net.Listener   = (*Listener)(nil)
	_ transport.Sink = (*acceptQueue)(nil)
)

// Prefetch implements transport.Sink.
func (q *acceptQueue) Prefetch(transport.Distance) {}

// Notify implements transport.Sink: a connection waits, or the endpoint ended.
func (q *acceptQueue) Notify(e transport.Events) {
	if e == transport.Readable {
		q.queued.Add(1)
	}
	q.ready.Store(true)
	if t := q.inPoller.Load(); t != nil {
		t.Ready()
		return
	}
	q.acc.Load().waker.Assert()
}

// listenOn is transport.Listen. Split makes it one listener per shard.
func listenOn(stacks []transport.Stack, laddr *net.TCPAddr, network string, opts transport.ListenOptions) (net.Listener, error) {
	if laddr == nil {
		laddr = new(net.TCPAddr)
	}
	l, err := listen(stacks, laddr, network, opts)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: laddr, Err: err}
	}
	return l, nil
}

func listen(stacks []transport.Stack, laddr *net.TCPAddr, network string, opts transport.ListenOptions) (*Listener, error) {
	f := listenFamily(network, laddr)
	addr, err := f.address(laddr)
	if err != nil {
		return nil, err
	}
	if err := zone(stacks[0].Zone()).bind(laddr); err != nil {
		return nil, err
	}
	if opts.Backlog <= 0 {
		opts.Backlog = transport.DefaultBacklog
	}
	for range transport.PortAttempts {
		l := &Listener{network: network, family: f, keepAlive: opts.KeepAlive}
		if err = l.open(stacks, addr, opts.Backlog); err == nil {
			return l, nil
		}
		l.closeQueues()
		if addr.Port() != 0 || len(l.queues) == 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break // another port would not help
		}
	}
	return nil, err
}

// open makes the queues. After an error, those made so far are in l.queues.
func (l *Listener) open(stacks []transport.Stack, addr netip.AddrPort, backlog int) error {
	for _, stack := range stacks {
		q, err := openQueue(stack, &l.acc, l.family, addr, backlog)
		if err != nil {
			return err
		}
		l.queues = append(l.queues, q)
		addr = netip.AddrPortFrom(addr.Addr(), q.binding.port)
	}
	l.addr = l.family.tcpAddr(l.queues[0].ep.LocalAddr(), stacks[0].Zone().Name)
	return nil
}

func openQueue(stack transport.Stack, acc *half, f family, addr netip.AddrPort, backlog int) (*acceptQueue, error) {
	ep, err := stack.Socket(f.ipv6, f.v6Only)
	if err != nil {
		return nil, sysError("socket", err)
	}
	q := &acceptQueue{stack: stack, ep: ep}
	q.acc.Store(acc)
	if err := q.listen(f, addr, backlog); err != nil {
		ep.Close()
		return nil, err
	}
	return q, nil
}

func (q *acceptQueue) listen(f family, addr netip.AddrPort, backlog int) error {
	if err := q.ep.Bind(addr, true); err != nil {
		return sysError("bind", err)
	}
	q.binding = f.binding(q.ep.LocalAddr())
	if err := listening.add(q.stack, q.binding); err != nil {
		return sysError("bind", err)
	}
	q.ep.SetSink(q)
	backlog = q.stack.Listening(q.ep, backlog, q.waiting)
	if err := q.ep.Listen(backlog); err != nil {
		q.stack.NotListening(q.ep)
		listening.remove(q.stack, q.binding)
		return sysError("listen", err)
	}
	return nil
}

func (l *Listener) closeQueues() {
	for _, q := range l.queues {
		if q.closed.Swap(true) {
			continue // by a part of the listener
		}
		q.stack.NotListening(q.ep)
		q.ep.Close()
		listening.remove(q.stack, q.binding) // last: now the port is free
	}
}

// Accept waits for the next connection. Its concrete type is *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
	}
	return c, nil
}

// accept takes no lock while there are connections that wait: those who accept
// meet only at the queue of one shard, and there for a moment.
func (l *Listener) accept() (c *Conn, err error) {
	if err := l.acc.err(); err != nil {
		return nil, err
	}
	if c, err := l.take(); c != nil || err != nil {
		return c, err
	}
	co, poller := running()
	switch {
	case poller:
		return nil, transport.ErrWouldBlock
	case co != nil:
		return l.acceptDetached(co)
	}
	return l.acceptWaiting()
}

// acceptDetached lets other coroutines run meanwhile.
func (l *Listener) acceptDetached(co *coroutine) (c *Conn, err error) {
	co.detach(func() { c, err = l.acceptWaiting() })
	return c, err
}

func (l *Listener) acceptWaiting() (*Conn, error) {
	l.acc.mu.Lock()
	defer l.acc.mu.Unlock()
	for {
		if err := l.acc.err(); err != nil {
			return nil, err
		}
		if c, err := l.take(); c != nil || err != nil {
			return c, err
		}
		l.acc.waitLocked()
	}
}

// take accepts from the next queue that has a connection, nil when none has.
func (l *Listener) take() (*Conn, error) {
	first := uint32(0)
	if len(l.queues) > 1 {
		first = l.next.Add(1)
	}
	for i := range l.queues {
		if c, err := l.takeFrom(l.queues[(int(first)+i)%len(l.queues)]); c != nil || err != nil {
			return c, err
		}
	}
	return nil, nil
}

// takeFrom accepts from one queue, nil when it has no connection.
func (l *Listener) takeFrom(q *acceptQueue) (*Conn, error) {
	if !q.ready.Load() {
		return nil, nil
	}
	ep, err := q.ep.Accept()
	if err == transport.ErrWouldBlock {
		q.ready.Store(false)
		// One that came before that may have been announced before it, too.
		if ep, err = q.ep.Accept(); err == nil {
			q.ready.Store(true)
		} else if err == transport.ErrWouldBlock {
			return nil, nil
		}
	}
	if err != nil {
		if err := l.acc.err(); err != nil {
			return nil, err
		}
		return nil, sysError("accept", err)
	}
	q.accepted.Add(1)
	return l.newConn(q.stack, ep), nil
}

func (l *Listener) newConn(stack transport.Stack, ep transport.Endpoint) *Conn {
	c := newConn(stack, ep, l.network)
	peer, _ := ep.RemoteAddr()
	zone := ""
	if linkLocal(l.addr) || peer.Addr().Is6() && peer.Addr().IsLinkLocalUnicast() {
		zone = stack.Zone().Name
	}
	c.start(l.family.endpoints(ep.LocalAddr(), peer, zone), l.keepAlive)
	return c
}

// Close stops listening and resets the connections that wait for Accept. Blocked
// and later calls of Accept return net.ErrClosed, the blocked ones before Close does.
func (l *Listener) Close() error {
	if !l.acc.close() {
		return &net.OpError{Op: "close", Net: l.network, Addr: l.addr, Err: net.ErrClosed}
	}
	for _, p := range l.parts {
		p.acc.close()
	}
	l.closeQueues()
	for _, p := range l.parts {
		p.acc.settle()
	}
	l.acc.settle()
	return nil
}

// Split returns a listener for each stack. Of l itself only Close, which closes all
// of them, Addr and Stats may be called from then on. Nobody may have called
// Accept.
func (l *Listener) Split() []*Listener {
	for _, q := range l.queues {
		p := &Listener{network: l.network, family: l.family, addr: l.addr, keepAlive: l.keepAlive, queues: []*acceptQueue{q}}
		q.acc.Store(&p.acc)
		l.parts = append(l.parts, p)
	}
	return l.parts
}

// Addr returns the address listened on, a *net.TCPAddr with the port in use. It
// is the same one each time and must not be changed.
func (l *Listener) Addr() net.Addr { return l.addr }

// AcceptStats tell about the accept queue of a listener on one shard.
type AcceptStats struct {
	// Shard is the number of the shard.
	Shard int
	// Accepted counts connections that Accept returned.
	Accepted uint64
	// Waiting is the number of connections that wait for Accept.
	Waiting int
}

// waiting is the number of connections that wait for Accept.
func (q *acceptQueue) waiting() int {
	accepted, queued := q.accepted.Load(), q.queued.Load()
	// Accept may return a connection before the stack has announced it.
	return max(0, int(queued-accepted))
}

// A backlogged endpoint is a listener that knows how many connections wait for Accept,
// those in their handshake among them. internal/tcp's are.
type backlogged interface{ Pending() int }

// pending is transport.Pending.
func pending(nl net.Listener) int {
	n := 0
	for _, q := range nl.(*Listener).queues {
		if l, ok := q.ep.(backlogged); ok {
			n += l.Pending()
		}
	}
	return n
}

// Stats returns the state of each accept queue. It takes no lock.
func (l *Listener) Stats() []AcceptStats {
	stats := make([]AcceptStats, len(l.queues))
	for i, q := range l.queues {
		stats[i] = AcceptStats{Shard: q.stack.Index(), Accepted: q.accepted.Load(), Waiting: q.waiting()}
	}
	return stats
}

// SetDeadline makes Accept fail with os.ErrDeadlineExceeded from t on. The zero
// time means never.
func (l *Listener) SetDeadline(t time.Time) error { return l.acc.setDeadline(t) }
