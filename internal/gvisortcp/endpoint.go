package gvisortcp

import (
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// An endpoint is one of gVisor's TCP as package net has it.
type endpoint struct {
	ep     *tcp.Endpoint
	queue  *waiter.Queue
	engine *Engine
	entry  waiter.Entry
	sink   transport.Sink
	peer   netip.AddrPort // of a connection that was accepted
	trace  *trace         // nil: not recorded

	// Of who reads, whoever has his turn.
	dst    tcpip.SliceWriter
	copied int // bytes read since gVisor last tuned its receive buffer

	// Of who writes.
	src     payload
	written atomic.Uint64
}

var (
	_ transport.Endpoint   = (*endpoint)(nil)
	_ waiter.EventListener = (*endpoint)(nil)
)

// SetSink implements transport.Endpoint.
func (e *endpoint) SetSink(s transport.Sink) {
	e.sink = s
	e.entry.Init(e, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr|waiter.EventRdHUp)
	e.queue.EventRegister(&e.entry)
}

// NotifyEvent implements waiter.EventListener. gVisor calls it with its locks held.
func (e *endpoint) NotifyEvent(mask waiter.EventMask) {
	var events transport.Events
	if mask&(waiter.ReadableEvents|waiter.EventRdHUp) != 0 {
		events |= transport.Readable
	}
	if mask&waiter.WritableEvents != 0 {
		events |= transport.Writable
	}
	if mask&(waiter.EventHUp|waiter.EventErr) != 0 {
		events |= transport.Ended
	}
	e.sink.Notify(events)
}

// Bind implements transport.Endpoint.
func (e *endpoint) Bind(local netip.AddrPort, shared bool) error {
	if shared {
		e.ep.SocketOptions().SetReuseAddress(true)
	}
	return netstack.Error(e.ep.Bind(netstack.FullAddress(local)))
}

// Connect implements transport.Endpoint.
func (e *endpoint) Connect(remote netip.AddrPort) error {
	err := e.ep.Connect(netstack.FullAddress(remote))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		return nil
	}
	return netstack.Error(err)
}

// Listen implements transport.Endpoint.
func (e *endpoint) Listen(backlog int) error {
	e.engine.listeners.Store(e.ep, e)
	err := e.ep.Listen(backlog)
	if err != nil {
		e.engine.listeners.Delete(e.ep)
	}
	return netstack.Error(err)
}

// Accept implements transport.Endpoint.
func (e *endpoint) Accept() (transport.Endpoint, error) {
	var peer tcpip.FullAddress
	ep, queue, err := e.ep.Accept(&peer)
	if err != nil {
		return nil, netstack.Error(err)
	}
	return &endpoint{ep: ep.(*tcp.Endpoint), queue: queue, engine: e.engine, peer: netstack.AddrPort(peer.Addr, peer.Port)}, nil
}

// moderateEvery is after how many bytes read gVisor is asked to tune its receive
// buffer. Asking costs a lock and a clock; it matters to bulk transfers, which pass
// 32 KB many times per round trip.
const moderateEvery = 32 << 10

// Read implements transport.Endpoint.
func (e *endpoint) Read(b []byte) (n int, more bool, err error) {
	e.dst = b
	res, terr := e.ep.Read(&e.dst, tcpip.ReadOptions{})
	e.dst = nil
	n = res.Count
	if n == 0 {
		if _, ok := terr.(*tcpip.ErrBadBuffer); ok && len(b) == 0 {
			return 0, true, nil // there is something after all
		}
		return 0, false, netstack.Error(terr)
	}
	if e.trace != nil {
		e.trace.Read(n)
	}
	if e.copied += n; e.copied >= moderateEvery {
		e.ep.ModerateRecvBuf(e.copied)
		e.copied = 0
	}
	// A short read leaves no data behind, but perhaps the end.
	return n, n == len(b) || e.ep.Readiness(waiter.ReadableEvents) != 0, nil
}

// Post implements transport.Endpoint: gVisor has no such way.
func (e *endpoint) Post([]byte) {}

// Withdraw implements transport.Endpoint.
func (e *endpoint) Withdraw() int { return 0 }

// chunk is memory for what is lent and drafted: copies, for gVisor locks the
// connection while its own memory is looked at.
type chunk struct {
	b    [32 << 10]byte
	n    int // lent
	sent int // of a draft
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// Bytes implements transport.Loan.
func (c *chunk) Bytes() []byte { return c.b[:c.n] }

// Space implements transport.Draft.
func (c *chunk) Space() []byte { return c.b[:] }

// Return implements transport.Loan and transport.Draft.
func (c *chunk) Return() {
	c.n, c.sent = 0, 0
	chunks.Put(c)
}

// Lend implements transport.Endpoint.
func (e *endpoint) Lend() (transport.Loan, error) {
	c := chunks.Get().(*chunk)
	n, _, err := e.Read(c.b[:])
	if err != nil {
		c.Return()
		return nil, err
	}
	c.n = n
	return c, nil
}

// payload hands buffers to gVisor as one.
type payload struct {
	bufs [][]byte
	one  [1][]byte
	left int
}

// maxPayload is the most that one call hands over, in bytes. gVisor copies under
// its lock, and 64 KB is the largest piece it keeps in one buffer and the largest a
// device cuts into segments.
const maxPayload = 64 << 10

// Len implements tcpip.Payloader.
func (p *payload) Len() int { return min(p.left, maxPayload) }

// Read implements tcpip.Payloader.
func (p *payload) Read(b []byte) (n int, err error) {
	for n < len(b) && len(p.bufs) > 0 {
		k := copy(b[n:], p.bufs[0])
		n += k
		if p.bufs[0] = p.bufs[0][k:]; len(p.bufs[0]) == 0 {
			p.bufs = p.bufs[1:]
		}
	}
	p.left -= n
	return n, nil
}

// Write implements transport.Endpoint.
func (e *endpoint) Write(b []byte) (int, error) {
	e.src.one[0] = b
	e.src.bufs, e.src.left = e.src.one[:], len(b)
	return e.write()
}

// Writev implements transport.Endpoint.
func (e *endpoint) Writev(bufs [][]byte) (int, error) {
	e.src.bufs, e.src.left = append([][]byte(nil), bufs...), 0
	for _, b := range bufs {
		e.src.left += len(b)
	}
	return e.write()
}

func (e *endpoint) write() (int, error) {
	n, err := e.ep.Write(&e.src, tcpip.WriteOptions{Atomic: true})
	e.src = payload{}
	e.written.Add(uint64(n))
	if e.trace != nil && n > 0 {
		e.trace.Write(int(n))
	}
	return int(n), netstack.Error(err)
}

// Draft implements transport.Endpoint.
func (e *endpoint) Draft() transport.Draft { return chunks.Get().(*chunk) }

// WriteDraft implements transport.Endpoint.
func (e *endpoint) WriteDraft(d transport.Draft, n int) error {
	c := d.(*chunk)
	for c.sent < n {
		k, err := e.Write(c.b[c.sent:n])
		c.sent += k
		if err != nil {
			return err
		}
	}
	c.Return()
	return nil
}

// CloseWrite implements transport.Endpoint.
func (e *endpoint) CloseWrite() error { return netstack.Error(e.ep.Shutdown(tcpip.ShutdownWrite)) }

// Close implements transport.Endpoint.
func (e *endpoint) Close() {
	e.forget()
	e.ep.Close()
}

// Abort implements transport.Endpoint.
func (e *endpoint) Abort() {
	e.forget()
	e.ep.Abort()
}

func (e *endpoint) forget() {
	if e.sink != nil {
		e.queue.EventUnregister(&e.entry)
	}
	e.engine.listeners.Delete(e.ep)
}

// LocalAddr implements transport.Endpoint.
func (e *endpoint) LocalAddr() netip.AddrPort {
	a, _ := e.ep.GetLocalAddress()
	return netstack.AddrPort(a.Addr, a.Port)
}

// RemoteAddr implements transport.Endpoint.
func (e *endpoint) RemoteAddr() (netip.AddrPort, bool) {
	a, err := e.ep.GetRemoteAddress()
	if err != nil {
		return e.peer, false
	}
	return netstack.AddrPort(a.Addr, a.Port), true
}

// LastError implements transport.Endpoint.
func (e *endpoint) LastError() error {
	err := netstack.Error(e.ep.LastError())
	if err == io.EOF || err == transport.ErrWouldBlock {
		return nil
	}
	return err
}

// State implements transport.Endpoint.
func (e *endpoint) State() transport.State { return transport.State(e.ep.EndpointState()) }

// Info implements transport.Endpoint.
func (e *endpoint) Info() transport.Info {
	var o tcpip.TCPInfoOption
	e.ep.GetSockOpt(&o) // cannot fail for this option
	i := transport.Info{
		State: transport.State(o.State), SendQueue: -1,
		RTT: o.RTT, RTTVar: o.RTTVar, RTO: o.RTO,
		CongestionWindow: o.SndCwnd, SlowStartThreshold: o.SndSsthresh,
	}
	i.ReceiveQueue, _ = e.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption) // 0 after the end
	if e.trace != nil {
		i.SendQueue = e.trace.sendQueue(e.written.Load())
	}
	if stats, ok := e.ep.Stats().(*tcp.Stats); ok {
		i.Retransmits = stats.SendErrors.Retransmits.Value()
		i.FastRetransmits = stats.SendErrors.FastRetransmit.Value()
		i.Timeouts = stats.SendErrors.Timeouts.Value()
	}
	return i
}

// SetNoDelay implements transport.Endpoint.
func (e *endpoint) SetNoDelay(v bool) { e.ep.SocketOptions().SetDelayOption(!v) }

// SetLinger implements transport.Endpoint.
func (e *endpoint) SetLinger(d time.Duration) {
	e.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: d >= 0, Timeout: max(d, 0)})
}

// SetKeepAlive implements transport.Endpoint.
func (e *endpoint) SetKeepAlive(v bool) { e.ep.SocketOptions().SetKeepAlive(v) }

// TuneKeepAlive implements transport.Endpoint. These options cannot fail.
func (e *endpoint) TuneKeepAlive(idle, interval time.Duration, count int) {
	if idle > 0 {
		o := tcpip.KeepaliveIdleOption(idle)
		e.ep.SetSockOpt(&o)
	}
	if interval > 0 {
		o := tcpip.KeepaliveIntervalOption(interval)
		e.ep.SetSockOpt(&o)
	}
	if count > 0 {
		e.ep.SetSockOptInt(tcpip.KeepaliveCountOption, count)
	}
}

// SetUserTimeout implements transport.Endpoint. The option cannot fail.
func (e *endpoint) SetUserTimeout(d time.Duration) {
	o := tcpip.TCPUserTimeoutOption(d)
	e.ep.SetSockOpt(&o)
}

// SetReadBuffer implements transport.Endpoint.
func (e *endpoint) SetReadBuffer(n int) { e.ep.SocketOptions().SetReceiveBufferSize(int64(n), true) }

// SetWriteBuffer implements transport.Endpoint.
func (e *endpoint) SetWriteBuffer(n int) { e.ep.SocketOptions().SetSendBufferSize(int64(n), true) }
