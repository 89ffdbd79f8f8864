package shard

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/link"
)

// What a shard needs for a device that it shares with the kernel.

// DeliverPacket hands the stack an IP packet that the kernel received for it: an
// ICMP error.
func (s *Shard) DeliverPacket(packet []byte) { s.link.DeliverPacket(packet) }

// SetPortRange limits the local ports of connections that do not ask for one. No
// other shard may have one of them.
func (s *Shard) SetPortRange(first, last uint16) error { return s.outbound.setRange(first, last, true) }

// SharePortRange is SetPortRange with ports that all shards have. Each takes those
// whose answers arrive on its queue: see SetSpread.
func (s *Shard) SharePortRange(first, last uint16) error {
	return s.outbound.setRange(first, last, false)
}

// AddPortRange adds local ports to those of SetPortRange. No other shard may have one
// of them.
func (s *Shard) AddPortRange(first, last uint16) error { return s.outbound.addRange(first, last) }

// SetMTU changes the greatest IP packet in bytes, at most the device's. Connections
// that send larger ones are told.
func (s *Shard) SetMTU(mtu int) {
	lower := mtu < int(s.link.MTU())
	s.link.SetMTU(uint32(mtu))
	if !lower {
		return
	}
	for ep := range s.engine.Endpoints() {
		id, ok := s.engine.ID(ep)
		if !ok {
			continue
		}
		headers := header.IPv4MinimumSize
		if id.LocalAddress.Len() == header.IPv6AddressSize {
			headers = header.IPv6MinimumSize
		}
		ep.HandleError(netstack.PacketTooBig(mtu-headers), nil)
	}
}

// Flows returns the connections at a local port, in whatever state: also those
// that are being closed and those that only wait for old duplicates.
func (s *Shard) Flows(port uint16) []link.Flow {
	var flows []link.Flow
	for ep := range s.engine.Endpoints() {
		if id, ok := s.engine.ID(ep); ok && id.LocalPort == port && id.RemotePort != 0 {
			local, remote := netstack.Ends(&id)
			flows = append(flows, link.Flow{Local: local, Remote: remote})
		}
	}
	for k := range s.engine.Waiting() {
		if local, remote := k.Ends(); local.Port() == port {
			flows = append(flows, link.Flow{Local: local, Remote: remote})
		}
	}
	return flows
}

// Flush has the queue send what is staged. A queue may use the moment to change how it
// sends.
func (s *Shard) Flush() { s.link.Flush() }

// PassOn has pass take the IP packets of segments to local that belong to no connection
// of any shard, until pass is nil: see tcp.Engine.PassOn. It reports false where the
// engine cannot.
func (s *Shard) PassOn(local netip.AddrPort, pass func(packet []byte)) bool {
	return s.engine.PassOn(local, pass)
}
