package netif

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/link"
)

// A TCPPath is where the segments of one connection go: their Ethernet and IP
// headers, made once. It belongs to one connection, whose lock guards it.
type TCPPath struct {
	hop tcpip.Address
	// generation is that of the neighbour table in which the next hop was found, 0
	// for none.
	generation uint32
	headers    [link.EthernetHeaderLen + ipHeaderMax]byte
	size       int
	v6         bool
}

// A TCPPayload hands out payload by its position in the connection's stream.
type TCPPayload interface {
	CopyAt(b []byte, at uint64)
}

// NewTCPPath makes the path between two addresses of the same version by way of
// the neighbour hop. Nothing leaves by one without a hop.
func NewTCPPath(local, remote, hop tcpip.Address, ttl uint8) TCPPath {
	p := TCPPath{hop: hop, v6: remote.Len() == header.IPv6AddressSize}
	ip := p.headers[link.EthernetHeaderLen:]
	if p.v6 {
		p.size = link.EthernetHeaderLen + header.IPv6MinimumSize
		ip[0] = 6 << 4
		ip[6] = uint8(header.TCPProtocolNumber)
		ip[7] = ttl
		s, d := local.As16(), remote.As16()
		copy(ip[8:], s[:])
		copy(ip[24:], d[:])
		return p
	}
	p.size = link.EthernetHeaderLen + header.IPv4MinimumSize
	ip[0] = 0x45
	ip[6] = 0x40 // do not fragment
	ip[8] = ttl
	ip[9] = uint8(header.TCPProtocolNumber)
	s, d := local.As4(), remote.As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	return p
}

// A TCPSent is what became of a segment.
type TCPSent uint8

const (
	// Sent: all of it is staged, or was counted as too long for the device.
	Sent TCPSent = iota
	// Full: the device has no room for the rest. Try again after the next poll.
	Full
	// Unresolved: the next hop's MAC address is not known, nothing was staged.
	Unresolved
)

// SendTCP stages payload bytes [at, at+n) behind the TCP header tcp, as one
// segment or, when n is greater than mss, as several: the device cuts them where
// it can, else this does. It returns how many bytes are staged. It never waits
// for a full device, which is up to the caller.
func (e *Endpoint) SendTCP(p *TCPPath, tcp []byte, payload TCPPayload, at uint64, n, mss int) (int, TCPSent) {
	e.txMu.Lock()
	defer e.unlock()
	if p.hop.Len() == 0 {
		return 0, Unresolved
	}
	if generation := e.neighbours.generation.Load(); generation != p.generation || generation == 0 {
		mac, ok := e.neighbours.Lookup(p.hop)
		if !ok {
			return 0, Unresolved
		}
		putEthernet(p.headers[:], mac, e.mac, etherTypeOf(p.v6))
		p.generation = generation
	}
	mtu := int(e.mtu.Load()) + link.EthernetHeaderLen
	headers := p.size + len(tcp)
	if headers+min(n, mss) > mtu {
		e.stats.txTooLong.Add(1)
		return n, Sent
	}
	if n <= mss || headers+n <= e.caps.TSO {
		cut := 0
		if n > mss {
			cut = mss
		}
		if !e.sendSegmentLocked(p, tcp, payload, at, n, cut, 1) {
			return 0, Full
		}
		return n, Sent
	}
	seq, flags, sent := binary.BigEndian.Uint32(tcp[4:]), tcp[13], 0
	counted := uint64(1) // once for all that it is cut into
	piece := e.piece(headers, mss)
	for sent < n {
		k, cut := min(n-sent, piece), 0
		if k > mss {
			cut = mss
		}
		// FIN and PSH belong to the last piece.
		if tcp[13] = flags; sent+k < n {
			tcp[13] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
		}
		binary.BigEndian.PutUint32(tcp[4:], seq+uint32(sent))
		if !e.sendSegmentLocked(p, tcp, payload, at+uint64(sent), k, cut, counted) {
			break
		}
		counted = 0
		if piece == mss {
			e.stats.txSegmented.Add(1)
		}
		sent += k
	}
	tcp[13] = flags
	binary.BigEndian.PutUint32(tcp[4:], seq)
	if sent < n {
		return sent, Full
	}
	return n, Sent
}

// piece returns how many bytes of a larger segment go to the device at a time, behind
// so many bytes of headers: as many whole segments as it cuts, at least one.
func (e *Endpoint) piece(headers, mss int) int {
	return max((e.caps.TSO-headers)/mss, 1) * mss
}

// DoubtTCP says that segments on a path go unanswered again and again: see
// Neighbours.Doubt.
func (e *Endpoint) DoubtTCP(p *TCPPath) {
	if p.hop.Len() > 0 {
		e.neighbours.Doubt(p.hop)
	}
}

// WakePoller ends the poller's sleep: there is something that only it does.
func (e *Endpoint) WakePoller() {
	if e.waiter != nil && e.asleep.Load() {
		e.waiter.Wake()
	}
}

// sendSegmentLocked stages one frame, if there is a buffer for it. A non-zero mss
// asks the device to cut it. It counts as that many segments.
func (e *Endpoint) sendSegmentLocked(p *TCPPath, tcp []byte, payload TCPPayload, at uint64, n, mss int, segments uint64) bool {
	size := p.size + len(tcp) + n
	b := e.queue.Reserve(size)
	if b == nil && !e.full {
		e.flushLocked()
		b = e.queue.Reserve(size)
	}
	if b == nil {
		e.stats.txWaits.Add(1)
		return false
	}
	e.unpublished += segments
	copy(b, p.headers[:p.size])
	copy(b[p.size:], tcp)
	if n > 0 {
		payload.CopyAt(b[p.size+len(tcp):][:n], at)
	}
	e.finishTCPLocked(b, p.size-link.EthernetHeaderLen, len(tcp)+n, mss, p.v6)
	return true
}
