package shard

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/histogram"
	"github.com/gotpa/tpa/internal/recorder"
	tpanet "github.com/gotpa/tpa/net"
)

// ConnStats tell about a shard's connections since it was made.
type ConnStats struct {
	// ReadBytes and WrittenBytes are what programs read from and wrote to all
	// connections.
	ReadBytes, WrittenBytes uint64
	// RTT counts smoothed round-trip times: that of each connection when it is
	// closed, and those that SampleRTT took.
	RTT histogram.Snapshot
}

// connCounters hold what closed connections leave behind.
type connCounters struct {
	read, written atomic.Uint64
	rtt           histogram.Histogram

	// mu guards what connStats returned last.
	mu                    sync.Mutex
	lastRead, lastWritten uint64
}

func (c *connCounters) closed(conn *tpanet.Conn) {
	if conn == nil {
		return
	}
	info := conn.Info()
	c.read.Add(info.BytesRead)
	c.written.Add(info.BytesWritten)
	if info.RTT > 0 {
		c.rtt.Observe(info.RTT)
	}
}

// Conns yields the established connections. It takes no lock: of those that
// come and go meanwhile it may miss some.
func (s *Shard) Conns() iter.Seq[*tpanet.Conn] {
	return func(yield func(*tpanet.Conn) bool) {
		for _, f := range s.flows.All() {
			if f.conn != nil && !yield(f.conn) {
				return
			}
		}
	}
}

// connStats sums up the connections. Counting bytes where they are read and
// written, in one place for all connections, would make processors fight for it.
func (s *Shard) connStats() ConnStats {
	c := &s.conns
	read, written := c.read.Load(), c.written.Load()
	for conn := range s.Conns() {
		r, w := conn.Bytes()
		read += r
		written += w
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A connection that was closed meanwhile is in neither sum.
	c.lastRead, c.lastWritten = max(c.lastRead, read), max(c.lastWritten, written)
	return ConnStats{ReadBytes: c.lastRead, WrittenBytes: c.lastWritten, RTT: c.rtt.Snapshot()}
}

// SampleRTT counts the round-trip times of up to limit connections, spread over
// all. It locks each of them for a moment.
func (s *Shard) SampleRTT(limit int) {
	stride := s.flows.Len()/limit + 1
	skip := rand.N(stride)
	for conn := range s.Conns() {
		if skip--; skip >= 0 {
			continue
		}
		skip = stride - 1
		if rtt := conn.Info().RTT; rtt > 0 {
			s.conns.rtt.Observe(rtt)
		}
	}
}

// openTrace starts to record a connection, where the recorder has room.
func (s *Shard) openTrace(id stack.TransportEndpointID, ep *recorder.Endpoint) *recorder.Trace {
	addr := func(a tcpip.Address, port uint16) netip.AddrPort {
		ip, _ := netip.AddrFromSlice(a.AsSlice())
		return netip.AddrPortFrom(ip, port)
	}
	return s.recorder.Open(s.clock, s.index, addr(id.LocalAddress, id.LocalPort), addr(id.RemoteAddress, id.RemotePort), ep)
}

// record tells a connection what records it. Our own TCP records itself since the
// handshake; gVisor's is recorded from here on.
func (s *Shard) record(ep tpanet.Endpoint, c *tpanet.Conn, f *established) {
	if s.recorder == nil || c == nil {
		return
	}
	if f.own != nil {
		c.SetTrace(f.own.Trace())
		return
	}
	var known *recorder.Endpoint
	if e, ok := ep.(interface {
		State() uint32
		Stats() tcpip.EndpointStats
	}); ok {
		if stats, ok := e.Stats().(*tcp.Stats); ok {
			known = &recorder.Endpoint{State: e.State, Timeouts: &stats.SendErrors.Timeouts}
		}
	}
	t := s.openTrace(f.id, known)
	if t == nil {
		return
	}
	f.trace = (*recorder.Shared)(t)
	c.SetTrace(t)
	c.RecordIn(f.trace)
	// The endpoint marks its packets with their owner, by which the way out finds
	// the trace. It may be sending already.
	if e, ok := ep.(interface {
		LockUser()
		UnlockUser()
		SetOwner(tcpip.PacketOwner)
	}); ok {
		e.LockUser()
		e.SetOwner(f.trace)
		e.UnlockUser()
	}
}

// recordReset records a reset, which takes the long way. Whether TCP believes it
// is seen by what follows.
func (s *Shard) recordReset(g *segment) {
	if f, ok := s.flows.Lookup(&g.key); ok && f.trace != nil {
		f.trace.Received(g.header(), len(g.payload()))
	}
}
