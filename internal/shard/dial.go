package shard

import (
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/transport"
)

// outbound chooses the local ports of connections that this shard makes.
type outbound struct {
	// mu makes dials take turns until each has its port.
	mu    sync.Mutex
	ports *rss.Ports // nil until the first dial
	// block says that no other shard has these ports.
	block bool
}

// Bind implements transport.Stack. A local port that is left open becomes one from
// which remote's answers come back to this shard's queue, as far as it is known
// how the device spreads flows. If it is not, shards take ports in turn, so that
// two never have the same connection, and answers are handed over.
//
// The stack's own choice would cost several microseconds, and more with each
// connection in TIME-WAIT: it tries ports at random.
func (s *Shard) Bind(ep transport.Endpoint, local, remote netip.AddrPort) error {
	given := func() error { // Connect chooses the rest, or tells why not
		if local == (netip.AddrPort{}) {
			return nil
		}
		return ep.Bind(local, false)
	}
	if local.Port() != 0 || !remote.Addr().IsValid() || remote.Addr().Is4In6() {
		return given()
	}
	to := netstack.Address(remote.Addr())
	source, ok := s.engine.Source(netstack.Address(local.Addr()), to)
	from := netstack.Addr(source)
	if !ok || !from.IsValid() {
		return given()
	}

	o := &s.outbound
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := s.portsLocked(); err != nil {
		return err
	}
	var spread *rss.Spread
	own := o.block || s.handover == nil
	if s.handover != nil {
		spread = s.handover.Spread()
	}
	search := o.ports.Search(spread, from, remote, s.index)
	for {
		port, ok := search.Next()
		if !ok {
			return transport.ErrPortsTaken
		}
		if spread == nil && !own && int(port)%s.handover.Shards() != s.index {
			continue
		}
		local = netip.AddrPortFrom(from, port)
		if s.taken(local, remote) {
			continue
		}
		// Ports serve several connections, to different ends.
		if err := s.engine.From(ep, local); err != syscall.EADDRINUSE {
			return err
		}
	}
}

// portsLocked makes sure of the finder of ports. outbound.mu is held.
func (s *Shard) portsLocked() (err error) {
	if o := &s.outbound; o.ports == nil {
		first, last := s.stack.PortRange()
		random := s.stack.SecureRNG()
		o.ports, err = rss.NewPorts(first, last, random.Uint32)
	}
	return err
}

// taken tells whether there is a connection between two addresses already.
func (s *Shard) taken(local, remote netip.AddrPort) bool {
	if local == remote {
		return true
	}
	id := stack.TransportEndpointID{
		LocalAddress: netstack.Address(local.Addr()), LocalPort: local.Port(),
		RemoteAddress: netstack.Address(remote.Addr()), RemotePort: remote.Port(),
	}
	if s.engine.Taken(id) {
		return true
	}
	if s.handover == nil {
		return false
	}
	// Another shard may have it from before the device changed its RSS.
	k, ok := netstack.Key(&id)
	return ok && s.handover.Taken(&k)
}
