package tcp

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
)

// A destination is how segments get from one address to another. It never changes.
type destination struct {
	route *stack.Route
	netif.Route
	path netif.TCPPath // where connections begin
}

type destinationKey struct{ local, remote tcpip.Address }

// maxDestinations bounds what is remembered, which a flood of SYNs from many addresses
// would make grow. The rest is asked for anew.
const maxDestinations = 4096

// destinations is a cache of them, as Linux's of dst_entry: asking gVisor, and the
// kernel of a shared device, costs each connection microseconds.
type destinations struct {
	mu    sync.RWMutex
	epoch uint64 // Protocol.routes when they were found
	known map[destinationKey]*destination
	ended bool // nothing is remembered any more
}

// get returns a destination that was found when the routes were at epoch, with a reference
// to its route, which the caller releases.
func (c *destinations) get(epoch uint64, local, remote tcpip.Address) *destination {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.epoch != epoch {
		return nil
	}
	found := c.known[destinationKey{local, remote}]
	if found != nil {
		found.route.Acquire()
	}
	return found
}

// has tells whether there is one.
func (c *destinations) has(epoch uint64, local, remote tcpip.Address) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch == epoch && c.known[destinationKey{local, remote}] != nil
}

// put remembers a destination.
func (c *destinations) put(epoch uint64, local, remote tcpip.Address, found *destination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || epoch < c.epoch {
		return // or the routes changed meanwhile
	}
	if c.epoch != epoch || len(c.known) >= maxDestinations {
		c.dropLocked()
	}
	if c.known == nil {
		c.known = make(map[destinationKey]*destination)
	}
	c.epoch = epoch
	k := destinationKey{local, remote}
	if c.known[k] == nil {
		found.route.Acquire()
		c.known[k] = found
	}
}

// drop forgets all.
func (c *destinations) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
}

// end forgets all for good.
func (c *destinations) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.dropLocked()
}

func (c *destinations) dropLocked() {
	for _, old := range c.known {
		old.route.Release()
	}
	c.known = nil
}

// findDestination returns how to get from one address to another, of which local may be
// empty, with a reference to its route. The routes were at epoch before.
func (p *Protocol) findDestination(epoch uint64, nic tcpip.NICID, local, remote tcpip.Address, proto tcpip.NetworkProtocolNumber) (*destination, tcpip.Error) {
	if nic == 0 {
		if known := p.destinations.get(epoch, local, remote); known != nil {
			return known, nil
		}
	}
	source := local
	if source.Len() == 0 {
		source = p.out.Source(remote)
	}
	route, err := p.stack.FindRoute(nic, source, remote, proto, false)
	if err != nil {
		return nil, err
	}
	found := &destination{route: route, Route: p.out.Route(route.LocalAddress(), route.RemoteAddress(), route.NextHop())}
	found.path = netif.NewTCPPath(route.LocalAddress(), route.RemoteAddress(), found.Hop, route.DefaultTTL())
	if nic == 0 && found.Hop.Len() > 0 {
		p.destinations.put(epoch, local, remote, found)
	}
	return found, nil
}
