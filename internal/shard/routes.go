package shard

import (
	"fmt"
	"net/netip"
	"sort"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netstack"
)

// AddAddress makes an address with its prefix ours.
func (s *Shard) AddAddress(a tcpip.AddressWithPrefix) error {
	proto := header.IPv4ProtocolNumber
	if a.Address.Len() == header.IPv6AddressSize {
		proto = header.IPv6ProtocolNumber
	}
	err := s.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: a}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("adding address %v: %v", a, err)
	}
	s.engine.RoutesChanged()
	return nil
}

// RemoveAddress takes back AddAddress. Connections from the address end with
// their next segment.
func (s *Shard) RemoveAddress(a tcpip.Address) error {
	if err := s.stack.RemoveAddress(nicID, a); err != nil {
		return fmt.Errorf("removing address %v: %v", a, err)
	}
	s.engine.RoutesChanged()
	return nil
}

// A Route sends a prefix to a gateway, or straight to the link when the gateway
// is empty.
type Route struct {
	Destination tcpip.Subnet
	Gateway     tcpip.Address
}

// SetRoutes replaces the routing table. The first route that fits wins.
func (s *Shard) SetRoutes(routes []Route) {
	table := make([]tcpip.Route, len(routes))
	for i, r := range routes {
		table[i] = tcpip.Route{Destination: r.Destination, Gateway: r.Gateway, NIC: nicID}
	}
	s.stack.SetRouteTable(table)
	if s.routed.Swap(true) {
		s.link.SetRoutes(table)
	}
	s.engine.RoutesChanged()
}

// Rerouted says that the router has other ways than before.
func (s *Shard) Rerouted() { s.engine.RoutesChanged() }

// Addresses returns our unicast addresses, sorted.
func (s *Shard) Addresses() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range s.stack.AllAddresses()[nicID] {
		if ip := netstack.Addr(a.AddressWithPrefix.Address); ip.IsValid() && a.AddressWithPrefix.Address != header.IPv4Broadcast {
			all = append(all, netip.PrefixFrom(ip, a.AddressWithPrefix.PrefixLen))
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Compare(all[j]) < 0 })
	return all
}

// Routes returns the routing table.
func (s *Shard) Routes() []Route {
	var routes []Route
	for _, r := range s.stack.GetRouteTable() {
		routes = append(routes, Route{Destination: r.Destination, Gateway: r.Gateway})
	}
	return routes
}
