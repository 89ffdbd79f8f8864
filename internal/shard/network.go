package shard

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The stack's own IP layers, with a short way out for TCP: a segment of an
// established flow goes straight from TCP to the link endpoint, which writes
// the IP header itself. That saves three map look-ups, two firewall checks and
// a header buffer per packet. Everything else takes the layer's own way. What
// comes in passes a dispatcher, which hands over what other shards own, and asks
// conntrack about the rest.

// shortcut makes a network protocol whose endpoints have the short way.
func shortcut(factory stack.NetworkProtocolFactory, s *Shard) stack.NetworkProtocolFactory {
	return func(st *stack.Stack) stack.NetworkProtocol {
		return &networkProtocol{factory(st), s}
	}
}

type networkProtocol struct {
	stack.NetworkProtocol
	shard *Shard
}

func (p *networkProtocol) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	p.shard.transport = d
	return newNetworkEndpoint(p.NetworkProtocol.NewEndpoint(nic, &dispatcher{d, p.shard}), p.shard)
}

// innerEndpoint is what the stack's IPv4 and IPv6 endpoints both are, as far as
// the stack asks for it.
type innerEndpoint interface {
	stack.NetworkEndpoint
	stack.AddressableEndpoint
	stack.GroupAddressableEndpoint
	stack.LinkResolvableNetworkEndpoint
	stack.ForwardingNetworkEndpoint
}

type networkEndpoint struct {
	innerEndpoint
	shard *Shard
}

func newNetworkEndpoint(inner stack.NetworkEndpoint, s *Shard) stack.NetworkEndpoint {
	full, ok := inner.(innerEndpoint)
	if !ok {
		// Not one of the two protocols this was written for: leave it alone.
		return inner
	}
	return &networkEndpoint{full, s}
}

// WritePacket implements stack.NetworkEndpoint.
func (e *networkEndpoint) WritePacket(r *stack.Route, p stack.NetworkHeaderParams, pkt *stack.PacketBuffer) tcpip.Error {
	if p.Protocol == header.TCPProtocolNumber {
		if e.shard.peers != nil {
			e.shard.departing(r, pkt)
		}
		if e.shard.conntrack != nil {
			e.shard.conntrack.departing(r, pkt)
		}
		if sent, err := e.shard.link.WriteTCP(r, &p, pkt); sent {
			return err
		}
	}
	return e.innerEndpoint.WritePacket(r, p, pkt)
}
