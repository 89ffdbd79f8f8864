package shard

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/link"
)

// The slow path: what is no plain segment of a flow in the engine's table passes
// the stack, which is wrapped in these places. A SYN meets them in this order.
//
//  1. slow, below: fragments and segments of another shard's flow go to that shard,
//     the rest to the stack, by way of the link endpoint.
//  2. The stack's IP layer checks the packet, joins fragments, and knows whether the
//     address is ours. It hands TCP to its dispatcher, which is ours:
//  3. dispatcher, below, drops SYNs of sources that may not connect, and gives another
//     shard what IP has found to be its: segments with IP options or of several
//     fragments, and ICMP errors.
//  4. The engine's own dispatcher, which Engine.Dispatcher puts behind it, where the
//     engine has one: to drop what the peer cannot have sent. internal/tcp has none.
//  5. The stack's demultiplexer finds the listener, and calls QueuePacket of its TCP,
//     the engine's. There, in the engine, the limits decide (limits.Account.Admit)
//     before the SYN is looked at; HandleUnknownDestinationPacket is for a segment
//     that nobody listens to.
//
// The answer, and all else that TCP does not send itself, leaves through the stack's
// route:
//
//  6. networkEndpoint, below, whose WritePacket claims the flow for this shard, and
//     has the engine write the segment past IP where it can. What is left, because
//     the next hop is not known yet or the peer is this host, takes the IP layer's own
//     way.
//
// With the handshake through, package net calls Established. From then on at the
// latest the flow's segments take the fast path: Engine.Receive. With internal/tcp they
// do from the SYN on, where a connection has been to the peer's host before.

// slow takes a frame that the engine does not. k is the key of a plain segment of a
// flow that is not in its table, nil for all else. Only the poller calls it.
func (s *Shard) slow(f *link.Frame, k *flow.Key) {
	if m := s.handover; m != nil {
		if k != nil && m.HandOver(f, k) || m.Gather(f) {
			return
		}
	}
	s.link.Deliver(f)
}

// wrapNetwork makes an IP layer whose endpoints are networkEndpoints.
func (s *Shard) wrapNetwork(factory stack.NetworkProtocolFactory) stack.NetworkProtocolFactory {
	return func(st *stack.Stack) stack.NetworkProtocol { return &networkProtocol{factory(st), s} }
}

type networkProtocol struct {
	stack.NetworkProtocol
	shard *Shard
}

// NewEndpoint implements stack.NetworkProtocol. d is the demultiplexer, the same for
// each protocol.
func (p *networkProtocol) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	p.shard.slowPath = p.shard.engine.Dispatcher(d)
	inner := p.NetworkProtocol.NewEndpoint(nic, &dispatcher{p.shard.slowPath, p.shard})
	if full, ok := inner.(ipEndpoint); ok {
		return &networkEndpoint{full, p.shard}
	}
	// Not one of the two protocols this was written for: leave it alone.
	return inner
}

// A dispatcher hands over what is another shard's.
type dispatcher struct {
	stack.TransportDispatcher
	shard *Shard
}

// DeliverTransportPacket implements stack.TransportDispatcher.
func (d *dispatcher) DeliverTransportPacket(proto tcpip.TransportProtocolNumber, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	if proto == header.TCPProtocolNumber && d.shard.account.Restricted() && d.refused(pkt) {
		return stack.TransportPacketHandled
	}
	if m := d.shard.handover; m != nil && proto == header.TCPProtocolNumber && m.PassOn(pkt) {
		return stack.TransportPacketHandled
	}
	return d.TransportDispatcher.DeliverTransportPacket(proto, pkt)
}

// refused tells whether a segment wants a connection that its source may not have.
func (d *dispatcher) refused(pkt *stack.PacketBuffer) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize || tcp.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	from := pkt.Network().SourceAddress()
	if d.shard.stack.CheckLocalAddress(0, pkt.NetworkProtocolNumber, from) != 0 {
		return false // this program itself
	}
	return !d.shard.account.Allowed(netstack.Addr(from))
}

// quotedBytes is how much of our segment an ICMP error has at least (RFC 792): up
// to its sequence number.
const quotedBytes = 8

// DeliverTransportError implements stack.TransportDispatcher: an ICMP error goes
// to the shard whose flow it is about.
func (d *dispatcher) DeliverTransportError(local, remote tcpip.Address, net tcpip.NetworkProtocolNumber, proto tcpip.TransportProtocolNumber, err stack.TransportError, pkt *stack.PacketBuffer) {
	to := d.TransportDispatcher
	if m := d.shard.handover; m != nil && proto == header.TCPProtocolNumber {
		quoted, ok := pkt.Data().PullUp(quotedBytes)
		if !ok {
			return // nobody can tell what it is about
		}
		h := header.TCP(quoted)
		if k, ok := netstack.KeyOf(remote, h.DestinationPort(), local, h.SourcePort()); ok {
			if owner, ok := m.PassError(&k); ok {
				to = d.shard.joined[owner].slowPath // the stack may be called from anywhere
			}
		}
	}
	to.DeliverTransportError(local, remote, net, proto, err, pkt)
}

// ipEndpoint is what the stack's IPv4 and IPv6 endpoints both are, as far as the
// stack asks for it.
type ipEndpoint interface {
	stack.NetworkEndpoint
	stack.AddressableEndpoint
	stack.GroupAddressableEndpoint
	stack.LinkResolvableNetworkEndpoint
	stack.ForwardingNetworkEndpoint
}

// A networkEndpoint is an IP layer that TCP can write past: the link endpoint
// writes the IP header itself. That saves three map look-ups, two firewall checks
// and a header buffer per packet.
type networkEndpoint struct {
	ipEndpoint
	shard *Shard
}

// WritePacket implements stack.NetworkEndpoint.
func (e *networkEndpoint) WritePacket(r *stack.Route, p stack.NetworkHeaderParams, pkt *stack.PacketBuffer) tcpip.Error {
	if p.Protocol == header.TCPProtocolNumber {
		if m := e.shard.handover; m != nil {
			m.Sent(r, pkt)
		}
		if sent, err := e.shard.engine.WriteTCP(r, &p, pkt); sent {
			return err
		}
	}
	return e.ipEndpoint.WritePacket(r, p, pkt)
}
