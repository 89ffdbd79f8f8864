package accel

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Connections to this host itself. Nothing leaves by the device for them, so
// there are two places where they can go: a listener of the same runtime, inside
// its stack, or the kernel.

// local says where a dial to raddr goes: to which address inside the stack, or to
// the kernel. Addresses of other hosts come back as they are.
//
// Loopback and unspecified addresses are the kernel's, as are those of a shared
// device, unless the runtime listens there and the kernel does not.
func (rt *Runtime) local(raddr *net.TCPAddr) (_ *net.TCPAddr, kernel bool) {
	addr := raddr.AddrPort().Addr().Unmap().WithZone("")
	switch {
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsLoopback():
		if own := rt.ownAddress(addr); own.IsValid() && rt.listensAt(own, raddr.Port) {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, uint16(raddr.Port))), false
		}
		return raddr, true
	case rt.sharing != nil && contains(rt.sharing.follower.State().Addrs, addr):
		return raddr, !rt.listensAt(addr, raddr.Port)
	}
	return raddr, false
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr() == addr })
}

// ownAddress is an address of the runtime of the same IP version, or of any for
// the zero Addr; the zero Addr when there is none.
func (rt *Runtime) ownAddress(like netip.Addr) netip.Addr {
	for _, p := range rt.localAddrs() {
		if !like.IsValid() || p.Addr().Is4() == like.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// listensAt tells whether a listener of the runtime has the address and port for
// itself, without the kernel.
func (rt *Runtime) listensAt(addr netip.Addr, port int) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for l := range rt.listeners {
		tracked, ok := l.(*listener)
		if !ok || tracked.kernel != nil {
			continue
		}
		at := tracked.Addr().(*net.TCPAddr).AddrPort()
		if ip := at.Addr().Unmap().WithZone(""); int(at.Port()) == port && (ip == addr || ip.IsUnspecified() && (ip.Is6() || addr.Is4())) {
			return true
		}
	}
	return false
}

// dialKernel connects by the kernel.
func (a *attempt) dialKernel(ctx context.Context, raddr *net.TCPAddr) (net.Conn, error) {
	d := net.Dialer{Deadline: a.options.Deadline, KeepAlive: -1 * time.Second, KeepAliveConfig: a.options.KeepAlive}
	if a.laddr != nil {
		d.LocalAddr = a.laddr
	}
	return d.DialContext(ctx, a.network, raddr.String())
}
