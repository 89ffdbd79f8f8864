package link

import "net"

// EthernetHeaderLen is the length in bytes of an untagged Ethernet header.
const EthernetHeaderLen = 14

// MAC is a 48-bit Ethernet address.
type MAC [6]byte

// String returns the address in the usual notation.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Multicast tells whether m names a group, or all stations.
func (m MAC) Multicast() bool { return m[0]&1 != 0 }
