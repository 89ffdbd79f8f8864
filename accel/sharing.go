package accel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/netstack"
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
	// bypassOnce says once what does not see our connections.
	bypassOnce sync.Once
	running    bool
	// follow: addresses are those of the interface, not of the configuration.
	follow bool
	// limit is the greatest MTU that the device and the configuration allow.
	limit int

	// applying guards the following fields, and is held while the shards are told.
	applying sync.Mutex
	addrs    []netip.Prefix
	// expected are addresses that somebody listens at although no interface has them:
	// yet (ip_nonlocal_bind), or ever (a local route to a whole network).
	expected []netip.Addr

	// mu guards the following fields.
	mu       sync.Mutex
	leases   map[*lease]struct{}
	outbound []*lease // blocks of ports for connections
	closed   bool
	// predecessors are the processes from which ports came.
	predecessors []*predecessor

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
			rt.fail(&link.InterfaceError{
				Interface: name, Problem: "the interface is gone", Remedy: "start again when it is back", Err: syscall.ENODEV,
			})
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

// guard sees to it that the filter is in its place still.
func (s *sharing) guard() {
	f, ok := s.steering.Filter().(link.RestorableFilter)
	if !ok {
		return
	}
	restored, err := f.Restore()
	if errors.Is(err, syscall.ENODEV) {
		return // the follower says so
	}
	if err != nil {
		s.rt.fail(err)
	} else if restored {
		s.log.Warn("somebody had detached the filter: it is attached again; connections of the moment in between may be reset", "device", s.rt.device.Info().Name)
	}
}

// has tells whether an address is one of this host's.
func (s *sharing) has(addr netip.Addr) bool {
	state := s.follower.State()
	return contains(state.Addrs, addr) || slices.Contains(state.Others, addr)
}

// passOn has pass take what belongs to no connection at a local address, until it is
// nil, and reports false where the TCP cannot do that.
func (s *sharing) passOn(local netip.AddrPort, pass func(packet []byte)) bool {
	for _, sh := range s.rt.shards {
		if !sh.PassOn(local, pass) {
			return false
		}
	}
	return true
}

// checkAddrs refuses addresses of the configuration that the kernel has not: it
// answers who asks for the neighbours' MAC addresses, so nobody would find them.
func (s *sharing) checkAddrs() error {
	for _, p := range s.rt.config.Addrs {
		if p.Addr().IsLinkLocalUnicast() || s.has(p.Addr()) || nonlocalBind(p.Addr()) {
			continue
		}
		state := s.follower.State()
		return fmt.Errorf("Config.Addrs has %v, which no interface of this host has: ip addr add %v dev %s, or leave out TPA_ADDR to have the addresses of the interface", p.Addr(), p, state.Name)
	}
	for _, g := range s.rt.config.Gateways {
		if state := s.follower.State(); len(s.rt.config.Addrs) == 0 && !reachable(g, state.Addrs) {
			return fmt.Errorf("Config.Gateways has %v, which is in no prefix of %s: nobody could answer for it", g, state.Name)
		}
	}
	return nil
}

// nonlocalBind tells whether the administrator allows programs to listen at addresses
// that the host does not have yet.
func nonlocalBind(addr netip.Addr) bool {
	family := "ipv4"
	if addr.Is6() {
		family = "ipv6"
	}
	b, err := os.ReadFile("/proc/sys/net/" + family + "/ip_nonlocal_bind")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// stopFollowing ends the notifications.
func (s *sharing) stopFollowing() {
	s.startOnce.Do(func() { close(s.started) })
	s.follower.Close()
	s.mu.Lock()
	predecessors := s.predecessors
	s.mu.Unlock()
	for _, p := range predecessors {
		p.close()
	}
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
			l.hold.release(s)
		}
	}
}
