package accel

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/bifurcation"
)

// sharing is what a runtime does on a device that it shares with the kernel: it
// follows the kernel's addresses, routes and neighbours, and sees to it that the
// flows of its ports come here and that nobody else takes those ports.
type sharing struct {
	rt       *Runtime
	log      *slog.Logger
	follower *follower.Follower
	steering *bifurcation.Steering
	// routing is nil where routes are those of the configuration. routers are what the
	// shards ask.
	routing *routing
	routers []*follower.Routes
	// started is closed when the shards run, or never will (running is false then);
	// notifications from the kernel wait for it.
	started   chan struct{}
	startOnce sync.Once
	running   bool
	// follow: addresses are those of the interface, not of the configuration.
	follow bool
	// limit is the greatest MTU that the device and the configuration allow.
	limit int

	// Owned by the follower's goroutine once started.
	addrs []netip.Prefix

	// mu guards the following fields.
	mu       sync.Mutex
	leases   map[*lease]struct{}
	outbound []*lease // blocks of ports for connections
	closed   bool

	growing sync.Mutex // one goroutine at a time adds to outbound
	// wholeBlocks says that each shard takes those ports of a block whose answers arrive
	// on its queue, not a part of its own: the first block decides for all. growing
	// guards it.
	wholeBlocks bool
}

// share starts to follow the kernel, which has the device by an interface of that
// name. It returns before the shards exist; start has to be called when they do.
func (rt *Runtime) share(dev link.Device, name string, follow bool) (*sharing, error) {
	s := &sharing{
		rt: rt, log: rt.log, follow: follow,
		steering: bifurcation.New(bifurcation.Of(dev)),
		started:  make(chan struct{}),
		leases:   make(map[*lease]struct{}),
	}
	var err error
	s.follower, err = follower.New(name, follower.Events{
		Changed: func(state follower.State) {
			if s.wait() {
				s.changed(state)
			}
		},
		Neighbour: func(addr netip.Addr, mac [6]byte) {
			if s.wait() {
				rt.neighbours.Set(netstack.Address(addr), link.MAC(mac))
			}
		},
		Unreachable: func(addr netip.Addr) {
			if s.wait() {
				rt.neighbours.Delete(netstack.Address(addr))
				s.routerLost(addr)
			}
		},
		Rerouted: func() {
			if s.wait() {
				s.rerouted()
			}
		},
		ICMP: func(packet []byte) {
			if s.wait() {
				for _, sh := range rt.shards {
					sh.DeliverPacket(packet)
				}
			}
		},
		Gone: func() {
			rt.log.Error("the interface is gone: its connections will time out", "device", name)
		},
	}, rt.log)
	if err != nil {
		return nil, err
	}
	if err := s.openRouting(); err != nil {
		s.stopFollowing()
		return nil, err
	}
	return s, nil
}

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
	rt := s.rt
	var errs []error
	addrs := state.Addrs
	if !s.follow {
		addrs = rt.config.Addrs
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

// stopFollowing ends the notifications.
func (s *sharing) stopFollowing() {
	s.startOnce.Do(func() { close(s.started) })
	s.follower.Close()
}

// stop gives every port back. The shards have ended.
func (s *sharing) stop() {
	s.mu.Lock()
	s.closed = true
	leases := s.leases
	s.leases = nil
	s.mu.Unlock()
	s.closeRouting()
	if err := s.steering.Close(); err != nil {
		s.log.Warn("cannot give ports back", "err", err)
	}
	for l := range leases {
		if l.hold != nil {
			l.hold.Close()
		}
	}
}
