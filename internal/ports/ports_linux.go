package ports

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Reservation holds one port, or a block of consecutive ports. Its methods may
// be called by anyone.
type Reservation struct {
	first uint16
	count int
	// fd is the socket of a single port, or one in whose queue those of a block are.
	fd int
}

// Reserve holds the port of an address, of which the network, "tcp", "tcp4" or
// "tcp6", says the same as in net.Listen: "tcp" and an unspecified address stand
// for all addresses of both IP versions. With port 0 the kernel chooses a free
// one. Errors are those of package net, without their *net.OpError: EADDRINUSE
// when the port is taken, EADDRNOTAVAIL when the address is not one of this
// host's.
func Reserve(network string, addr netip.AddrPort) (*Reservation, error) {
	fd, port, err := hold(network, addr)
	if err != nil {
		return nil, err
	}
	return &Reservation{port, 1, fd}, nil
}

// Adopt makes a reservation of a socket that another process has passed on.
func Adopt(fd int, port uint16) *Reservation { return &Reservation{port, 1, fd} }

// Descriptor is the socket of a reservation of one port. It is the reservation's.
func (r *Reservation) Descriptor() int { return r.fd }

// ReserveBlock holds n consecutive ports at all addresses, the first a multiple
// of n. n is a power of two up to 16384. It looks where nobody else looks for ports:
// outside the range that the kernel takes ports for its own connections from, and its
// default, which is that of containers whose connections the kernel gives this host's
// address (masquerading keeps the port where it can). If no block is free there, it
// looks inside these ranges. It never takes ports that the administrator reserved
// (ip_local_reserved_ports), nor those that Kubernetes gives to services (node
// ports, 30000 to 32767), which the kernel forwards without a socket of its own. An
// error wraps syscall.EADDRINUSE when no block is free.
func ReserveBlock(n int) (*Reservation, error) { return reserve(n, true) }

// ReserveMore is ReserveBlock for a further block, which is never within these
// ranges: they stay the kernel's but for the few ports that one cannot do without.
func ReserveMore(n int) (*Reservation, error) { return reserve(n, false) }

func reserve(n int, anywhere bool) (*Reservation, error) {
	if n < 1 || n > 16384 || n&(n-1) != 0 {
		return nil, fmt.Errorf("reserve %d ports: want a power of two up to 16384", n)
	}
	never := append(reservedPorts(), portRange{30000, 32767})
	low, high := ephemeralRange()
	others := []portRange{{low, high}, {32768, 60999}}
	var outside, inside []uint16
	// Not below 16384, where servers listen.
	for first := 16384; first+n <= 65536; first += n {
		block := portRange{first, first + n - 1}
		switch {
		case slices.ContainsFunc(never, block.meets):
		case slices.ContainsFunc(others, block.meets):
			inside = append(inside, uint16(first))
		default:
			outside = append(outside, uint16(first))
		}
	}
	if !anywhere {
		inside = nil
	}
	for _, candidates := range [][]uint16{outside, inside} {
		// At random, so that processes that start together do not collide all along.
		for _, i := range rand.Perm(len(candidates)) {
			r, err := reserveBlock(candidates[i], n)
			if err == nil {
				return r, nil
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("reserve %d ports: no free block from 16384 to 65535: %w", n, unix.EADDRINUSE)
}

// A portRange is the ports from first to last.
type portRange struct{ first, last int }

func (r portRange) meets(o portRange) bool { return r.first <= o.last && o.first <= r.last }

// reservedPorts returns the ports that the administrator keeps from being chosen.
func reservedPorts() []portRange {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err != nil {
		return nil
	}
	return parseRanges(string(b))
}

// parseRanges reads a list like "8080,9148-9150". What it cannot read it leaves out:
// the kernel wrote it.
func parseRanges(s string) []portRange {
	var all []portRange
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil {
			all = append(all, portRange{first, last})
		}
	}
	return all
}

// perMessage is how many sockets one message takes: fewer than the kernel allows
// (SCM_MAX_FD, 253), so that few descriptors are open at a time.
const perMessage = 32

// reserveBlock holds each port by a socket, and costs one descriptor: the sockets are
// sent over a socket whose other end nobody reads, and live in its queue until it is
// closed (unix(7), SCM_RIGHTS). Without CAP_SYS_RESOURCE or CAP_SYS_ADMIN, a user may
// have as many on the way as the process may have descriptors, else the kernel says
// ETOOMANYREFS.
func reserveBlock(first uint16, n int) (_ *Reservation, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer func() {
		unix.Close(pair[0])
		if err != nil {
			unix.Close(pair[1])
		}
	}()
	for i := 0; i < n; i += perMessage {
		if err := sendHolds(pair[0], first+uint16(i), min(perMessage, n-i)); err != nil {
			return nil, err
		}
	}
	return &Reservation{first, n, pair[1]}, nil
}

// sendHolds sends sockets that hold n ports over another one.
func sendHolds(to int, first uint16, n int) error {
	sockets := make([]int, 0, n)
	defer func() {
		for _, fd := range sockets {
			unix.Close(fd)
		}
	}()
	for i := range n {
		fd, _, err := hold("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), first+uint16(i)))
		if err != nil {
			return err
		}
		sockets = append(sockets, fd)
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(to, []byte{0}, unix.UnixRights(sockets...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

// First returns the first port, Count the number of ports.
func (r *Reservation) First() uint16 { return r.first }

// Count returns the number of ports, from First on.
func (r *Reservation) Count() int { return r.count }

// Listen makes the socket of a single reserved port listen, so that the kernel
// accepts at the port after all. Close the listener before the reservation. It
// is called at most once.
func (r *Reservation) Listen(backlog int) (*net.TCPListener, error) {
	fd := r.fd
	// Connections inherit the option: what they leave behind does not keep the
	// next server from the port. A socket that listens keeps others out even so.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(own), "")
	defer f.Close() // the listener has a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Unlisten ends what Listen began, and resets the connections that nobody has
// accepted. A port that the caller chose stays reserved; one that the kernel chose
// is free again.
func (r *Reservation) Unlisten() error {
	fd := r.fd
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_RDWR))
}

// Close gives the ports back. It must not be called twice.
func (r *Reservation) Close() error {
	return unix.Close(r.fd)
}

// hold binds a socket to a port and returns the port.
func hold(network string, addr netip.AddrPort) (fd int, port uint16, err error) {
	ip := addr.Addr().Unmap()
	both := network == "tcp" && (!ip.IsValid() || ip.IsUnspecified())
	if both || network == "tcp6" && !ip.IsValid() {
		ip = netip.IPv6Unspecified()
	} else if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	fd, port, err = bind(ip, addr.Port(), !both)
	if both && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		return bind(netip.IPv4Unspecified(), addr.Port(), true) // a host without IPv6
	}
	return fd, port, err
}

func bind(ip netip.Addr, port uint16, v6Only bool) (_ int, _ uint16, err error) {
	family := unix.AF_INET
	var sa unix.Sockaddr
	if ip.Is4() {
		sa = &unix.SockaddrInet4{Port: int(port), Addr: ip.As4()}
	} else {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(port), Addr: ip.As16(), ZoneId: zoneIndex(ip.Zone())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if family == unix.AF_INET6 {
		only := 0
		if v6Only {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return -1, 0, os.NewSyscallError("setsockopt", err)
		}
	}
	// With the option, connections that a former server left behind do not stand in
	// the way of bind. Without it afterwards, nobody can bind to the port, option or
	// not, and then listen.
	if port != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return -1, 0, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, 0, os.NewSyscallError("bind", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return -1, 0, os.NewSyscallError("setsockopt", err)
	}
	if port != 0 {
		return fd, port, nil
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return -1, 0, os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port = uint16(name.Port)
	case *unix.SockaddrInet6:
		port = uint16(name.Port)
	}
	return fd, port, nil
}

// zoneIndex is the number of the interface that a zone names, 0 for none: the
// kernel then refuses the address in words of its own.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	// As package net, which takes the digits that the zone starts with.
	digits := zone[:len(zone)-len(strings.TrimLeft(zone, "0123456789"))]
	n, err := strconv.ParseUint(digits, 10, 31)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt32
	}
	return uint32(n)
}

// ephemeralRange returns the ports that the kernel picks from for connections.
func ephemeralRange() (low, high int) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &low, &high)
	}
	if err != nil {
		return 32768, 60999 // its default
	}
	return low, high
}
