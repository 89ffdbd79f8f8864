package tpanet

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/sleep"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DefaultBacklog is how many connections wait for Accept on each shard unless
// ListenOptions says otherwise: the limit that Linux has by default.
const DefaultBacklog = 4096

// ListenOptions are what a listener needs besides its address.
type ListenOptions struct {
	// Backlog is how many established connections may wait for Accept on each
	// shard, 1 to 65535. Default: DefaultBacklog.
	Backlog int
	// KeepAlive is the keep-alive of accepted connections. The zero value turns it
	// off; package net's default is Enable alone.
	KeepAlive net.KeepAliveConfig
}

// A Listener listens on one port of several shards and merges their accept
// queues.
type Listener struct {
	network   string
	family    family
	addr      *net.TCPAddr
	keepAlive net.KeepAliveConfig
	queues    []*acceptQueue

	// acc is the waiting side: its sleeper has the wakers of all queues besides
	// its own.
	acc   half
	parts []*Listener   // after Split
	next  atomic.Uint32 // counts looks at the queues, so that each comes first in turn
}

// An acceptQueue is the listening endpoint of one shard.
type acceptQueue struct {
	stack   Stack
	ep      Endpoint
	queue   *waiter.Queue
	binding binding
	entry   waiter.Entry
	waker   sleep.Waker
	// ready says that a connection was announced since the queue was last found
	// empty.
	ready  atomic.Bool
	closed atomic.Bool

	// queued counts connections that came to wait, accepted those that left.
	queued, accepted atomic.Uint64
}

var (
	_ net.Listener         = (*Listener)(nil)
	_ waiter.EventListener = (*acceptQueue)(nil)
)

// NotifyEvent says that a connection waits, once for each, or that the endpoint
// ended. The stack calls it with its locks held.
func (q *acceptQueue) NotifyEvent(mask waiter.EventMask) {
	if mask == waiter.ReadableEvents {
		q.queued.Add(1)
	}
	q.ready.Store(true)
	q.waker.Assert()
}

// Listen listens on laddr on every stack, of which there is at least one: at the
// same port on all of them, which is chosen when laddr's is 0. laddr may be nil.
// network is "tcp", which on no or an unspecified address serves IPv4 and IPv6,
// "tcp4" or "tcp6". Errors are those of package net. Split makes it
// one listener per shard.
func Listen(stacks []Stack, laddr *net.TCPAddr, network string, opts ListenOptions) (*Listener, error) {
	if laddr == nil {
		laddr = new(net.TCPAddr)
	}
	l, err := listen(stacks, laddr, network, opts)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: laddr, Err: err}
	}
	return l, nil
}

// portAttempts is how often an automatically chosen port may turn out to be in
// use on another shard before listening gives up.
const portAttempts = 16

func listen(stacks []Stack, laddr *net.TCPAddr, network string, opts ListenOptions) (*Listener, error) {
	f := listenFamily(network, laddr)
	addr, err := f.address(laddr)
	if err != nil {
		return nil, err
	}
	if err := stacks[0].Zone().bind(laddr); err != nil {
		return nil, err
	}
	if opts.Backlog <= 0 {
		opts.Backlog = DefaultBacklog
	}
	for range portAttempts {
		l := &Listener{network: network, family: f, keepAlive: opts.KeepAlive}
		l.acc.init()
		if err = l.open(stacks, addr, opts.Backlog); err == nil {
			return l, nil
		}
		l.closeQueues()
		if addr.Port != 0 || len(l.queues) == 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break // another port would not help
		}
	}
	return nil, err
}

// open makes the queues. After an error, those made so far are in l.queues.
func (l *Listener) open(stacks []Stack, addr tcpip.FullAddress, backlog int) error {
	for _, stack := range stacks {
		q, err := openQueue(stack, l.family, addr, backlog)
		if err != nil {
			return err
		}
		l.queues = append(l.queues, q)
		l.acc.sleeper.AddWaker(&q.waker)
		addr.Port = q.binding.port
	}
	addr, _ = l.queues[0].ep.GetLocalAddress()
	l.addr = l.family.tcpAddr(addr, stacks[0].Zone().Name)
	return nil
}

func openQueue(stack Stack, f family, addr tcpip.FullAddress, backlog int) (*acceptQueue, error) {
	ep, queue, terr := stack.Socket(f.ipv6)
	if terr != nil {
		return nil, sysError("socket", terr)
	}
	q := &acceptQueue{stack: stack, ep: ep, queue: queue}
	if err := q.listen(f, addr, backlog); err != nil {
		ep.Close()
		return nil, err
	}
	return q, nil
}

func (q *acceptQueue) listen(f family, addr tcpip.FullAddress, backlog int) error {
	opts := q.ep.SocketOptions()
	if f.ipv6 {
		opts.SetV6Only(f.v6Only)
	}
	opts.SetReuseAddress(true)
	if terr := q.ep.Bind(addr); terr != nil {
		return sysError("bind", terr)
	}
	local, terr := q.ep.GetLocalAddress()
	if terr != nil {
		return sysError("getsockname", terr)
	}
	q.binding = f.binding(local)
	if terr := listening.add(q.stack, q.binding); terr != nil {
		return sysError("bind", terr)
	}
	q.entry.Init(q, waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr)
	q.queue.EventRegister(&q.entry)
	backlog = q.stack.Listening(q.ep, backlog, q.waiting)
	if terr := q.ep.Listen(backlog); terr != nil {
		q.stack.NotListening(q.ep)
		listening.remove(q.stack, q.binding)
		return sysError("listen", terr)
	}
	return nil
}

func (l *Listener) closeQueues() {
	for _, q := range l.queues {
		if q.closed.Swap(true) {
			continue // by a part of the listener
		}
		q.queue.EventUnregister(&q.entry)
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
func (l *Listener) accept() (*Conn, error) {
	if err := l.acc.err(); err != nil {
		return nil, err
	}
	if c, err := l.take(); c != nil || err != nil {
		return c, err
	}
	l.acc.mu.Lock()
	defer l.acc.mu.Unlock()
	for {
		if err := l.acc.err(); err != nil {
			return nil, err
		}
		if c, err := l.take(); c != nil || err != nil {
			return c, err
		}
		l.acc.sleeper.Fetch(true)
	}
}

// take accepts from the next queue that has a connection, nil when none has.
func (l *Listener) take() (*Conn, error) {
	first := uint32(0)
	if len(l.queues) > 1 {
		first = l.next.Add(1)
	}
	for i := range l.queues {
		q := l.queues[(int(first)+i)%len(l.queues)]
		if !q.ready.Load() {
			continue
		}
		var peer tcpip.FullAddress
		ep, queue, terr := q.ep.Accept(&peer)
		if _, empty := terr.(*tcpip.ErrWouldBlock); empty {
			q.ready.Store(false)
			// One that came before that may have been announced before it, too.
			if ep, queue, terr = q.ep.Accept(&peer); terr == nil {
				q.ready.Store(true)
			} else if _, empty := terr.(*tcpip.ErrWouldBlock); empty {
				continue
			}
		}
		if terr != nil {
			if err := l.acc.err(); err != nil {
				return nil, err
			}
			return nil, sysError("accept", terr)
		}
		q.accepted.Add(1)
		return l.newConn(q.stack, ep, queue, peer), nil
	}
	return nil, nil
}

func (l *Listener) newConn(stack Stack, ep Endpoint, queue *waiter.Queue, peer tcpip.FullAddress) *Conn {
	c := newConn(stack, ep, queue, l.network)
	local, _ := ep.GetLocalAddress()
	zone := ""
	if linkLocal(l.addr) || header.IsV6LinkLocalUnicastAddress(peer.Addr) {
		zone = stack.Zone().Name
	}
	c.start(l.family.endpoints(local, peer, zone), l.keepAlive)
	return c
}

// Close stops listening and resets the connections that wait for Accept. Blocked
// and later calls of Accept return net.ErrClosed.
func (l *Listener) Close() error {
	if !l.acc.close() {
		return &net.OpError{Op: "close", Net: l.network, Addr: l.addr, Err: net.ErrClosed}
	}
	for _, p := range l.parts {
		p.acc.close()
	}
	l.closeQueues()
	return nil
}

// Split returns a listener for each stack. Of l itself only Close, which closes all
// of them, Addr and Stats may be called from then on. Nobody may have called
// Accept.
func (l *Listener) Split() []*Listener {
	l.acc.sleeper.Done()
	for _, q := range l.queues {
		p := &Listener{network: l.network, family: l.family, addr: l.addr, keepAlive: l.keepAlive, queues: []*acceptQueue{q}}
		p.acc.init()
		p.acc.sleeper.AddWaker(&q.waker)
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
