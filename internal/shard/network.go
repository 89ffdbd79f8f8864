package shard

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/link"
)

// The stack's own IP layers, with a short way out for TCP: a segment of an
// established flow goes straight from TCP to the link endpoint, which writes
// the IP header itself. That saves three map look-ups, two firewall checks and
// a header buffer per packet. Everything else takes the layer's own way.

// shortcut makes a network protocol whose endpoints have the short way.
func shortcut(factory stack.NetworkProtocolFactory, e *link.Endpoint) stack.NetworkProtocolFactory {
	return func(s *stack.Stack) stack.NetworkProtocol {
		return &networkProtocol{factory(s), e}
	}
}

type networkProtocol struct {
	stack.NetworkProtocol
	link *link.Endpoint
}

func (p *networkProtocol) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	return newNetworkEndpoint(p.NetworkProtocol.NewEndpoint(nic, d), p.link)
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
	link *link.Endpoint
}

func newNetworkEndpoint(inner stack.NetworkEndpoint, e *link.Endpoint) stack.NetworkEndpoint {
	full, ok := inner.(innerEndpoint)
	if !ok {
		// Not one of the two protocols this was written for: leave it alone.
		return inner
	}
	return &networkEndpoint{full, e}
}

// WritePacket implements stack.NetworkEndpoint.
func (e *networkEndpoint) WritePacket(r *stack.Route, p stack.NetworkHeaderParams, pkt *stack.PacketBuffer) tcpip.Error {
	if p.Protocol == header.TCPProtocolNumber {
		if sent, err := e.link.WriteTCP(r, &p, pkt); sent {
			return err
		}
	}
	return e.innerEndpoint.WritePacket(r, p, pkt)
}
