package tpanet

import (
	"net"
	"os"
	"syscall"

	"github.com/gotpa/tpa/internal/transport"
)

// A zone is that of a stack's device, with what package net makes of it.
type zone transport.Zone

// linkLocal tells whether an address means nothing without a zone. a may be nil.
func linkLocal(a *net.TCPAddr) bool {
	return a != nil && a.IP.To4() == nil && a.IP.IsLinkLocalUnicast()
}

// bind tells why nobody can bind to a, which may be nil, as Linux does; nil when
// that depends on the addresses of the device.
func (z zone) bind(a *net.TCPAddr) error {
	if a != nil && a.IP.To4() == nil && a.IP.IsMulticast() {
		return os.NewSyscallError("bind", syscall.EINVAL)
	}
	if !linkLocal(a) {
		return nil
	}
	switch z.find(a.Zone) {
	case ours:
		return nil
	case another:
		return os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	case missing:
		return os.NewSyscallError("bind", syscall.ENODEV)
	}
	return os.NewSyscallError("bind", syscall.EINVAL)
}

// connect tells why there is no way from laddr, which may be nil, to raddr; nil
// when that depends on routes. A link-local laddr has the zone for both.
func (z zone) connect(laddr, raddr *net.TCPAddr) error {
	if raddr.IP.IsMulticast() || raddr.IP.Equal(net.IPv4bcast) {
		return os.NewSyscallError("connect", syscall.ENETUNREACH)
	}
	if !linkLocal(raddr) {
		return nil
	}
	bound := linkLocal(laddr)
	switch found := z.find(raddr.Zone); {
	case found == ours, found == none && bound:
		return nil
	case found == none, bound:
		return os.NewSyscallError("connect", syscall.EINVAL)
	}
	return os.NewSyscallError("connect", syscall.ENETUNREACH)
}

// A place is where a zone leads.
type place int

const (
	none    place = iota // no zone, or a name that nobody knows
	ours                 // the stack's device
	another              // another interface of this host
	missing              // a number that no interface has
)

// find reads a zone as package net does: a name, or else the digits it starts with.
func (z zone) find(zone string) place {
	switch zone {
	case "":
		return none
	case z.Name:
		return ours
	}
	index := 0
	if i, err := net.InterfaceByName(zone); err == nil {
		index = i.Index
	} else {
		for _, c := range []byte(zone) {
			if c < '0' || c > '9' || index > 1<<24 {
				break
			}
			index = index*10 + int(c-'0')
		}
	}
	switch index {
	case 0:
		return none
	case z.Index:
		return ours
	}
	if _, err := net.InterfaceByIndex(index); err != nil {
		return missing
	}
	return another
}
