package netif

import (
	"encoding/binary"

	"github.com/gotpa/tpa/link"
)

// EtherTypes that this package tells apart.
const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8
	etherTypeIPv6 = 0x86dd
)

var broadcastMAC = link.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// putEthernet writes a header to the first link.EthernetHeaderLen bytes of b.
func putEthernet(b []byte, dst, src link.MAC, etherType uint16) {
	_ = b[link.EthernetHeaderLen-1]
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// ipv4MulticastMAC is the group address of RFC 1112 section 6.4.
func ipv4MulticastMAC(addr []byte) link.MAC {
	return link.MAC{0x01, 0x00, 0x5e, addr[1] & 0x7f, addr[2], addr[3]}
}

// ipv6MulticastMAC is the group address of RFC 2464 section 7.
func ipv6MulticastMAC(addr []byte) link.MAC {
	return link.MAC{0x33, 0x33, addr[12], addr[13], addr[14], addr[15]}
}
