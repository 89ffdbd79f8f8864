// Package netstack translates between gVisor's words and Go's: addresses and
// errors. It is the only place where they meet.
package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
)

// Addr is an address of gVisor's, the zero Addr for an empty one.
func Addr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

// AddrPort is an address and port of gVisor's.
func AddrPort(a tcpip.Address, port uint16) netip.AddrPort { return netip.AddrPortFrom(Addr(a), port) }

// Address is an address for gVisor, empty for the zero Addr.
func Address(a netip.Addr) tcpip.Address {
	switch {
	case a.Is4():
		return tcpip.AddrFrom4(a.As4())
	case a.IsValid():
		return tcpip.AddrFrom16(a.As16())
	}
	return tcpip.Address{}
}

// FullAddress is an address and port for gVisor.
func FullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: Address(a.Addr()), Port: a.Port()}
}

// Network is the number of an address's IP version.
func Network(a tcpip.Address) tcpip.NetworkProtocolNumber {
	if a.Len() == header.IPv6AddressSize {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// Ends are the two addresses of a connection.
func Ends(id *stack.TransportEndpointID) (local, remote netip.AddrPort) {
	return AddrPort(id.LocalAddress, id.LocalPort), AddrPort(id.RemoteAddress, id.RemotePort)
}

// ID is what gVisor knows the connection of a received segment by.
func ID(s *flow.Segment) stack.TransportEndpointID {
	h := s.Header()
	id := stack.TransportEndpointID{LocalPort: h.DestinationPort(), RemotePort: h.SourcePort()}
	if s.Network == header.IPv6ProtocolNumber {
		ip := header.IPv6(s.Packet)
		id.LocalAddress, id.RemoteAddress = ip.DestinationAddress(), ip.SourceAddress()
		return id
	}
	ip := header.IPv4(s.Packet)
	id.LocalAddress, id.RemoteAddress = ip.DestinationAddress(), ip.SourceAddress()
	return id
}

// Key is the key of the segments that arrive for a connection, false where it is
// none: a listener has no peer.
func Key(id *stack.TransportEndpointID) (flow.Key, bool) {
	if id.RemotePort == 0 {
		return flow.Key{}, false
	}
	return KeyOf(id.RemoteAddress, id.RemotePort, id.LocalAddress, id.LocalPort)
}

// KeyOf is the key of segments from remote to local, false where the addresses are
// not of one IP version.
func KeyOf(remote tcpip.Address, remotePort uint16, local tcpip.Address, localPort uint16) (k flow.Key, ok bool) {
	if remote.Len() != local.Len() {
		return k, false
	}
	var addrs [2 * header.IPv6AddressSize]byte
	n := copy(addrs[:], remote.AsSlice())
	n += copy(addrs[n:], local.AsSlice())
	ports := [4]byte{byte(remotePort >> 8), byte(remotePort), byte(localPort >> 8), byte(localPort)}
	switch n {
	case 2 * header.IPv4AddressSize:
		return flow.Key4(addrs[:n], ports[:]), true
	case 2 * header.IPv6AddressSize:
		return flow.Key6(addrs[:n], ports[:]), true
	}
	return k, false
}
