package tcp

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
)

// A way is how segments get from one address to another. It never changes.
type way struct {
	route *stack.Route
	netif.Route
	path netif.TCPPath // where connections begin
}

type wayKey struct{ local, remote tcpip.Address }

// maxWays bounds what is remembered, which a flood of SYNs from many addresses
// would make grow. The rest is asked for anew.
const maxWays = 4096

// ways remembers the way to each destination: asking gVisor, and the kernel of a
// shared device, costs each connection microseconds.
type ways struct {
	mu    sync.RWMutex
	epoch uint64 // Protocol.routes when they were found
	known map[wayKey]*way
	ended bool // nothing is remembered any more
}

// get returns a way that was found when the routes were at epoch, with a reference
// to its route, which the caller releases.
func (w *ways) get(epoch uint64, local, remote tcpip.Address) *way {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.epoch != epoch {
		return nil
	}
	found := w.known[wayKey{local, remote}]
	if found != nil {
		found.route.Acquire()
	}
	return found
}

// has tells whether there is one.
func (w *ways) has(epoch uint64, local, remote tcpip.Address) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.epoch == epoch && w.known[wayKey{local, remote}] != nil
}

// put remembers a way.
func (w *ways) put(epoch uint64, local, remote tcpip.Address, found *way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || epoch < w.epoch {
		return // or the routes changed meanwhile
	}
	if w.epoch != epoch || len(w.known) >= maxWays {
		w.dropLocked()
	}
	if w.known == nil {
		w.known = make(map[wayKey]*way)
	}
	w.epoch = epoch
	k := wayKey{local, remote}
	if w.known[k] == nil {
		found.route.Acquire()
		w.known[k] = found
	}
}

// drop forgets all.
func (w *ways) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropLocked()
}

// end forgets all for good.
func (w *ways) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.dropLocked()
}

func (w *ways) dropLocked() {
	for _, old := range w.known {
		old.route.Release()
	}
	w.known = nil
}

// findWay returns the way between two addresses, of which local may be empty, with a
// reference to its route. The routes were at epoch before.
func (p *Protocol) findWay(epoch uint64, nic tcpip.NICID, local, remote tcpip.Address, proto tcpip.NetworkProtocolNumber) (*way, tcpip.Error) {
	if nic == 0 {
		if known := p.ways.get(epoch, local, remote); known != nil {
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
	found := &way{route: route, Route: p.out.Route(route.LocalAddress(), route.RemoteAddress(), route.NextHop())}
	found.path = netif.NewTCPPath(route.LocalAddress(), route.RemoteAddress(), found.Hop, route.DefaultTTL())
	if nic == 0 && found.Hop.Len() > 0 {
		p.ways.put(epoch, local, remote, found)
	}
	return found, nil
}
