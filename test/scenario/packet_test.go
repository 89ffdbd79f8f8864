package scenario

import (
	"net/netip"

	"github.com/gotpa/tpa/internal/testframe"
)

// An icmpKind is an error message of ICMP and its likeness in ICMPv6.
type icmpKind struct {
	name     string
	v4, v6   [2]byte // type and code
	needsMTU bool
}

var (
	netUnreachable  = icmpKind{name: "network unreachable", v4: [2]byte{3, 0}, v6: [2]byte{1, 0}}
	hostUnreachable = icmpKind{name: "host unreachable", v4: [2]byte{3, 1}, v6: [2]byte{1, 3}}
	portUnreachable = icmpKind{name: "port unreachable", v4: [2]byte{3, 3}, v6: [2]byte{1, 4}}
	prohibited      = icmpKind{name: "administratively prohibited", v4: [2]byte{3, 13}, v6: [2]byte{1, 1}}
	timeExceeded    = icmpKind{name: "time exceeded", v4: [2]byte{11, 0}, v6: [2]byte{3, 0}}
	parameter       = icmpKind{name: "parameter problem", v4: [2]byte{12, 0}, v6: [2]byte{4, 0}}
	packetTooBig    = icmpKind{name: "packet too big", v4: [2]byte{3, 4}, v6: [2]byte{2, 0}, needsMTU: true}
	sourceQuench    = icmpKind{name: "source quench", v4: [2]byte{4, 0}, v6: [2]byte{100, 0}}
)

// icmpError makes a whole packet from a router to dst about a packet of dst.
func icmpError(kind icmpKind, router, dst netip.Addr, mtu int, quoted []byte) []byte {
	code := kind.v4
	if dst.Is6() {
		code = kind.v6
	}
	rest := uint32(0)
	if kind.needsMTU {
		rest = uint32(mtu)
	}
	return testframe.ICMP(router, dst, code[0], code[1], rest, quoted)
}
