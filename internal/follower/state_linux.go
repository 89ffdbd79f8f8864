package follower

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// readState asks the kernel for everything but neighbours.
func (m *Follower) readState() (State, error) {
	l, err := m.kernel.LinkByIndex(m.index)
	if err != nil {
		return State{}, err
	}
	a := l.Attrs()
	s := State{
		Name: a.Name, Index: a.Index, MTU: a.MTU, HardwareAddr: a.HardwareAddr,
		Up: a.RawFlags&(unix.IFF_UP|unix.IFF_RUNNING) == unix.IFF_UP|unix.IFF_RUNNING,
	}
	if err := m.readAddrs(&s); err != nil {
		return State{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := m.kernel.RouteListFilteredIter(family, &netlink.Route{}, 0, func(r netlink.Route) bool {
			s.Routes = append(s.Routes, m.routes(&r, family)...)
			return true
		})
		if err != nil {
			return State{}, fmt.Errorf("list routes: %w", err)
		}
	}
	sort.Slice(s.Routes, func(i, j int) bool {
		a, b := &s.Routes[i], &s.Routes[j]
		return cmp.Or(
			-cmp.Compare(a.Destination.Bits(), b.Destination.Bits()),
			a.Destination.Addr().Compare(b.Destination.Addr()),
			cmp.Compare(a.Metric, b.Metric),
			a.Gateway.Compare(b.Gateway),
		) < 0
	})
	return s, nil
}

// servicesInterface is where kube-proxy keeps the addresses of services in its IPVS
// mode. What comes for them, IPVS sends on: no socket of this host has it.
const servicesInterface = "kube-ipvs0"

// readAddrs fills in the addresses.
func (m *Follower) readAddrs(s *State) error {
	addrs, err := m.kernel.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	services := 0
	if l, err := m.kernel.LinkByName(servicesInterface); err == nil {
		services = l.Attrs().Index
	}
	for _, addr := range addrs {
		p, ok := prefix(addr.IPNet)
		switch {
		case !ok || addr.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0:
		case addr.LinkIndex == m.index:
			s.Addrs = append(s.Addrs, p)
		case addr.LinkIndex != services && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast():
			s.Others = append(s.Others, p.Addr())
		}
	}
	sort.Slice(s.Addrs, func(i, j int) bool { return s.Addrs[i].Compare(s.Addrs[j]) < 0 })
	sort.Slice(s.Others, func(i, j int) bool { return s.Others[i].Less(s.Others[j]) })
	s.Others = slices.Compact(s.Others)
	return nil
}

// routes returns what a route of the kernel's says of this interface: nothing, or
// one route for each of its next hops here.
func (m *Follower) routes(r *netlink.Route, family int) []Route {
	if r.Type != unix.RTN_UNICAST || r.Flags&unix.RTNH_F_DEAD != 0 {
		return nil
	}
	destination, ok := prefix(r.Dst)
	if !ok {
		// The default route.
		destination = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if destination.Addr().IsMulticast() {
		return nil
	}
	var routes []Route
	add := func(index, flags int, gateway net.IP, via netlink.Destination) {
		// A next hop of the other IP version (RTA_VIA) cannot be followed here.
		if index != m.index || flags&unix.RTNH_F_DEAD != 0 || via != nil {
			return
		}
		route := Route{Destination: destination, Metric: r.Priority}
		if gw, ok := netip.AddrFromSlice(gateway); ok && !gw.IsUnspecified() {
			route.Gateway = gw.Unmap()
		}
		routes = append(routes, route)
	}
	if len(r.MultiPath) == 0 {
		add(r.LinkIndex, r.Flags, r.Gw, r.Via)
	}
	for _, hop := range r.MultiPath {
		add(hop.LinkIndex, hop.Flags, hop.Gw, hop.Via)
	}
	return routes
}

// rtaNHID is RTA_NH_ID: the route names a next hop object.
const rtaNHID = 30

// routeIsOurs tells whether a route message may be about this interface.
func (m *Follower) routeIsOurs(b []byte) bool {
	if len(b) < unix.SizeofRtMsg {
		return false
	}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtMsg:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			if len(a.Value) >= 4 && nl.NativeEndian().Uint32(a.Value) == uint32(m.index) {
				return true
			}
		case unix.RTA_MULTIPATH, rtaNHID:
			return true
		}
	}
	return false
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
