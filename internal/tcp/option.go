package tcp

import (
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// options are what the program can set of an endpoint. They are guarded by its mu.
type options struct {
	v6Only bool
	// linger is SO_LINGER, -1 for none.
	linger      time.Duration
	keepAliveOn bool
}

// SetNoDelay implements transport.Endpoint.
func (e *Endpoint) SetNoDelay(v bool) {
	e.mu.Lock()
	defer e.unlock()
	if e.nagle = !v; v {
		e.output()
	}
}

// SetLinger implements transport.Endpoint.
func (e *Endpoint) SetLinger(d time.Duration) {
	e.mu.Lock()
	e.linger = d
	e.mu.Unlock()
}

// SetKeepAlive implements transport.Endpoint.
func (e *Endpoint) SetKeepAlive(v bool) {
	e.mu.Lock()
	e.keepAliveOn = v
	e.restartKeepAlive()
	e.mu.Unlock()
}

// TuneKeepAlive implements transport.Endpoint.
func (e *Endpoint) TuneKeepAlive(idle, interval time.Duration, count int) {
	e.mu.Lock()
	if idle > 0 {
		e.keepAliveIdle = idle
	}
	if interval > 0 {
		e.keepAliveInterval = interval
	}
	if count > 0 {
		e.keepAliveCount = count
	}
	e.restartKeepAlive()
	e.mu.Unlock()
}

// SetUserTimeout implements transport.Endpoint.
func (e *Endpoint) SetUserTimeout(d time.Duration) {
	e.mu.Lock()
	e.userTimeout = max(d, 0)
	e.schedule()
	e.mu.Unlock()
}

// SetReadBuffer implements transport.Endpoint.
func (e *Endpoint) SetReadBuffer(n int) {
	limits := e.p.options().receive
	e.mu.Lock()
	e.moderate = false
	e.receiveSize = min(max(n, limits.Min), limits.Max)
	e.mu.Unlock()
}

// SetWriteBuffer implements transport.Endpoint.
func (e *Endpoint) SetWriteBuffer(n int) {
	limits := e.p.options().send
	e.mu.Lock()
	defer e.unlock()
	e.tuned = false
	e.sendSize = min(max(n, limits.Min), limits.Max)
	e.events |= transport.Writable
}

// Buffers returns the sizes of the buffers in bytes.
func (e *Endpoint) Buffers() (receive, send int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.receiveSize, e.sendSize
}

// SetBuffers changes the sizes of the buffers. Their tuning goes on.
func (e *Endpoint) SetBuffers(receive, send int) {
	e.mu.Lock()
	defer e.unlock()
	if send > e.sendSize {
		e.events |= transport.Writable
	}
	e.receiveSize, e.sendSize = receive, send
}

// Info implements transport.Endpoint.
func (e *Endpoint) Info() transport.Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := transport.Info{
		State: e.current(), ReceiveQueue: e.in.len(), SendQueue: e.out.len(),
		RTT: e.srtt, RTTVar: e.rttvar, RTO: e.rto,
		Retransmits: e.retransmits, FastRetransmits: e.fastRetransmits, Timeouts: e.timeouts.Value(),
	}
	if e.mss > 0 {
		i.CongestionWindow = uint32(e.window / e.mss)
		i.SlowStartThreshold = uint32(min(e.threshold, 1<<30) / e.mss)
	}
	return i
}
