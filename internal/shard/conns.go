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

// connections are those of a shard that programs have, and what closed ones leave
// behind.
type connections struct {
	engine        Engine
	read, written atomic.Uint64
	rtt           histogram.Histogram

	// mu guards what stats returned last.
	mu                    sync.Mutex
	lastRead, lastWritten uint64
}

// closed counts one that a program has closed.
func (c *connections) closed(ep transport.Endpoint, u transport.User) {
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

// all yields those that are established. It takes no lock: of those that come and go
// meanwhile it may miss some.
func (c *connections) all() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for u, ep := range c.engine.Conns() {
			if !yield(Conn{u, ep, c.engine}) {
				return
			}
		}
	}
}

// stats sums up the connections. Counting bytes where they are read and
// written, in one place for all connections, would make processors fight for it.
func (c *connections) stats() ConnStats {
	read, written := c.read.Load(), c.written.Load()
	for conn := range c.all() {
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

// sampleRTT counts the round-trip times of up to limit connections, spread over
// all. It locks each of them for a moment.
func (c *connections) sampleRTT(limit int) {
	stride := c.engine.Flows()/limit + 1
	skip := rand.N(stride)
	for conn := range c.all() {
		if skip--; skip >= 0 {
			continue
		}
		skip = stride - 1
		if rtt := conn.ep.Info().RTT; rtt > 0 {
			c.rtt.Observe(rtt)
		}
	}
}
