package netif

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/netstack"
)

// A Router decides where packets go on a device that somebody else owns: the kernel.
// Its methods may be called by anyone, the poller among them, and return within
// microseconds.
type Router interface {
	// Route returns the way between two addresses, false where packets must not leave
	// by this device.
	Route(local, remote netip.Addr) (Route, bool)
	// Source returns the local address for connections to remote, the zero Addr for
	// that of the stack's choice.
	Source(remote netip.Addr) netip.Addr
}

// A Route is the way from one address to another.
type Route struct {
	// Hop is the neighbour on the way, the zero Address where there is no way. It may
	// be of the other IP version.
	Hop tcpip.Address
	// MTU is the greatest IP packet and MSS the greatest TCP payload to announce, in
	// bytes; 0 stands for those of the interface.
	MTU, MSS int
}

// SetRouter has packets follow a router in the place of the stack's routes. It must
// be called before Attach.
func (e *Endpoint) SetRouter(r Router) { e.router = r }

// Route returns the way between two addresses. routed is the stack's next hop, empty
// for none.
func (e *Endpoint) Route(local, remote, routed tcpip.Address) Route {
	if e.router != nil && !group(remote) {
		route, ok := e.router.Route(netstack.Addr(local), netstack.Addr(remote))
		if !ok {
			e.stats.txNoRoute.Add(1)
			return Route{}
		}
		return route
	}
	return Route{Hop: e.hopTo(remote, routed)}
}

func group(a tcpip.Address) bool {
	return header.IsV4MulticastAddress(a) || header.IsV6MulticastAddress(a) || a == header.IPv4Broadcast
}

// Source returns the router's local address for connections to remote, empty for the
// stack's choice.
func (e *Endpoint) Source(remote tcpip.Address) tcpip.Address {
	if e.router == nil {
		return tcpip.Address{}
	}
	return netstack.Address(e.router.Source(netstack.Addr(remote)))
}
