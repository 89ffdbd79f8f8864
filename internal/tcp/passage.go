package tcp

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
)

// A passage is a port that another process has from now on. Its connections that are
// here go on; what belongs to none of them is the other process's.
type passage struct {
	local netip.AddrPort // the zero Addr for all addresses
	pass  func(packet []byte)
}

// PassOn has pass take the IP packets of segments to local that belong to no
// connection: no new one begins here, and none is answered with a reset. The
// unspecified address of an IP version stands for all of it, the zero Addr for both.
// Only the poller calls pass, which must not keep the packet. A later call for the
// same address takes the place of this one; nil ends it. It reports true.
func (g *Engine) PassOn(local netip.AddrPort, pass func(packet []byte)) bool {
	p := g.p
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []passage
	if old := p.passages.Load(); old != nil {
		all = slices.DeleteFunc(slices.Clone(*old), func(o passage) bool { return o.local == local })
	}
	if pass != nil {
		all = append(all, passage{local, pass})
	}
	if len(all) == 0 {
		p.passages.Store(nil)
		return true
	}
	p.passages.Store(&all)
	return true
}

// passage returns where segments of no connection go that are to id's local end, nil
// for nowhere else.
func (p *Protocol) passage(id *stack.TransportEndpointID) *passage {
	all := p.passages.Load()
	if all == nil {
		return nil
	}
	local, _ := netstack.Ends(id)
	for i := range *all {
		o := &(*all)[i]
		a := o.local.Addr()
		if o.local.Port() == local.Port() && (!a.IsValid() || a == local.Addr() || a.IsUnspecified() && a.Is4() == local.Addr().Is4()) {
			return o
		}
	}
	return nil
}

// passOn takes a segment of no connection if its port is another process's.
func (p *Protocol) passOn(s *flow.Segment) bool {
	if p.passages.Load() == nil {
		return false
	}
	id := netstack.ID(s)
	o := p.passage(&id)
	if o == nil {
		return false
	}
	o.pass(s.Packet)
	return true
}

// Pending is how many connections a listener has that nobody has accepted, those in
// their handshake among them.
func (e *Endpoint) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current() != listening {
		return 0
	}
	return len(e.listen.synQueue) + e.listen.waiting()
}
