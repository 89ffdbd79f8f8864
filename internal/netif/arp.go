package netif

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/link"
)

// ARP over Ethernet for IPv4, RFC 826: offsets in bytes from the start of the
// ARP packet.
const (
	arpLen       = 28
	arpOperation = 6
	arpSenderMAC = 8
	arpSenderIP  = 14
	arpTargetMAC = 18
	arpTargetIP  = 24

	arpRequest = 1
	arpReply   = 2
)

// arpPrefix is hardware type Ethernet, protocol type IPv4, their lengths.
var arpPrefix = [6]byte{0, 1, 0x08, 0x00, 6, 4}

// handleARP takes in an ARP packet: it answers requests for our addresses and
// learns from requests to us and from awaited replies. It reports whether the
// packet was well formed.
func (n *Neighbours) handleARP(p []byte, via *Endpoint) bool {
	if len(p) < arpLen || [6]byte(p[:6]) != arpPrefix {
		return false
	}
	senderMAC := link.MAC(p[arpSenderMAC:])
	sender := tcpip.AddrFrom4([4]byte(p[arpSenderIP:]))
	target := tcpip.AddrFrom4([4]byte(p[arpTargetIP:]))
	if n.resolver != nil {
		return true // the kernel owns ARP on this device
	}
	n.mu.Lock()
	ours := n.local[target]
	n.mu.Unlock()
	switch op := binary.BigEndian.Uint16(p[arpOperation:]); op {
	case arpRequest:
		// RFC 826: who asks for us will be talked to next. Others' requests only
		// refresh what we know.
		n.learn(sender, senderMAC, ours, via, target)
		if ours {
			n.stats.repliesSent.Add(1)
			via.sendARP(arpReply, target, sender, senderMAC, senderMAC)
		}
	case arpReply:
		n.stats.repliesReceived.Add(1)
		n.learn(sender, senderMAC, false, via, target)
	default:
		return false
	}
	return true
}

// sendARPRequest asks for addr, all stations or only the one that had it.
func (e *Endpoint) sendARPRequest(addr, source tcpip.Address, to link.MAC) {
	if to == (link.MAC{}) {
		to = broadcastMAC
	}
	e.sendARP(arpRequest, source, addr, link.MAC{}, to)
}

func (e *Endpoint) sendARP(op uint16, sender, target tcpip.Address, targetMAC, to link.MAC) {
	var p [arpLen]byte
	copy(p[:], arpPrefix[:])
	binary.BigEndian.PutUint16(p[arpOperation:], op)
	copy(p[arpSenderMAC:], e.mac[:])
	s, t := sender.As4(), target.As4()
	copy(p[arpSenderIP:], s[:])
	copy(p[arpTargetMAC:], targetMAC[:])
	copy(p[arpTargetIP:], t[:])
	e.sendFrame(to, etherTypeARP, p[:])
}
