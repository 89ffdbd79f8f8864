package shard

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/rss"
	tpanet "github.com/gotpa/tpa/net"
)

// outbound chooses the local ports of connections that this shard makes, when
// there are other shards.
type outbound struct {
	// mu makes dials take turns until each has its port.
	mu    sync.Mutex
	ports *rss.Ports // nil until the first dial
	// block says that no other shard has these ports.
	block bool
}

// Bind implements tpanet.Stack. A local port that is left open becomes one from
// which remote's answers come back to this shard's queue, as far as it is known
// how the device spreads flows. If it is not, shards take ports in turn, so that
// two never have the same connection, and answers are handed over.
func (s *Shard) Bind(ep tpanet.Endpoint, local, remote tcpip.FullAddress) tcpip.Error {
	if s.peers == nil || local.Port != 0 {
		if local == (tcpip.FullAddress{}) {
			return nil // gVisor chooses
		}
		return ep.Bind(local)
	}
	proto := header.IPv4ProtocolNumber
	if remote.Addr.Len() == header.IPv6AddressSize {
		proto = header.IPv6ProtocolNumber
		if header.IsV4MappedAddress(remote.Addr) {
			return nil
		}
	}
	route, err := s.stack.FindRoute(0, local.Addr, remote.Addr, proto, false)
	if err != nil {
		return err
	}
	local.Addr = route.LocalAddress()
	route.Release()
	from, ok1 := netip.AddrFromSlice(local.Addr.AsSlice())
	to, ok2 := netip.AddrFromSlice(remote.Addr.AsSlice())
	if !ok1 || !ok2 {
		return nil
	}

	o := &s.outbound
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ports == nil {
		first, last := s.stack.PortRange()
		// Never an error: the stack checked the range.
		random := s.stack.SecureRNG()
		o.ports, _ = rss.NewPorts(first, last, random.Uint32)
	}
	// Ports serve several connections, to different ends.
	ep.SocketOptions().SetReuseAddress(true)
	spread := s.peers.spread.Load()
	search := o.ports.Search(spread, from, netip.AddrPortFrom(to, remote.Port), s.index)
	for {
		port, ok := search.Next()
		if !ok {
			return &tcpip.ErrNoPortAvailable{}
		}
		if spread == nil && !o.block && int(port)%s.peers.count != s.index {
			continue
		}
		local.Port = port
		if s.taken(proto, local, remote) {
			continue
		}
		if err := ep.Bind(local); err != nil {
			if _, busy := err.(*tcpip.ErrPortInUse); busy {
				continue
			}
			return err
		}
		return nil
	}
}

// taken tells whether there is a connection between two addresses already.
func (s *Shard) taken(proto tcpip.NetworkProtocolNumber, local, remote tcpip.FullAddress) bool {
	if local == remote {
		return true
	}
	found := s.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress: local.Addr, LocalPort: local.Port, RemoteAddress: remote.Addr, RemotePort: remote.Port,
	}, nicID)
	if e, ok := found.(interface{ Reusable() bool }); ok && e.Reusable() {
		// In TIME-WAIT for long enough: Connect takes its place.
	} else if e, ok := found.(interface{ Info() tcpip.EndpointInfo }); ok {
		// A listener is found, too.
		if info, ok := e.Info().(*stack.TransportEndpointInfo); ok && info.ID.RemotePort != 0 {
			return true
		}
	}
	// Another shard may have it from before the device changed its RSS.
	k, ok := keyOf(remote.Addr, remote.Port, local.Addr, local.Port)
	if !ok {
		return false
	}
	for _, o := range s.peers.others {
		if _, ok := o.flows.Lookup(&k); ok {
			return true
		}
		if _, ok := o.peers.closing.Lookup(&k); ok {
			return true
		}
	}
	return false
}
