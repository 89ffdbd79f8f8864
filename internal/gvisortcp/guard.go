package gvisortcp

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// queuer is what gVisor's demultiplexer looks for in a TCP besides
// stack.TransportProtocol: the way past IP into it.
type queuer interface {
	QueuePacket(stack.TransportEndpoint, stack.TransportEndpointID, *stack.PacketBuffer)
	stack.SendBufSizeProto
}

// A guard stands between gVisor's demultiplexer and its TCP, and keeps the limits
// of those segments that begin a connection or belong to none.
type guard struct {
	stack.TransportProtocol
	tcp    queuer
	engine *Engine
}

// SendBufferSize implements stack.SendBufSizeProto.
func (g *guard) SendBufferSize() tcpip.TCPSendBufferSizeRangeOption { return g.tcp.SendBufferSize() }

// QueuePacket hands a segment to its endpoint. The poller calls it, and whoever
// sends to an address of this stack itself.
func (g *guard) QueuePacket(ep stack.TransportEndpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	if l, ok := ep.(*tcp.Endpoint); ok && l.EndpointState() == tcp.StateListen {
		flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
		listener, _ := g.engine.listeners.Load(l)
		e, _ := listener.(transport.Endpoint)
		a := g.engine.account
		if !a.Admit(e, flags) {
			return
		}
		if flags&header.TCPFlagSyn != 0 && !a.Cookies() {
			g.engine.conntrack.answered(id, pkt)
		}
	}
	g.tcp.QueuePacket(ep, id, pkt)
}

// HandleUnknownDestinationPacket answers a segment that belongs to no endpoint
// with a reset, as often as Limits.Resets allows.
func (g *guard) HandleUnknownDestinationPacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) stack.UnknownDestinationPacketDisposition {
	if header.TCP(pkt.TransportHeader().Slice()).Flags()&header.TCPFlagRst == 0 && !g.engine.account.MayReset() {
		return stack.UnknownDestinationPacketHandled
	}
	return g.TransportProtocol.HandleUnknownDestinationPacket(id, pkt)
}

// Deliver implements slowpath.TCP: it keeps back what conntrack does not believe.
func (g *Engine) Deliver(demux stack.TransportDispatcher, pkt *stack.PacketBuffer) stack.TransportPacketDisposition {
	return g.conntrack.deliver(demux, pkt)
}

// DeliverError implements slowpath.TCP.
func (g *Engine) DeliverError(demux stack.TransportDispatcher, id stack.TransportEndpointID, quoted header.TCP, err stack.TransportError, pkt *stack.PacketBuffer) {
	net := netstack.Network(id.LocalAddress)
	if k, ok := netstack.Key(&id); ok {
		if !g.conntrack.believable(&k, quoted) {
			return
		}
		err = bounded(net, err)
	}
	demux.DeliverTransportError(id.LocalAddress, id.RemoteAddress, net, header.TCPProtocolNumber, err, pkt)
}

// WriteTCP implements slowpath.TCP.
func (g *Engine) WriteTCP(r *stack.Route, p *stack.NetworkHeaderParams, pkt *stack.PacketBuffer) (bool, tcpip.Error) {
	g.conntrack.departing(r, pkt)
	return g.c.Link.WriteTCP(r, p, pkt)
}
