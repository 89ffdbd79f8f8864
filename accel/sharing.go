package accel

import (
	"log/slog"
	"net/netip"
	"sync"

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
