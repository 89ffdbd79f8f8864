package tpanet

import (
	"net"
	"net/netip"
)

// family is the kind of socket that package net would open: IPv6 sockets also
// speak IPv4 unless v6Only is set.
type family struct {
	ipv6, v6Only bool
}

// listenFamily is that of a listener. A listener on all addresses serves both IP
// versions, even when its address is written as 0.0.0.0, unless network says
// otherwise.
func listenFamily(network string, laddr *net.TCPAddr) family {
	if network == "tcp" && unspecified(laddr) {
		return family{ipv6: true}
	}
	return dialFamily(network, laddr, nil)
}

// dialFamily is that of a connection to raddr. Either address may be nil.
func dialFamily(network string, laddr, raddr *net.TCPAddr) family {
	switch network {
	case "tcp4":
		return family{}
	case "tcp6":
		return family{ipv6: true, v6Only: true}
	}
	return family{ipv6: !isIPv4(laddr) || !isIPv4(raddr)}
}

func unspecified(a *net.TCPAddr) bool { return a == nil || len(a.IP) == 0 || a.IP.IsUnspecified() }

// isIPv4 tells whether an IPv4 socket can use the address.
func isIPv4(a *net.TCPAddr) bool { return a == nil || len(a.IP) <= 4 || a.IP.To4() != nil }

// address is a as the stack knows it. An unspecified IP becomes no address.
func (f family) address(a *net.TCPAddr) (netip.AddrPort, error) {
	var addr netip.Addr
	switch {
	case unspecified(a):
	case !f.ipv6:
		ip := a.IP.To4()
		if ip == nil {
			return netip.AddrPort{}, &net.AddrError{Err: "non-IPv4 address", Addr: a.IP.String()}
		}
		addr = netip.AddrFrom4([4]byte(ip))
	default:
		ip := a.IP.To16()
		if ip == nil {
			return netip.AddrPort{}, &net.AddrError{Err: "non-IPv6 address", Addr: a.IP.String()}
		}
		addr = netip.AddrFrom16([16]byte(ip))
	}
	return netip.AddrPortFrom(addr, uint16(a.Port)), nil
}

// endpoints are the two addresses of a connection. They share one allocation
// and live apart from the Conn, so that who keeps an address does not keep the
// connection.
type endpoints struct {
	local, remote net.TCPAddr
	ips           [2][16]byte
}

// zone is that of link-local addresses.
func (f family) endpoints(local, remote netip.AddrPort, zone string) *endpoints {
	e := new(endpoints)
	f.fill(&e.local, &e.ips[0], local, zone)
	f.fill(&e.remote, &e.ips[1], remote, zone)
	return e
}

// tcpAddr is from as package net shows it: 4 bytes long on an IPv4 socket and 16
// bytes on an IPv6 one, whatever the address.
func (f family) tcpAddr(from netip.AddrPort, zone string) *net.TCPAddr {
	a, ip := new(net.TCPAddr), new([16]byte)
	f.fill(a, ip, from, zone)
	return a
}

func (f family) fill(a *net.TCPAddr, ip *[16]byte, from netip.AddrPort, zone string) {
	a.Port = int(from.Port())
	addr := from.Addr()
	if !f.ipv6 {
		a.IP = ip[:4]
		if addr.IsValid() {
			four := addr.As4()
			copy(a.IP, four[:])
		}
		return
	}
	*ip = addr.As16()
	a.IP = ip[:]
	if !addr.Is4() && addr.IsLinkLocalUnicast() {
		a.Zone = zone
	}
}
