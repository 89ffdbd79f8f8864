package shard

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/link"
)

// What a shard needs for a device that it shares with the kernel.

// DeliverPacket hands the stack an IP packet that the kernel received for it: an
// ICMP error.
func (s *Shard) DeliverPacket(packet []byte) { s.link.DeliverPacket(packet) }

// SetPortRange limits the local ports of connections that do not ask for one.
func (s *Shard) SetPortRange(first, last uint16) error {
	if err := s.stack.SetPortRange(first, last); err != nil {
		return fmt.Errorf("ports %d to %d: %v", first, last, err)
	}
	return nil
}

// Flows returns the connections at a local port, in whatever state: also those
// that are being closed and those that only wait for old duplicates.
func (s *Shard) Flows(port uint16) []link.Flow {
	var flows []link.Flow
	for _, ep := range s.stack.RegisteredEndpoints() {
		t, ok := ep.(*tcp.Endpoint)
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
