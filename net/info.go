package tpanet

import (
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// Info is what is known about a connection at one moment.
type Info struct {
	// Shard is the number of the shard, and of the device queue, that carries the
	// connection.
	Shard int
	// State is TCP's name for the connection's state, such as "ESTABLISHED".
	State string
	// Since is when the connection was established.
	Since time.Time
	// ReceiveQueue is how many bytes wait to be read.
	ReceiveQueue int
	// SendQueue is how many bytes wait to be acknowledged, sent or not; -1 when it is
	// not known, for a connection of gVisor's TCP that is not recorded.
	SendQueue int
	// BytesRead and BytesWritten are what the program read and wrote so far.
	BytesRead, BytesWritten uint64
	// RTT is the smoothed round-trip time, RTTVar its variation. Both are 0 until
	// data was acknowledged.
	RTT, RTTVar time.Duration
	// RTO is the retransmission timeout.
	RTO time.Duration
	// CongestionWindow and SlowStartThreshold are in segments.
	CongestionWindow, SlowStartThreshold uint32
	// Retransmits counts segments sent again, for any reason; FastRetransmits
	// those of them that duplicate acknowledgements asked for; Timeouts how often
	// the RTO ran out.
	Retransmits, FastRetransmits, Timeouts uint64
}

// Bytes returns what the program read and wrote so far. Unlike Info it takes no
// lock.
func (c *Conn) Bytes() (read, written uint64) { return c.bytesRead.Load(), c.bytesWritten.Load() }

// Shard is the number of the shard, and of the device queue, that carries the
// connection.
func (c *Conn) Shard() int { return c.stack.Index() }

// Info tells about the connection. It may be called after Close.
func (c *Conn) Info() Info {
	i := c.ep.Info()
	read, written := c.Bytes()
	return Info{
		Shard: c.stack.Index(), State: i.State.String(), Since: c.since,
		ReceiveQueue: i.ReceiveQueue, SendQueue: i.SendQueue,
		BytesRead: read, BytesWritten: written,
		RTT: i.RTT, RTTVar: i.RTTVar, RTO: i.RTO,
		CongestionWindow: i.CongestionWindow, SlowStartThreshold: i.SlowStartThreshold,
		Retransmits: i.Retransmits, FastRetransmits: i.FastRetransmits, Timeouts: i.Timeouts,
	}
}

// connected tells whether Linux would call the socket connected.
func (c *Conn) connected() bool {
	s := c.ep.State()
	return s.Open() && s != transport.StateTimeWait
}

// unacknowledged tells whether the peer still has to acknowledge our FIN.
func (c *Conn) unacknowledged() bool {
	switch c.ep.State() {
	case transport.StateFinWait1, transport.StateClosing, transport.StateLastAck:
		return true
	}
	return false
}
