package slowpath

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/link"
)

// A SYN on the slow path. The poller, in internal/shard, gives the burst that it is in
// to the engine's Receive, which finds no connection that it belongs to, and none that
// has been to its source since the routes changed last. That is all that internal/shard
// has to do with it. From there:
//
//  1. Take, below. Segments of another shard's flow, and fragments, go to that shard,
//     the rest to gVisor's stack, through its link endpoint (netif.Endpoint.Deliver).
//  2. The stack's IP layer checks the packet, joins fragments, and knows whether the
//     address is ours. It hands TCP to its dispatcher, which is ours:
//  3. dispatcher, below, drops SYNs of sources that may not connect, and gives another
//     shard what IP has found to be its: segments with IP options or of several
//     fragments, and ICMP errors. What is left it gives the engine: TCP.Deliver and
//     TCP.DeliverError. internal/gvisortcp drops there what the peer cannot have sent;
//     internal/tcp finds the connection that an error is about.
//  4. The engine has the stack's demultiplexer find the listener. That calls
//     QueuePacket of its TCP, or HandleUnknownDestinationPacket for a segment that
//     nobody listens to. Of internal/gvisortcp both are a guard's, before gVisor's TCP
//     (guard.go), where the limits decide (limits.Account.Admit). internal/tcp queues the
//     segment until gVisor, whose locks are held here, has returned; then the limits
//     decide, and the listener answers (tcp.Protocol.Drain).
//
// The answer of internal/tcp claims the flow for this shard (Departing, below) and
// leaves past the stack (netif.Endpoint.SendTCP). The stack's route is for the rest:
// what gVisor's TCP sends, and of internal/tcp cookies, resets, and segments whose next
// hop is not known yet or whose peer is this host. On that route is
//
//  5. networkEndpoint, below, whose WritePacket claims the flow for this shard, and has
//     the engine write the segment past IP where it can. What is left takes the IP
//     layer's own way.
//
// With the handshake through, package net tells the shard: Established. From then on at
// the latest the flow's segments take the fast path, Engine.Receive alone. With
// internal/tcp they do from the SYN on, where a connection has been to the peer's host
// before.

// A TCP is an engine as its slow path meets it.
type TCP interface {
	// Deliver hands a segment to the demultiplexer, unless it is not to be believed.
	Deliver(demux stack.TransportDispatcher, pkt *stack.PacketBuffer) stack.TransportPacketDisposition
	// DeliverError tells of an ICMP error, in pkt, about a segment of ours, of which
	// quoted has the first bytes and id the addresses.
	DeliverError(demux stack.TransportDispatcher, id stack.TransportEndpointID, quoted header.TCP, err stack.TransportError, pkt *stack.PacketBuffer)
	// WriteTCP sends a segment past the stack's IP layer, if that can be.
	WriteTCP(*stack.Route, *stack.NetworkHeaderParams, *stack.PacketBuffer) (sent bool, err tcpip.Error)
}

// A Path is the slow path of one shard. Its exported fields are set before there is
// traffic.
type Path struct {
	Link *netif.Endpoint
	TCP  TCP
	// Account keeps the limits.
	Account *limits.Account
	// Handover and Joined, the paths of all shards by their number, are nil where the
	// shard is alone.
	Handover *handover.Member
	Joined   []*Path

	stack *stack.Stack
	demux stack.TransportDispatcher
}

// Take takes a frame that the engine does not. k is the key of a plain segment of a
// flow that is not in its table, nil for all else. Only the poller calls it.
func (p *Path) Take(f *link.Frame, k *flow.Key) {
	if m := p.Handover; m != nil {
		if k != nil && m.HandOver(f, k) || m.Gather(f) {
			return
		}
	}
	p.Link.Deliver(f)
}

// Elsewhere tells whether a flow is another shard's.
func (p *Path) Elsewhere(k *flow.Key) bool {
	if p.Handover == nil {
		return false
	}
	_, elsewhere := p.Handover.Owner(k)
	return elsewhere
}

// Departing claims the flow of a SYN or SYN-ACK that is about to leave past the stack.
func (p *Path) Departing(k flow.Key) {
	if p.Handover != nil {
		p.Handover.Departing(&k)
	}
}

// Wrap is a factory of an IP layer whose endpoints are networkEndpoints.
func (p *Path) Wrap(factory stack.NetworkProtocolFactory) stack.NetworkProtocolFactory {
	return func(s *stack.Stack) stack.NetworkProtocol {
		p.stack = s
		return &networkProtocol{factory(s), p}
	}
}

type networkProtocol struct {
	stack.NetworkProtocol
	path *Path
}

// NewEndpoint implements stack.NetworkProtocol. demux is the same for each protocol.
func (p *networkProtocol) NewEndpoint(nic stack.NetworkInterface, demux stack.TransportDispatcher) stack.NetworkEndpoint {
	p.path.demux = demux
	inner := p.NetworkProtocol.NewEndpoint(nic, &dispatcher{demux, p.path})
	if full, ok := inner.(ipEndpoint); ok {
		return &networkEndpoint{full, p.path}
	}
	// Not one of the two protocols this was written for: leave it alone.
	return inner
}

// A dispatcher stands between the stack's IP layers and its demultiplexer.
type dispatcher struct {
	stack.TransportDispatcher // the demultiplexer
	path                      *Path
}

// DeliverTransportPacket implements stack.TransportDispatcher.
func (d *dispatcher) DeliverTransportPacket(proto tcpip.TransportProtocolNumber, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	if proto != header.TCPProtocolNumber {
		return d.TransportDispatcher.DeliverTransportPacket(proto, pkt)
	}
	p := d.path
	if p.Account.Restricted() && p.forbidden(pkt) {
		return stack.TransportPacketHandled
	}
	if p.Handover != nil && p.Handover.PassOn(pkt) {
		return stack.TransportPacketHandled
	}
	return p.TCP.Deliver(d.TransportDispatcher, pkt)
}

// forbidden tells whether a segment wants a connection that its source may not have.
func (p *Path) forbidden(pkt *stack.PacketBuffer) bool {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if len(tcp) < header.TCPMinimumSize || tcp.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	from := pkt.Network().SourceAddress()
	if p.stack.CheckLocalAddress(0, pkt.NetworkProtocolNumber, from) != 0 {
		return false // this program itself
	}
	return !p.Account.Allowed(netstack.Addr(from))
}

// quotedBytes is how much of our segment an ICMP error has at least (RFC 792): up
// to its sequence number.
const quotedBytes = 8

// DeliverTransportError implements stack.TransportDispatcher: an ICMP error goes
// to the shard whose flow it is about.
func (d *dispatcher) DeliverTransportError(local, remote tcpip.Address, net tcpip.NetworkProtocolNumber, proto tcpip.TransportProtocolNumber, err stack.TransportError, pkt *stack.PacketBuffer) {
	if proto != header.TCPProtocolNumber {
		d.TransportDispatcher.DeliverTransportError(local, remote, net, proto, err, pkt)
		return
	}
	b, ok := pkt.Data().PullUp(quotedBytes)
	if !ok {
		return // nobody can tell what it is about
	}
	quoted, to := header.TCP(b), d.path
	id := stack.TransportEndpointID{LocalAddress: local, LocalPort: quoted.SourcePort(), RemoteAddress: remote, RemotePort: quoted.DestinationPort()}
	if m := to.Handover; m != nil {
		if k, ok := netstack.Key(&id); ok {
			if owner, ok := m.PassError(&k); ok {
				to = to.Joined[owner] // its stack may be called from anywhere
			}
		}
	}
	to.TCP.DeliverError(to.demux, id, quoted, err, pkt)
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
	path *Path
}

// WritePacket implements stack.NetworkEndpoint.
func (e *networkEndpoint) WritePacket(r *stack.Route, p stack.NetworkHeaderParams, pkt *stack.PacketBuffer) tcpip.Error {
	if p.Protocol == header.TCPProtocolNumber {
		if m := e.path.Handover; m != nil {
			m.Sent(r, pkt)
		}
		if sent, err := e.path.TCP.WriteTCP(r, &p, pkt); sent {
			return err
		}
	}
	return e.ipEndpoint.WritePacket(r, p, pkt)
}
