package shard

import (
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/gotpa/tpa/internal/histogram"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
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

func (c *connCounters) closed(ep transport.Endpoint, u transport.User) {
	if u == nil {
		return
	}
	read, written := u.Bytes()
	c.read.Add(read)
	c.written.Add(written)
	if rtt := ep.Info().RTT; rtt > 0 {
		c.rtt.Observe(rtt)
	}
}

// A Conn is an established connection.
type Conn struct {
	transport.User
	ep     transport.Endpoint
	engine Engine
}

// Trace is what records the connection, nil for none.
func (c Conn) Trace() *recorder.Trace { return c.engine.Trace(c.ep) }

// Conns yields the established connections, each of which it may lock for a moment.
// Of those that come and go meanwhile it may miss some.
func (s *Shard) Conns() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for u, ep := range s.engine.Conns() {
			if !yield(Conn{u, ep, s.engine}) {
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
	stride := s.engine.Flows()/limit + 1
	skip := rand.N(stride)
	for conn := range s.Conns() {
		if skip--; skip >= 0 {
			continue
		}
		skip = stride - 1
		if rtt := conn.ep.Info().RTT; rtt > 0 {
			s.conns.rtt.Observe(rtt)
		}
	}
}
