package accel

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/ports"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/bifurcation"
)

// outboundPorts is how many local ports each shard gets for connections of its
// own, when the first one is dialed. Each costs a file descriptor that holds it.
const outboundPorts = 512

// sharing is what a runtime does on a device that it shares with the kernel: it
// follows the kernel's addresses, routes and neighbours, and sees to it that the
// flows of its ports come here and that nobody else takes those ports.
type sharing struct {
	rt       *Runtime
	log      *slog.Logger
	follower *follower.Follower
	steering *bifurcation.Steering
	// started is closed when the shards run, or never will (running is false then);
	// news from the kernel wait for it.
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
	outbound *lease
	closed   bool
}

// A lease is a port, or a block of them, that is held in the kernel and claimed
// on the device.
type lease struct {
	sharing *sharing
	hold    *ports.Reservation // nil once the port has been given back
	claim   *bifurcation.Claim
	first   uint16
	count   int
	// kept are flows that others had at the port before.
	kept []link.Flow
	// ended: no new connection comes; flows are those that were left of it.
	ended bool
	flows []link.Flow
}

// share starts to follow the kernel, which has the device by an interface of that
// name. It returns before the shards exist; start
// has to be called when they do.
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
	return s, nil
}

// wait holds news up until the shards run, and reports whether they do.
func (s *sharing) wait() bool {
	<-s.started
	return s.running
}

// start takes over the kernel's state and lets news through. MTUs stay below
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

// listen takes a port for a listener, and fills in the number where addr leaves
// that open. The error is that of package net for a port in use.
func (s *sharing) listen(network string, addr *net.TCPAddr) (*lease, error) {
	ip := listenAddr(network, addr)
	hold, err := ports.Reserve(network, netip.AddrPortFrom(ip, uint16(addr.Port)))
	if err != nil {
		return nil, err
	}
	addr.Port = int(hold.First())
	kept, err := s.flowsOfOthers(hold.First())
	if err != nil {
		s.log.Warn("connections that others have at this port may be reset", "port", addr.Port, "err", err)
	}
	return s.lease(hold, bifurcation.Ports{Addr: ip, Kept: kept})
}

// flowsOfOthers returns the connections at a port that the kernel has, and those
// that other servers on the device have left after they gave the port back.
func (s *sharing) flowsOfOthers(port uint16) ([]link.Flow, error) {
	connections, err := ports.Connections(port)
	var flows []link.Flow
	for _, c := range connections {
		flows = append(flows, link.Flow(c))
	}
	others, oerr := s.steering.Others(port)
	return append(flows, others...), errors.Join(err, oerr)
}

// listenAddr is the address to listen on, the zero Addr for all of both IP
// versions, that of an IP version for all of it.
func listenAddr(network string, addr *net.TCPAddr) netip.Addr {
	ip := addr.AddrPort().Addr().Unmap()
	switch {
	case ip.IsValid() && !ip.IsUnspecified():
		return ip
	case network == "tcp4":
		return netip.IPv4Unspecified()
	case network == "tcp6":
		return netip.IPv6Unspecified()
	}
	return netip.Addr{}
}

// lease claims held ports on the device.
func (s *sharing) lease(hold *ports.Reservation, want bifurcation.Ports) (*lease, error) {
	want.First, want.Count = hold.First(), hold.Count()
	claim, err := s.steering.Claim(want)
	if err != nil {
		hold.Close()
		return nil, err
	}
	l := &lease{sharing: s, hold: hold, claim: claim, first: want.First, count: want.Count, kept: want.Kept}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		claim.Release()
		hold.Close()
		return nil, errClosed
	}
	s.leases[l] = struct{}{}
	return l, nil
}

// dial makes sure that there are local ports for connections: one block for each
// shard. laddr may ask for one port, which gets a lease of its own.
func (s *sharing) dial(network string, laddr *net.TCPAddr) (*lease, error) {
	if laddr != nil && laddr.Port != 0 && !s.isOutbound(laddr.Port) {
		return s.listen(network, &net.TCPAddr{IP: laddr.IP, Port: laddr.Port, Zone: laddr.Zone})
	}
	s.mu.Lock()
	have := s.outbound != nil
	s.mu.Unlock()
	if have {
		return nil, nil
	}
	shards := 1
	for shards < len(s.rt.shards) {
		shards *= 2
	}
	hold, err := ports.ReserveBlock(min(outboundPorts*shards, 16384))
	if err != nil {
		return nil, err
	}
	l, err := s.lease(hold, bifurcation.Ports{})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.outbound != nil { // another goroutine was faster
		s.mu.Unlock()
		l.release()
		return nil, nil
	}
	s.outbound = l
	s.mu.Unlock()
	each := l.count / shards
	for i, sh := range s.rt.shards {
		first := l.first + uint16(i*each)
		if err := sh.SetPortRange(first, first+uint16(each)-1); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// isOutbound tells whether a port is one of those that shards take for their
// connections, and so held already.
func (s *sharing) isOutbound(port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outbound != nil && port >= int(s.outbound.first) && port < int(s.outbound.first)+s.outbound.count
}

// release gives ports back at once, with any connections at them.
func (l *lease) release() {
	s := l.sharing
	s.mu.Lock()
	delete(s.leases, l)
	s.mu.Unlock()
	l.claim.Release()
	if l.hold != nil {
		l.hold.Close()
		l.hold = nil
	}
}

// end gives the port to whoever wants it next, while connections that were made
// at it go on here.
func (l *lease) end() {
	s := l.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended || s.closed {
		return
	}
	l.ended = true
	l.flows = s.flows(l.first)
	if len(l.flows) > 0 {
		if err := l.claim.Drain(l.flows); err != nil {
			// The filter cannot tell flows apart: the port stays ours with the flows.
			s.log.Debug("a port stays held while it has connections", "port", l.first, "err", err)
			return
		}
	} else {
		delete(s.leases, l)
		l.claim.Release()
	}
	l.hold.Close()
	l.hold = nil
}

// flows returns the connections at a local port.
func (s *sharing) flows(port uint16) []link.Flow {
	var flows []link.Flow
	for _, sh := range s.rt.shards {
		flows = append(flows, sh.Flows(port)...)
	}
	return flows
}

// tend lets go of what connections have ended since the last call.
func (s *sharing) tend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for l := range s.leases {
		if len(l.kept) > 0 {
			l.tendKept()
		}
		if !l.ended {
			continue
		}
		now := s.flows(l.first)
		if len(now) == 0 {
			delete(s.leases, l)
			l.claim.Release()
			if l.hold != nil {
				l.hold.Close()
				l.hold = nil
			}
			continue
		}
		if gone := without(l.flows, now); len(gone) > 0 && l.hold == nil {
			if err := s.steering.Except(gone); err != nil {
				s.log.Warn("cannot give back connections that ended", "port", l.first, "err", err)
			}
			l.flows = now
		}
	}
}

// tendKept ends the exceptions for connections that others have no more.
func (l *lease) tendKept() {
	now, err := l.sharing.flowsOfOthers(l.first)
	if err != nil {
		return
	}
	if gone := without(l.kept, now); len(gone) > 0 {
		if err := l.sharing.steering.Except(gone); err != nil {
			return
		}
		l.kept = without(l.kept, gone)
	}
}

// without returns those of a that are not in b.
func without(a, b []link.Flow) []link.Flow {
	in := make(map[link.Flow]bool, len(b))
	for _, f := range b {
		in[f] = true
	}
	var rest []link.Flow
	for _, f := range a {
		if !in[f] {
			rest = append(rest, f)
		}
	}
	return rest
}

// quiet ends the news.
func (s *sharing) quiet() {
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
	if err := s.steering.Close(); err != nil {
		s.log.Warn("cannot give ports back", "err", err)
	}
	for l := range leases {
		if l.hold != nil {
			l.hold.Close()
		}
	}
}
