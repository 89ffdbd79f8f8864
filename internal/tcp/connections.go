package tcp

import (
	"iter"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
)

// All connections are in Protocol.flows, from their first SYN until nothing is left
// of them but a record in Protocol.waits. gVisor's demultiplexer has listeners only:
// what it finds a listener for, or nobody, is looked up here first.

// addLocked puts a connection into the table, and reports false where its
// addresses are taken. mu is held, unless nobody else knows the endpoint yet.
func (e *Endpoint) addLocked() bool {
	k, ok := netstack.Key(&e.ID)
	if !ok || !e.p.flows.Add(k, e) {
		return false
	}
	if e.p.waits.has(&k) {
		e.p.flows.Delete(k)
		return false
	}
	e.added = true
	return true
}

// removeLocked takes it out again. mu is held.
func (e *Endpoint) removeLocked() {
	if k, ok := netstack.Key(&e.ID); ok && e.added {
		e.p.flows.Delete(k)
	}
	e.added = false
}

// connection returns the connection between two addresses, nil for none.
func (p *Protocol) connection(id *stack.TransportEndpointID) *Endpoint {
	k, ok := netstack.Key(id)
	if !ok {
		return nil
	}
	e, ok := p.flows.Lookup(&k)
	if !ok || e.current().Over() {
		return nil
	}
	return e
}

// listener returns the endpoint that listens for connections with id, nil for none.
func (p *Protocol) listener(proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) *Endpoint {
	e, _ := p.stack.FindTransportEndpoint(proto, header.TCPProtocolNumber, id, 0).(*Endpoint)
	return e
}

// bound tells whether a connection, of those that did not reserve theirs, has
// a local port.
func (p *Protocol) bound(port uint16) bool {
	for k := range p.flows.All() {
		if uint16(k.Ports) == port {
			return true
		}
	}
	for k := range p.waits.keys() {
		if uint16(k.Ports) == port {
			return true
		}
	}
	return false
}

// all yields the connections. It takes no lock: of those that come and go meanwhile
// it may miss some.
func (p *Protocol) all() iter.Seq[*Endpoint] {
	return func(yield func(*Endpoint) bool) {
		for _, e := range p.flows.All() {
			if !yield(e) {
				return
			}
		}
	}
}

// begin has a SYN answered by its listener, without gVisor's IP layer, and reports
// false where that has to look at it. Only from hosts to which a connection has
// been before is a SYN known to be in order: the addresses are those of us and of
// a neighbour then.
func (p *Protocol) begin(in *flow.Segment) bool {
	id := netstack.ID(in)
	if !p.destinations.has(p.routes.Load(), id.LocalAddress, id.RemoteAddress) {
		return false
	}
	l := p.listener(in.Network, id)
	if l == nil || l.current() != listening {
		return false
	}
	a := arrival{ep: l, id: id, proto: in.Network, header: in.Header()[:in.TCPLen]}
	p.take(&a, in.Payload())
	return true
}

// old hands a segment to a record in TIME-WAIT, and reports false where there is none.
func (p *Protocol) old(in *flow.Segment) bool {
	a := arrival{id: netstack.ID(in), proto: in.Network, header: in.Header()[:in.TCPLen]}
	var s segment
	s.parse(a.header, in.Payload())
	return p.waited(&in.Key, &s, &a)
}

// goOn hands a segment to a connection in SYN-RECEIVED or TIME-WAIT, whose place
// another one may take with it.
func (p *Protocol) goOn(e *Endpoint, in *flow.Segment) {
	a := arrival{ep: e, id: netstack.ID(in), proto: in.Network, header: in.Header()[:in.TCPLen]}
	p.take(&a, in.Payload())
}

func (p *Protocol) take(a *arrival, payload []byte) {
	var s segment
	s.parse(a.header, payload)
	a.ep.arrived(&s, a)
}

// DeliverError tells the connection, which gVisor's demultiplexer does not know, or the
// demultiplexer.
func (p *Protocol) DeliverError(demux stack.TransportDispatcher, id stack.TransportEndpointID, err stack.TransportError, pkt *stack.PacketBuffer) {
	if e := p.connection(&id); e != nil {
		e.HandleError(err, pkt)
		return
	}
	demux.DeliverTransportError(id.LocalAddress, id.RemoteAddress, netstack.Network(id.LocalAddress), header.TCPProtocolNumber, err, pkt)
}
