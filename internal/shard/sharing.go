package shard

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/link"
)

// What a shard needs for a device that it shares with the kernel.

// DeliverPacket hands the stack an IP packet that the kernel received for it: an
// ICMP error.
func (s *Shard) DeliverPacket(packet []byte) { s.link.DeliverPacket(packet) }

// SetPortRange limits the local ports of connections that do not ask for one. No
// other shard may have one of them.
func (s *Shard) SetPortRange(first, last uint16) error {
	if err := s.stack.SetPortRange(first, last); err != nil {
		return fmt.Errorf("ports %d to %d: %v", first, last, err)
	}
	s.outbound.mu.Lock()
	s.outbound.ports, s.outbound.block = nil, true
	s.outbound.mu.Unlock()
	return nil
}

// SetMTU changes the greatest IP packet in bytes, at most the device's. Connections
// that send larger ones are told.
func (s *Shard) SetMTU(mtu int) {
	lower := mtu < int(s.link.MTU())
	s.link.SetMTU(uint32(mtu))
	if !lower {
		return
	}
	for _, ep := range s.stack.RegisteredEndpoints() {
		info, ok := ep.(interface{ Info() tcpip.EndpointInfo }).Info().(*stack.TransportEndpointInfo)
		if !ok {
			continue
		}
		headers := header.IPv4MinimumSize
		if info.ID.LocalAddress.Len() == header.IPv6AddressSize {
			headers = header.IPv6MinimumSize
		}
		ep.HandleError(packetTooBig(mtu-headers), nil)
	}
}

// packetTooBig is the error that an ICMP message of that kind becomes in the
// stack. It holds the greatest payload of an IP packet in bytes.
type packetTooBig uint32

var _ stack.TransportError = packetTooBig(0)

func (packetTooBig) Origin() tcpip.SockErrOrigin    { return tcpip.SockExtErrorOriginLocal }
func (packetTooBig) Type() uint8                    { return 0 }
func (packetTooBig) Code() uint8                    { return 0 }
func (p packetTooBig) Info() uint32                 { return uint32(p) }
func (packetTooBig) Kind() stack.TransportErrorKind { return stack.PacketTooBigTransportError }

// Flows returns the connections at a local port, in whatever state: also those
// that are being closed and those that only wait for old duplicates.
func (s *Shard) Flows(port uint16) []link.Flow {
	var flows []link.Flow
	for _, ep := range s.stack.RegisteredEndpoints() {
		t, ok := ep.(interface{ Info() tcpip.EndpointInfo })
		if !ok {
			continue
		}
		info, ok := t.Info().(*stack.TransportEndpointInfo)
		if !ok || info.ID.LocalPort != port || info.ID.RemotePort == 0 {
			continue
		}
		flows = append(flows, link.Flow{
			Local:  addrPort(info.ID.LocalAddress, port),
			Remote: addrPort(info.ID.RemoteAddress, info.ID.RemotePort),
		})
	}
	return flows
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr.Unmap(), port)
}
