package follower

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// maxPaths bounds how many answers are kept, maxAge how long: the kernel announces
	// neither path MTUs nor routers (RFC 4191) that it no longer believes in.
	maxPaths = 8192
	maxAge   = 10 * time.Second
)

// Routes asks for the kernel's routes and keeps its answers. Each shard has its own,
// so that none waits for another; its methods may be called by anyone.
type Routes struct {
	follower *Follower

	// mu guards the following fields.
	mu         sync.Mutex
	socket     *routeSocket
	generation uint64 // of the kernel's routes, as known to the follower
	paths      map[pair]answer
}

type pair struct{ source, destination netip.Addr }

type answer struct {
	path Path
	at   time.Time
}

// Routes returns a new cache of the kernel's routes. It must be called in the
// network namespace of the follower, and closed.
func (m *Follower) Routes() (*Routes, error) {
	socket, err := newRouteSocket()
	if err != nil {
		return nil, fmt.Errorf("ask for routes: %w", err)
	}
	return &Routes{follower: m, socket: socket, paths: make(map[pair]answer)}, nil
}

// Forget has all routes asked for anew.
func (m *Follower) Forget() { m.generation.Add(1) }

// Close frees what Routes has of the kernel. It must come last.
func (r *Routes) Close() { r.socket.close() }

// Path returns how packets leave. The zero source leaves it to the kernel. Asking
// takes some microseconds and no lock of the kernel's configuration (rtnl).
func (r *Routes) Path(source, destination netip.Addr) Path {
	key := pair{source.WithZone(""), destination.WithZone("")}
	generation := r.follower.generation.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.generation != generation {
		r.generation = generation
		clear(r.paths)
	}
	if a, ok := r.paths[key]; ok && time.Since(a.at) < maxAge {
		return a.path
	}
	path := r.askLocked(key.source, key.destination)
	if len(r.paths) >= maxPaths {
		clear(r.paths)
	}
	r.paths[key] = answer{path, time.Now()}
	return path
}

func (r *Routes) askLocked(source, destination netip.Addr) Path {
	q := routeQuestion{source: source, destination: destination}
	if destination.IsLinkLocalUnicast() && destination.Is6() {
		q.index = r.follower.index
	}
	route, err := r.socket.get(q)
	if err != nil {
		return Path{Exit: Closed, Why: fmt.Sprintf("the kernel has no route: %v", err)}
	}
	path := r.follower.path(route, source, destination)
	if path.Exit != Aside {
		return path
	}
	q.index = r.follower.index
	here, err := r.socket.get(q)
	if err == nil && here.index != r.follower.index {
		// With a source, IPv6 takes the interface for a wish (ip6_route_output_flags).
		q.source = netip.Addr{}
		here, err = r.socket.get(q)
	}
	if err == nil {
		if by := r.follower.path(here, source, destination); by.Exit == Here {
			path.Hop, path.MTU, path.MSS = by.Hop, by.MTU, by.MSS
		}
	}
	return path
}

// path reads the kernel's answer.
func (m *Follower) path(route kernelRoute, source, destination netip.Addr) Path {
	p := Path{Hop: destination, Source: route.source, MTU: route.mtu, MSS: route.mss}
	if route.gateway.IsValid() {
		p.Hop = route.gateway
	}
	if source.IsValid() {
		p.Source = source
	}
	closed := func(why string) Path { return Path{Exit: Closed, Source: p.Source, Why: why} }
	switch {
	case route.kind == unix.RTN_LOCAL:
		return closed("the address is this host's")
	case route.kind != unix.RTN_UNICAST:
		return closed("the kernel has no unicast route")
	case route.encap:
		return closed("the route has an encapsulation")
	case m.encrypted(p.Source, destination):
		return closed("an IPsec policy covers the connection")
	case route.index == m.index:
		return p
	}
	link, err := m.kernel.LinkByIndex(route.index)
	if err != nil {
		return closed(fmt.Sprintf("the kernel routes it by interface %d, which went away", route.index))
	}
	if !plain(link) {
		return closed("the kernel routes it through the tunnel " + link.Attrs().Name)
	}
	return Path{Exit: Aside, Source: p.Source, Why: "the kernel routes it by " + link.Attrs().Name}
}

// plain tells whether an interface sends packets as they are. What is not known
// counts as a tunnel.
func plain(l netlink.Link) bool {
	switch l.Type() {
	case "device", "veth", "vlan", "bridge", "bond", "team", "macvlan", "ipvlan", "dummy", "ifb":
		return l.Attrs().EncapType == "ether" || l.Attrs().EncapType == "loopback"
	}
	return false
}
