package netif

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"

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

// ackHold is guarded by Endpoint.txMu.
type ackHold struct {
	flows [ackFlows]ackFlow
	held  [heldAcks]heldAck
	n     int
	// releasing is set while the held ones are sent, which may let go of the lock
	// to wait for a full queue: nothing is held meanwhile.
	releasing bool
}

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
	b     [ipHeaderMax + ackHeaderMax]byte
}

func (h *heldAck) window() uint16 { return binary.BigEndian.Uint16(h.b[h.ipLen+14:]) }

// holdAckLocked takes note of a segment that is about to be sent, and reports
// whether it was a pure acknowledgement that is held instead. tcp is its header,
// payload its payload's length.
func (e *Endpoint) holdAckLocked(mac link.MAC, ip, tcp []byte, hash uint32, payload int) bool {
	a := &e.acks
	ack := binary.BigEndian.Uint32(tcp[8:])
	f := &a.flows[hash&(ackFlows-1)]
	if f.hash != hash {
		if f.held != 0 {
			e.releaseAcksLocked() // what follows it would not know of it
		}
		*f = ackFlow{hash: hash, ack: ack}
		return false
	}
	advances := int32(ack-f.ack) > 0
	f.ack = ack
	if f.held != 0 {
		switch h := &a.held[f.held-1]; {
		case h.flow != f:
		case tcp[13] == uint8(header.TCPFlagAck) && !advances && payload == 0 && h.window() == binary.BigEndian.Uint16(tcp[14:]),
			header.TCPFlags(tcp[13])&header.TCPFlagRst != 0:
			// A duplicate counts only behind the one that it repeats. A reset must not
			// overtake the acknowledgement that completed the handshake: the peer would
			// forget a connection it has yet to accept.
			e.releaseAcksLocked()
		default:
			// A window update among them: an older window behind it would take back
			// what it gave, and the peer could not tell which is the newer.
			h.flow = nil
			e.stats.txAcksSaved.Add(1)
		}
		f.held = 0
	}
	if payload > 0 || !advances || header.TCPFlags(tcp[13]) != header.TCPFlagAck || len(tcp) > ackHeaderMax || a.releasing {
		return false
	}
	if a.n == heldAcks {
		e.releaseAcksLocked()
	}
	h := &a.held[a.n]
	a.n++
	h.flow, h.mac, h.ipLen, h.size = f, mac, uint8(len(ip)), uint8(len(ip)+len(tcp))
	copy(h.b[copy(h.b[:], ip):], tcp)
	f.held = int32(a.n)
	return true
}

// releaseAcksLocked stages the acknowledgements that nothing has cancelled.
func (e *Endpoint) releaseAcksLocked() {
	a := &e.acks
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
		b := e.reserveLocked(link.EthernetHeaderLen+int(h.size), false)
		if b == nil {
			continue // counted; the next acknowledgement covers it
		}
		v6 := h.ipLen == header.IPv6MinimumSize
		putEthernet(b, h.mac, e.mac, etherTypeOf(v6))
		copy(b[link.EthernetHeaderLen:], h.b[:h.size])
		e.finishTCPLocked(b, int(h.ipLen), int(h.size)-int(h.ipLen), 0, v6)
	}
	a.n, a.releasing = 0, false
}
