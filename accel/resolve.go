package accel

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// The words of package net for addresses that lead nowhere.
var (
	errMissingAddress = errors.New("missing address")
	errNoSuitable     = "no suitable address found"
)

// resolve returns the addresses that a network and an address stand for, at
// least one, in the order of the resolver. A missing host is no IP address. The
// rules are those of package net.
func resolve(ctx context.Context, r *net.Resolver, network, address string) ([]*net.TCPAddr, error) {
	var host string
	var port int
	if address != "" {
		h, service, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if port, err = r.LookupPort(ctx, network, service); err != nil {
			return nil, err
		}
		host = h
	}
	if host == "" {
		return []*net.TCPAddr{{Port: port}}, nil
	}
	ips, err := lookup(ctx, r, network, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 1 && ips[0].IP.Equal(net.IPv6unspecified) {
		ips = append(ips, net.IPAddr{IP: net.IPv4zero}) // :: means all of IPv4 too
	}
	var addrs []*net.TCPAddr
	for _, ip := range ips {
		if v4 := ip.IP.To4() != nil; network == "tcp4" && !v4 || network == "tcp6" && v4 {
			continue
		}
		addrs = append(addrs, &net.TCPAddr{IP: ip.IP, Zone: ip.Zone, Port: port})
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: errNoSuitable, Addr: host}
	}
	return addrs, nil
}

// lookup returns the addresses of a host. Of a name, only those that the network
// can use are asked for.
func lookup(ctx context.Context, r *net.Resolver, network, host string) ([]net.IPAddr, error) {
	version, one := map[string]string{"tcp4": "ip4", "tcp6": "ip6"}[network]
	if _, err := netip.ParseAddr(host); err == nil || !one {
		return r.LookupIPAddr(ctx, host)
	}
	ips, err := r.LookupIP(ctx, version, host)
	var addrs []net.IPAddr
	for _, ip := range ips {
		addrs = append(addrs, net.IPAddr{IP: ip})
	}
	return addrs, err
}

// resolveListen is the one address to listen on: the first IPv4 one, else the
// first.
func resolveListen(ctx context.Context, network, address string) (*net.TCPAddr, error) {
	addrs, err := resolve(ctx, net.DefaultResolver, network, address)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if a.IP.To4() != nil {
			return a, nil
		}
	}
	return addrs[0], nil
}

// resolveDial are the addresses to dial, in order, from local, which may be nil.
func resolveDial(ctx context.Context, r *net.Resolver, network, address string, local net.Addr) (laddr *net.TCPAddr, raddrs []*net.TCPAddr, err error) {
	if address == "" {
		return nil, nil, errMissingAddress
	}
	addrs, err := resolve(ctx, r, network, address)
	if err != nil || local == nil {
		return nil, addrs, err
	}
	laddr, ok := local.(*net.TCPAddr)
	if !ok {
		return nil, nil, &net.AddrError{Err: "mismatched local address type", Addr: local.String()}
	}
	for _, a := range addrs {
		if unspecified(laddr) || unspecified(a) || (a.IP.To4() != nil) == (laddr.IP.To4() != nil) {
			raddrs = append(raddrs, a)
		}
	}
	if len(raddrs) == 0 {
		return nil, nil, &net.AddrError{Err: errNoSuitable, Addr: local.String()}
	}
	return laddr, raddrs, nil
}

func unspecified(a *net.TCPAddr) bool { return len(a.IP) == 0 || a.IP.IsUnspecified() }
