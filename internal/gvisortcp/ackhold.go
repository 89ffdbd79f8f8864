package gvisortcp

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/link"
)

// gVisor's TCP acknowledges every burst at once, with a segment of its own, and
// has no delayed acknowledgement. A server then sends two frames per request,
// of which the reply alone would do, and its peer handles two. So pure
// acknowledgements are held until the end of the poll: a data segment of the
// same flow that leaves meanwhile carries the same news and cancels them. They
// are late by one poll at most, which is what RFC 1122 section 4.2.3.2 allows
// many times over.
//
// Only an acknowledgement that advances is held. Duplicate ones, window updates
// and those with SACK blocks tell the peer about loss or room, must not be
// merged into data (RFC 5681 section 2), and leave at once, never before what was
// held of their flow. To tell them apart, the last acknowledgement of recently
// active flows is remembered.

const (
	// ackFlows is how many flows are remembered, a power of two. A flow whose
	// place was taken by another sends its next acknowledgement at once.
	ackFlows = 1024
	// heldAcks is how many acknowledgements can be held; a full list is sent.
	heldAcks = link.MaxBurst
	// ackHeaderMax is a TCP header with the timestamp option and its padding.
	ackHeaderMax = header.TCPMinimumSize + 12
)

// ackHold is a netif.Holder. Its methods need the endpoint's transmit lock held.
type ackHold struct {
	flows [ackFlows]ackFlow
	held  [heldAcks]heldAck
	n     int
	saved atomic.Uint64
	// releasing is set while the held ones are sent, which may let go of the lock
	// to wait for a full queue: nothing is held meanwhile.
	releasing bool
}

var _ netif.Holder = (*ackHold)(nil)

// ackFlow is a flow's last acknowledgement. hash names the flow: gVisor draws it
// at random for each connection and marks all its packets with it.
type ackFlow struct {
	hash, ack uint32
	// held is the position in ackHold.held plus one, 0 for none.
	held int32
}

// heldAck is an acknowledgement without Ethernet header and checksums.
type heldAck struct {
	flow  *ackFlow // nil once cancelled
	mac   link.MAC
	ipLen uint8
	size  uint8
	b     [header.IPv6MinimumSize + ackHeaderMax]byte
}

func (h *heldAck) window() uint16 { return binary.BigEndian.Uint16(h.b[h.ipLen+14:]) }

// Hold implements netif.Holder. It also records the segment.
func (a *ackHold) Hold(s *netif.Outgoing, stage netif.Stage) bool {
	held := a.hold(s, stage)
	if t, ok := s.Packet.Owner.(*trace); ok {
		t.Sent(s.TCP, s.Payload, held)
	}
	return held
}

func (a *ackHold) hold(s *netif.Outgoing, stage netif.Stage) bool {
	tcp, hash := s.TCP, s.Packet.Hash
	ack := tcp.AckNumber()
	f := &a.flows[hash&(ackFlows-1)]
	if f.hash != hash {
		if f.held != 0 {
			a.Release(stage) // what follows it would not know of it
		}
		*f = ackFlow{hash: hash, ack: ack}
		return false
	}
	advances := int32(ack-f.ack) > 0
	f.ack = ack
	if f.held != 0 {
		switch h := &a.held[f.held-1]; {
		case h.flow != f:
		case tcp.Flags() == header.TCPFlagAck && !advances && s.Payload == 0 && h.window() == tcp.WindowSize(),
			tcp.Flags()&header.TCPFlagRst != 0:
			// A duplicate counts only behind the one that it repeats. A reset must not
			// overtake the acknowledgement that completed the handshake: the peer would
			// forget a connection it has yet to accept.
			a.Release(stage)
		default:
			// A window update among them: an older window behind it would take back
			// what it gave, and the peer could not tell which is the newer.
			h.flow = nil
			a.saved.Add(1)
		}
		f.held = 0
	}
	if s.Payload > 0 || !advances || tcp.Flags() != header.TCPFlagAck || len(tcp) > ackHeaderMax || a.releasing {
		return false
	}
	if a.n == heldAcks {
		a.Release(stage)
	}
	h := &a.held[a.n]
	a.n++
	h.flow, h.mac, h.ipLen, h.size = f, s.MAC, uint8(len(s.IP)), uint8(len(s.IP)+len(tcp))
	copy(h.b[copy(h.b[:], s.IP):], tcp)
	f.held = int32(a.n)
	return true
}

// Held implements netif.Holder.
func (a *ackHold) Held() bool { return a.n > 0 }

// Saved implements netif.Holder.
func (a *ackHold) Saved() uint64 { return a.saved.Load() }

// Release implements netif.Holder: it sends the acknowledgements that nothing has
// cancelled.
func (a *ackHold) Release(stage netif.Stage) {
	if a.releasing {
		return
	}
	a.releasing = true
	for i := range a.n {
		h := &a.held[i]
		if h.flow == nil {
			continue
		}
		if h.flow.held == int32(i+1) {
			h.flow.held = 0
		}
		h.flow = nil
		stage(h.mac, h.b[:h.ipLen], h.b[h.ipLen:h.size]) // a later one covers what finds no room
	}
	a.n, a.releasing = 0, false
}
