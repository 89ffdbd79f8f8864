package follower

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Asking for a route (RTM_GETROUTE) stands in the way of a connection's first
// segment, so it is done by hand: a system call to ask, one for the answer, which the
// kernel gives before the first returns.

// A routeSocket asks. It is used by one goroutine at a time.
type routeSocket struct {
	fd       int
	sequence uint32
	buffer   [4096]byte
}

// A kernelRoute is the kernel's answer.
type kernelRoute struct {
	kind int // RTN_*
	// index is that of the interface.
	index    int
	gateway  netip.Addr
	source   netip.Addr
	mtu, mss int
	encap    bool
}

// A routeQuestion says what to ask for; zero fields leave it to the kernel.
type routeQuestion struct {
	source, destination netip.Addr
	index               int
}

func newRouteSocket() (*routeSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return &routeSocket{fd: fd}, nil
}

func (s *routeSocket) close() { unix.Close(s.fd) }

var errNoAnswer = errors.New("no answer")

// get asks. The error is the kernel's errno where it has no route.
func (s *routeSocket) get(q routeQuestion) (kernelRoute, error) {
	s.sequence++
	b := s.question(q)
	if _, err := unix.Write(s.fd, b); err != nil {
		return kernelRoute{}, os.NewSyscallError("write", err)
	}
	for {
		n, err := unix.Read(s.fd, s.buffer[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return kernelRoute{}, os.NewSyscallError("read", err)
		}
		b := s.buffer[:n]
		if len(b) < unix.NLMSG_HDRLEN || binary.NativeEndian.Uint32(b[8:]) != s.sequence {
			continue // of a question that was given up
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return kernelRoute{}, errNoAnswer
		}
		kind, body := binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size]
		switch {
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			return kernelRoute{}, syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case kind == unix.RTM_NEWROUTE:
			if r, ok := parseRoute(body); ok {
				return r, nil
			}
		}
		return kernelRoute{}, errNoAnswer
	}
}

// question writes the message.
func (s *routeSocket) question(q routeQuestion) []byte {
	b := s.buffer[:unix.NLMSG_HDRLEN+unix.SizeofRtMsg]
	clear(b)
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], s.sequence)
	m := b[unix.NLMSG_HDRLEN:]
	m[0], m[1] = unix.AF_INET, byte(q.destination.BitLen())
	if q.destination.Is6() {
		m[0] = unix.AF_INET6
	}
	add := func(kind uint16, value []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, value...) // of 4 or 16 bytes: aligned
	}
	address := func(kind uint16, a netip.Addr) {
		if a.Is4() {
			v := a.As4()
			add(kind, v[:])
		} else {
			v := a.As16()
			add(kind, v[:])
		}
	}
	address(unix.RTA_DST, q.destination)
	if q.source.IsValid() {
		m[2] = m[1]
		address(unix.RTA_SRC, q.source)
	}
	if q.index != 0 {
		add(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(q.index)))
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// parseRoute reads a struct rtmsg and its attributes.
func parseRoute(b []byte) (r kernelRoute, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	r.kind = int(b[7])
	ok = eachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_OIF:
			if len(v) >= 4 {
				r.index = int(int32(binary.NativeEndian.Uint32(v)))
			}
		case unix.RTA_GATEWAY:
			r.gateway = hop(v)
		case unix.RTA_VIA:
			if len(v) > 2 { // struct rtvia: the family, then the address
				r.gateway = hop(v[2:])
			}
		case unix.RTA_PREFSRC:
			if a, ok := netip.AddrFromSlice(v); ok {
				r.source = a
			}
		case unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
			r.encap = true
		case unix.RTA_METRICS:
			eachAttribute(v, func(kind uint16, v []byte) {
				if len(v) < 4 {
					return
				}
				switch n := int(int32(binary.NativeEndian.Uint32(v))); kind {
				case unix.RTAX_MTU:
					r.mtu = n
				case unix.RTAX_ADVMSS:
					r.mss = n
				}
			})
		}
	})
	return r, ok
}

// hop reads the address of a next hop, invalid where it is none.
func hop(b []byte) netip.Addr {
	if a, ok := netip.AddrFromSlice(b); ok && !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// eachAttribute calls f for each attribute in b, and reports whether their lengths are
// true.
func eachAttribute(b []byte, f func(kind uint16, value []byte)) bool {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return false
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
	return true
}
