package link

import (
	"encoding/binary"
	"net"
)

// EthernetHeaderLen is the length in bytes of an untagged Ethernet header.
const EthernetHeaderLen = 14

// EtherTypes that this package tells apart.
const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8
	etherTypeIPv6 = 0x86dd
)

// MAC is a 48-bit Ethernet address.
type MAC [6]byte

var broadcastMAC = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String returns the address in the usual notation.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// multicast tells whether m names a group. A neighbour never has such an
// address.
func (m MAC) multicast() bool { return m[0]&1 != 0 }

// putEthernet writes a header to the first EthernetHeaderLen bytes of b.
func putEthernet(b []byte, dst, src MAC, etherType uint16) {
	_ = b[EthernetHeaderLen-1]
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// ipv4MulticastMAC is the group address of RFC 1112 section 6.4.
func ipv4MulticastMAC(addr []byte) MAC {
	return MAC{0x01, 0x00, 0x5e, addr[1] & 0x7f, addr[2], addr[3]}
}

// ipv6MulticastMAC is the group address of RFC 2464 section 7.
func ipv6MulticastMAC(addr []byte) MAC {
	return MAC{0x33, 0x33, addr[12], addr[13], addr[14], addr[15]}
}
