package accel

import (
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
)

// On a shared device the kernel decides by which interface, next hop and source
// address packets leave, or whether at all. What it would not send by the device as
// it is, is the kernel's business: dials go through the kernel then, and get its
// answer, whatever that is.

// routing asks the kernel on behalf of all shards of a runtime.
type routing struct {
	sharing *sharing
	dials   *follower.Routes

	// kernelDials counts dials that went through the kernel. asideReplies and
	// closedReplies count how often the way of a reply was looked for and was by
	// another interface, or none for packets in the clear.
	kernelDials, asideReplies, closedReplies atomic.Uint64

	dialLog, asideLog, closedLog seldom
}

// seldom lets something through once in a minute.
type seldom struct{ next atomic.Int64 }

func (s *seldom) now() bool {
	now, next := time.Now().UnixNano(), s.next.Load()
	return now >= next && s.next.CompareAndSwap(next, now+int64(time.Minute))
}

// followsRoutes tells whether the kernel's routes are in force: not with addresses or
// gateways of the configuration, of which it does not know.
func (s *sharing) followsRoutes() bool { return s.follow && len(s.rt.config.Gateways) == 0 }

// openRouting begins to ask for routes.
func (s *sharing) openRouting() error {
	if !s.followsRoutes() {
		return nil
	}
	dials, err := s.follower.Routes()
	if err != nil {
		return err
	}
	s.routing = &routing{sharing: s, dials: dials}
	return nil
}

// router returns the router of a shard, nil where the stack's own routes hold.
func (s *sharing) router() (netif.Router, error) {
	if s.routing == nil {
		return nil, nil
	}
	routes, err := s.follower.Routes()
	if err != nil {
		return nil, err
	}
	s.routers = append(s.routers, routes)
	return &shardRouter{s.routing, routes}, nil
}

// closeRouting ends the questions, when no shard asks any more.
func (s *sharing) closeRouting() {
	for _, r := range s.routers {
		r.Close()
	}
	if s.routing != nil {
		s.routing.dials.Close()
	}
}

// byKernel tells whether a dial has to go through the kernel.
func (s *sharing) byKernel(laddr, raddr *net.TCPAddr) bool {
	r := s.routing
	if r == nil {
		return false
	}
	to := raddr.AddrPort().Addr().Unmap()
	state := s.follower.State()
	if contains(state.Addrs, to.WithZone("")) {
		return false // one of our listeners has it: the packets stay in the stack
	}
	var path follower.Path
	if zone := to.Zone(); zone != "" && zone != state.Name && zone != strconv.Itoa(state.Index) {
		if _, err := net.InterfaceByName(zone); err != nil {
			return false // the stack has the error
		}
		path = follower.Path{Exit: follower.Aside, Why: "its zone is " + zone}
	} else {
		var from netip.Addr
		if laddr != nil && !unspecified(laddr) {
			from = laddr.AddrPort().Addr().Unmap()
		}
		path = r.dials.Path(from, to)
	}
	if path.Exit == follower.Here {
		if !path.Source.IsValid() || contains(state.Addrs, path.Source.WithZone("")) {
			return false
		}
		path.Why = "its source address is " + path.Source.String() + ", of another interface"
	}
	r.kernelDials.Add(1)
	if r.dialLog.now() {
		s.log.Info("dials that the kernel does not route by the device go through the kernel",
			"device", state.Name, "destination", to, "why", path.Why)
	}
	return true
}

// rerouted has connections look for their ways anew.
func (s *sharing) rerouted() {
	for _, sh := range s.rt.shards {
		sh.Rerouted()
	}
}

// routerLost is called when a neighbour does not answer. If it is a router, the
// kernel may go on by another one (RFC 4861 section 6.3.6), which it tells nobody.
func (s *sharing) routerLost(addr netip.Addr) {
	for _, r := range s.follower.State().Routes {
		if r.Gateway == addr {
			s.follower.Forget()
			s.rerouted()
			return
		}
	}
}

// A shardRouter is the netif.Router of a shard.
type shardRouter struct {
	*routing
	routes *follower.Routes
}

// Route implements netif.Router. What answers a peer that came by the device leaves
// by it, too, where the kernel would choose another interface for packets in the
// clear; it never does where the kernel would encrypt or tunnel it.
func (r *shardRouter) Route(local, remote netip.Addr) (netif.Route, bool) {
	if contains(r.sharing.follower.State().Addrs, remote.WithZone("")) {
		return netif.Route{Hop: netstack.Address(remote)}, true // packets stay in the stack
	}
	path := r.routes.Path(local, remote)
	switch {
	case path.Exit == follower.Aside && path.Hop.IsValid():
		r.asideReplies.Add(1)
		if r.asideLog.now() {
			r.sharing.log.Warn("replies leave by the device although the kernel would send them by another interface",
				"local", local, "peer", remote, "why", path.Why)
		}
	case path.Exit != follower.Here:
		r.closedReplies.Add(1)
		if r.closedLog.now() {
			r.sharing.log.Warn("peers get no reply: the kernel would send none in the clear by the device",
				"local", local, "peer", remote, "why", path.Why)
		}
		return netif.Route{}, false
	}
	return netif.Route{Hop: netstack.Address(path.Hop), MTU: path.MTU, MSS: path.MSS}, true
}

// Source implements netif.Router.
func (r *shardRouter) Source(remote netip.Addr) netip.Addr {
	return r.routes.Path(netip.Addr{}, remote).Source
}
