package netif

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// Neighbour solicitations and advertisements, RFC 4861 sections 4.3 and 4.4:
// offsets in bytes from the start of the ICMPv6 message. Both have the same
// shape.
const (
	ndpFlags   = 4
	ndpTarget  = 8
	ndpOptions = 24
	// ndpLen is the length with one link-layer address option.
	ndpLen = 32

	ndpSolicit   = 135
	ndpAdvertise = 136

	ndpSolicited = 0x40
	ndpOverride  = 0x20

	ndpSourceOption = 1
	ndpTargetOption = 2
)

// handleNDP takes in an IPv6 packet that may be a neighbour solicitation or
// advertisement, and reports whether it was one: those are handled here and go
// no further.
func (n *Neighbours) handleNDP(p []byte, via *Endpoint) bool {
	const ip = header.IPv6MinimumSize
	if len(p) < ip+ndpOptions || p[6] != uint8(header.ICMPv6ProtocolNumber) {
		return false
	}
	m := p[ip:]
	kind := m[0]
	if kind != ndpSolicit && kind != ndpAdvertise {
		return false
	}
	if n.resolver != nil {
		return true // the kernel owns neighbour discovery on this device
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	// RFC 4861 sections 7.1.1 and 7.1.2: hop limit 255 proves that no router
	// passed it on, the checksum is right, the code is 0.
	if p[7] != 255 || m[1] != 0 || size < ndpOptions || size > len(m) {
		via.stats.rxMalformed.Add(1)
		return true
	}
	m = m[:size]
	source := tcpip.AddrFrom16([16]byte(p[8:24]))
	destination := tcpip.AddrFrom16([16]byte(p[24:40]))
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, source, destination, uint16(size))
	if checksum.Sum(m, sum) != 0xffff {
		via.stats.rxBadChecksum.Add(1)
		return true
	}
	target := tcpip.AddrFrom16([16]byte(m[ndpTarget:]))
	if m[ndpTarget] == 0xff {
		via.stats.rxMalformed.Add(1)
		return true
	}
	if kind == ndpSolicit {
		n.solicited(m, source, target, via)
		return true
	}
	n.stats.repliesReceived.Add(1)
	if mac, ok := ndpOption(m[ndpOptions:], ndpTargetOption); ok {
		n.learn(target, mac, false, via, n.localFor(destination))
	}
	return true
}

// solicited answers a question for one of our addresses and learns who asked.
func (n *Neighbours) solicited(m []byte, source, target tcpip.Address, via *Endpoint) {
	n.mu.Lock()
	ours := n.local[target]
	n.mu.Unlock()
	mac, ok := ndpOption(m[ndpOptions:], ndpSourceOption)
	if source.Unspecified() {
		// Somebody checks whether the address is free (RFC 4862 section 5.4): it
		// is not. The answer goes to all nodes.
		if ours {
			n.stats.repliesSent.Add(1)
			all := header.IPv6AllNodesMulticastAddress
			via.sendNDP(ndpAdvertise, ndpOverride, target, all, target, ipv6MulticastMAC(all.AsSlice()))
		}
		return
	}
	if ok {
		n.learn(source, mac, ours, via, target)
	}
	if !ours {
		return
	}
	if !ok {
		if mac, ok = n.Lookup(source); !ok {
			return
		}
	}
	n.stats.repliesSent.Add(1)
	via.sendNDP(ndpAdvertise, ndpSolicited|ndpOverride, target, source, target, mac)
}

// localFor returns addr if it is ours, else any IPv6 address of ours.
func (n *Neighbours) localFor(addr tcpip.Address) tcpip.Address {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.local[addr] {
		return addr
	}
	for a := range n.local {
		if a.Len() == 16 {
			return a
		}
	}
	return addr
}

// ndpOption finds a link-layer address option. Malformed options end the search.
func ndpOption(b []byte, kind byte) (link.MAC, bool) {
	for len(b) >= 8 {
		size := int(b[1]) * 8
		if size == 0 || size > len(b) {
			return link.MAC{}, false
		}
		if b[0] == kind && size == 8 {
			return link.MAC(b[2:8]), true
		}
		b = b[size:]
	}
	return link.MAC{}, false
}

// sendSolicitation asks for addr: its solicited-node group, or the neighbour
// itself.
func (e *Endpoint) sendSolicitation(addr, source tcpip.Address, to link.MAC) {
	destination := addr
	if to == (link.MAC{}) {
		destination = header.SolicitedNodeAddr(addr)
		to = ipv6MulticastMAC(destination.AsSlice())
	}
	e.sendNDP(ndpSolicit, 0, source, destination, addr, to)
}

func (e *Endpoint) sendNDP(kind, flags byte, source, destination, target tcpip.Address, to link.MAC) {
	var p [header.IPv6MinimumSize + ndpLen]byte
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], ndpLen)
	p[6], p[7] = uint8(header.ICMPv6ProtocolNumber), 255
	copy(p[8:], source.AsSlice())
	copy(p[24:], destination.AsSlice())
	m := p[header.IPv6MinimumSize:]
	m[0], m[ndpFlags] = kind, flags
	copy(m[ndpTarget:], target.AsSlice())
	m[ndpOptions], m[ndpOptions+1] = ndpSourceOption, 1
	if kind == ndpAdvertise {
		m[ndpOptions] = ndpTargetOption
	}
	copy(m[ndpOptions+2:], e.mac[:])
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, source, destination, ndpLen)
	binary.BigEndian.PutUint16(m[2:], ^checksum.Sum(m, sum))
	e.sendFrame(to, etherTypeIPv6, p[:])
}
