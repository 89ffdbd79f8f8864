package accel

import (
	"errors"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/internal/transport"
)

// What a shared device takes from the kernel: addresses, routes, neighbours and the
// MTU, at the start and whenever they change.

// wait holds notifications up until the shards run, and reports whether they do.
func (s *sharing) wait() bool {
	<-s.started
	return s.running
}

// start takes over the kernel's state and lets notifications through. MTUs stay below
// limit.
func (s *sharing) start(limit int) error {
	s.limit = limit
	err := s.apply(s.follower.State())
	s.startOnce.Do(func() {
		s.running = true
		close(s.started)
	})
	return err
}

// Resolve implements netif.Resolver.
func (s *sharing) Resolve(addr tcpip.Address) {
	if a := netstack.Addr(addr); a.IsValid() {
		s.follower.Resolve(a)
	}
}

func (s *sharing) changed(state follower.State) {
	if err := s.apply(state); err != nil {
		s.log.Error("cannot follow a change of the interface", "device", state.Name, "err", err)
	}
	s.log.Info("the interface changed", "device", state.Name, "up", state.Up, "mtu", state.MTU, "addrs", state.Addrs)
}

// apply makes the shards' view that of the kernel.
func (s *sharing) apply(state follower.State) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.applyLocked(state)
}

// expect makes an address ours that the kernel lets us listen at.
func (s *sharing) expect(addr netip.Addr) error {
	addr = addr.WithZone("") // the kernel takes no notice of it, but of a link-local one
	s.applying.Lock()
	defer s.applying.Unlock()
	if !s.follow || slices.Contains(s.expected, addr) || contains(s.addrs, addr) {
		return nil
	}
	s.expected = append(s.expected, addr)
	return s.applyLocked(s.follower.State())
}

// applyLocked is apply, with applying held.
func (s *sharing) applyLocked(state follower.State) error {
	rt := s.rt
	var errs []error
	addrs := state.Local()
	if !s.follow {
		addrs = rt.config.Addrs
	}
	for _, a := range s.expected {
		if s.follow && !contains(addrs, a) {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if len(addrs) > maxAddrs {
		s.log.Warn("more addresses than the filter has room for: the kernel has the last ones", "device", state.Name,
			"addresses", len(addrs), "limit", maxAddrs)
		addrs = addrs[:maxAddrs]
	}
	local := make([]netip.Addr, len(addrs))
	for i, p := range addrs {
		local[i] = p.Addr()
	}
	// The filter first: it must not leave the kernel, which would answer with a
	// reset, what is for an address that can be listened on already.
	errs = append(errs, s.steering.SetAddrs(local))
	for _, p := range s.addrs {
		if !slices.Contains(addrs, p) {
			errs = append(errs, rt.removeAddress(p))
		}
	}
	for _, p := range addrs {
		if !slices.Contains(s.addrs, p) {
			errs = append(errs, rt.addAddress(p))
		}
	}
	s.addrs = slices.Clone(addrs)

	if len(rt.config.Gateways) == 0 {
		routes := make([]shard.Route, len(state.Routes))
		for i, r := range state.Routes {
			d := tcpip.AddressWithPrefix{Address: netstack.Address(r.Destination.Addr()), PrefixLen: r.Destination.Bits()}
			routes[i].Destination = d.Subnet()
			if r.Gateway.IsValid() {
				routes[i].Gateway = netstack.Address(r.Gateway)
			}
		}
		if s.routing != nil {
			// The routers decide: whatever they let pass has a route.
			for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
				routes = append(routes, shard.Route{Destination: tcpip.AddressWithPrefix{Address: netstack.Address(all)}.Subnet()})
			}
		}
		for _, sh := range rt.shards {
			sh.SetRoutes(routes)
		}
	}
	for _, sh := range rt.shards {
		sh.SetMTU(min(state.MTU, s.limit))
		sh.SetZone(transport.Zone{Name: state.Name, Index: state.Index})
	}
	return errors.Join(errs...)
}
