package tpanet

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/recorder"
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

// SetTrace says what records the connection. It may be called by Stack.Established
// only, and so may RecordIn.
func (c *Conn) SetTrace(t *recorder.Trace) { c.trace = t }

// RecordIn makes the connection record what is read and written, for a TCP that
// does not.
func (c *Conn) RecordIn(t *recorder.Shared) { c.shared = t }

// Trace returns what records the connection, nil for none.
func (c *Conn) Trace() *recorder.Trace { return c.trace }

// Bytes returns what the program read and wrote so far. Unlike Info it takes no
// lock.
func (c *Conn) Bytes() (read, written uint64) { return c.bytesRead.Load(), c.bytesWritten.Load() }

// Shard is the number of the shard, and of the device queue, that carries the
// connection.
func (c *Conn) Shard() int { return c.stack.Index() }

// Info tells about the connection. It may be called after Close.
func (c *Conn) Info() Info {
	var tcpInfo tcpip.TCPInfoOption
	c.ep.GetSockOpt(&tcpInfo) // cannot fail for this option
	info := Info{
		Shard:              c.stack.Index(),
		State:              tcp.EndpointState(tcpInfo.State).String(),
		Since:              c.since,
		BytesRead:          c.bytesRead.Load(),
		BytesWritten:       c.bytesWritten.Load(),
		RTT:                tcpInfo.RTT,
		RTTVar:             tcpInfo.RTTVar,
		RTO:                tcpInfo.RTO,
		CongestionWindow:   tcpInfo.SndCwnd,
		SlowStartThreshold: tcpInfo.SndSsthresh,
	}
	info.ReceiveQueue, _ = c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption) // 0 after the end
	if n, err := c.ep.GetSockOptInt(tcpip.SendQueueSizeOption); err == nil {
		info.SendQueue = n
	} else if info.SendQueue = -1; c.shared != nil {
		info.SendQueue = c.shared.SendQueue(info.BytesWritten)
	}
	if ep, ok := c.ep.(interface{ Stats() tcpip.EndpointStats }); ok {
		if stats, ok := ep.Stats().(*tcp.Stats); ok {
			info.Retransmits = stats.SendErrors.Retransmits.Value()
			info.FastRetransmits = stats.SendErrors.FastRetransmit.Value()
			info.Timeouts = stats.SendErrors.Timeouts.Value()
		}
	}
	return info
}

func (c *Conn) tcpState() tcp.EndpointState {
	var info tcpip.TCPInfoOption
	c.ep.GetSockOpt(&info)
	return tcp.EndpointState(info.State)
}

// connected tells whether Linux would call the socket connected.
func (c *Conn) connected() bool {
	switch c.tcpState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing:
		return true
	}
	return false
}

// unacknowledged tells whether the peer still has to acknowledge our FIN.
func (c *Conn) unacknowledged() bool {
	switch c.tcpState() {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// dead tells whether the connection ended, or never came to be.
func (c *Conn) dead() bool { return c.tcpState() == tcp.StateClose }
