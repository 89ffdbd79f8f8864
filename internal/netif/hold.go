package netif

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/link"
)

// A Holder keeps segments of WriteTCP back until the end of the poll, for a TCP that
// does not do so itself. Its methods are called with the transmit lock held.
type Holder interface {
	// Hold sees each segment before it is sent, and reports whether it keeps it
	// instead. It may stage what it has kept.
	Hold(*Outgoing, Stage) bool
	// Held tells whether anything is kept, and Release stages it.
	Held() bool
	Release(Stage)
	// Saved counts segments that were kept and that a later one made superfluous. It
	// needs no lock.
	Saved() uint64
}

// Outgoing is a segment that is about to be sent. What it points to is valid during
// the call.
type Outgoing struct {
	MAC link.MAC // of the next hop
	// IP is the IP header, without lengths and checksum.
	IP      []byte
	TCP     header.TCP
	Payload int // its length in bytes
	Packet  *stack.PacketBuffer
}

// A Stage sends a segment without payload. ip and tcp lack lengths and checksums. It
// may wait for a full device, without the lock.
type Stage func(mac link.MAC, ip, tcp []byte)

// SetHolder sets who keeps segments back, before there is traffic. Nobody does by
// default.
func (e *Endpoint) SetHolder(h Holder) { e.holder, e.stage = h, e.stageHeldLocked }

func (e *Endpoint) stageHeldLocked(mac link.MAC, ip, tcp []byte) {
	b := e.reserveLocked(link.EthernetHeaderLen+len(ip)+len(tcp), false)
	if b == nil {
		return // counted
	}
	v6 := len(ip) == header.IPv6MinimumSize
	putEthernet(b, mac, e.mac, etherTypeOf(v6))
	copy(b[link.EthernetHeaderLen:], ip)
	copy(b[link.EthernetHeaderLen+len(ip):], tcp)
	e.finishTCPLocked(b, len(ip), len(tcp), 0, v6)
}

// holdLocked reports whether a segment is kept back.
func (e *Endpoint) holdLocked(mac link.MAC, ip, tcp []byte, pkt *stack.PacketBuffer) bool {
	if e.holder == nil {
		return false
	}
	e.out = Outgoing{mac, e.ip[:copy(e.ip[:], ip)], tcp, pkt.Size() - len(tcp), pkt}
	held := e.holder.Hold(&e.out, e.stage)
	e.out = Outgoing{}
	return held
}

// heldLocked tells whether anything is kept back.
func (e *Endpoint) heldLocked() bool { return e.holder != nil && e.holder.Held() }
