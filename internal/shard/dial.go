package shard

import (
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/handover"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/transport"
)

// outbound chooses the local ports of connections that this shard makes.
type outbound struct {
	index    int // the shard's number
	stack    *stack.Stack
	engine   Engine
	handover *handover.Member // nil where the shard is alone

	// mu makes dials take turns until each has its port.
	mu    sync.Mutex
	ports *rss.Ports // nil until the first dial
	// block says that no other shard has these ports.
	block bool
}

// bind gives ep, which is about to connect to remote, a local address. A local port
// that is left open becomes one from which remote's answers come back to this shard's
// queue, as far as it is known how the device spreads flows. If it is not, shards take ports in turn, so that
// two never have the same connection, and answers are handed over.
//
// The stack's own choice would cost several microseconds, and more with each
// connection in TIME-WAIT: it tries ports at random.
func (o *outbound) bind(ep transport.Endpoint, local, remote netip.AddrPort) error {
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
	source, ok := o.engine.Source(netstack.Address(local.Addr()), to)
	from := netstack.Addr(source)
	if !ok || !from.IsValid() {
		return given()
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.portsLocked(); err != nil {
		return err
	}
	var spread *rss.Spread
	own := o.block || o.handover == nil
	if o.handover != nil {
		spread = o.handover.Spread()
	}
	search := o.ports.Search(spread, from, remote, o.index)
	for {
		port, ok := search.Next()
		if !ok {
			return transport.ErrPortsTaken
		}
		if spread == nil && !own && int(port)%o.handover.Shards() != o.index {
			continue
		}
		local = netip.AddrPortFrom(from, port)
		if o.taken(local, remote) {
			continue
		}
		// Ports serve several connections, to different ends.
		if err := o.engine.From(ep, local); err != syscall.EADDRINUSE {
			return err
		}
	}
}

// portsLocked makes sure of the finder of ports. outbound.mu is held.
func (o *outbound) portsLocked() (err error) {
	if o.ports == nil {
		first, last := o.stack.PortRange()
		random := o.stack.SecureRNG()
		o.ports, err = rss.NewPorts(first, last, random.Uint32)
	}
	return err
}

// taken tells whether there is a connection between two addresses already.
func (o *outbound) taken(local, remote netip.AddrPort) bool {
	if local == remote {
		return true
	}
	id := stack.TransportEndpointID{
		LocalAddress: netstack.Address(local.Addr()), LocalPort: local.Port(),
		RemoteAddress: netstack.Address(remote.Addr()), RemotePort: remote.Port(),
	}
	if o.engine.Taken(id) {
		return true
	}
	if o.handover == nil {
		return false
	}
	// Another shard may have it from before the device changed its RSS.
	k, ok := netstack.Key(&id)
	return ok && o.handover.Taken(&k)
}

// setRange limits the ports to choose from. block says that no other shard has them.
func (o *outbound) setRange(first, last uint16, block bool) error {
	if err := o.stack.SetPortRange(first, last); err != nil {
		return fmt.Errorf("ports %d to %d: %v", first, last, err)
	}
	o.mu.Lock()
	o.ports, o.block = nil, block
	o.mu.Unlock()
	return nil
}

// addRange adds ports to choose from.
func (o *outbound) addRange(first, last uint16) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.portsLocked(); err != nil {
		return err
	}
	return o.ports.Add(first, last)
}
