package ethtool

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// RSS is what `ethtool -x NAME` shows.
type RSS struct {
	// Function names the hash: "toeplitz", "xor" or "crc32".
	Function string
	// Symmetric: the device changes what it hashes such that both directions of a
	// flow have one hash.
	Symmetric bool
	Key       []byte
	// Table has the receive queue for each value of the hash's low bits.
	Table []uint32
}

// Lengths in bytes of struct ethtool_rxfh, and places in it.
const (
	rxfhLen       = 24
	rxfhTableSize = 8
	rxfhKeySize   = 12
	rxfhFunction  = 16
	rxfhTransform = 17
)

// RSS returns how a device spreads what arrives.
func (s *Socket) RSS(name string) (RSS, error) {
	// The kernel tells the sizes to who asks for nothing.
	sizes := binary.NativeEndian.AppendUint32(nil, unix.ETHTOOL_GRSSH)
	sizes = append(sizes, make([]byte, rxfhLen-len(sizes))...)
	if err := doBytes(s, name, sizes); err != nil {
		return RSS{}, err
	}
	entries, key := binary.NativeEndian.Uint32(sizes[rxfhTableSize:]), binary.NativeEndian.Uint32(sizes[rxfhKeySize:])
	const most = 1 << 16 // entries of a table, bytes of a key
	if entries > most || key > most {
		return RSS{}, fmt.Errorf("%s: a table of %d entries and a key of %d bytes", name, entries, key)
	}
	if entries == 0 && key == 0 {
		return RSS{}, unix.EOPNOTSUPP
	}
	all := append(sizes[:rxfhFunction:rxfhFunction], make([]byte, rxfhLen-rxfhFunction+int(4*entries+key))...)
	if err := doBytes(s, name, all); err != nil {
		return RSS{}, err
	}
	return parseRSS(all), nil
}

// parseRSS reads a struct ethtool_rxfh with as much behind it as it says.
func parseRSS(b []byte) RSS {
	r := RSS{Function: hashFunction(b[rxfhFunction]), Symmetric: b[rxfhTransform] != 0 && b[rxfhTransform] != noTransform}
	entries := binary.NativeEndian.Uint32(b[rxfhTableSize:])
	content := b[rxfhLen:]
	for i := range entries {
		r.Table = append(r.Table, binary.NativeEndian.Uint32(content[4*i:]))
	}
	r.Key = content[4*entries:]
	return r
}

// noTransform is RXH_XFRM_NO_CHANGE.
const noTransform = 0xff

// hashFunction names the bits of RSS's hash functions (ETH_RSS_HASH_*), as ethtool
// does.
func hashFunction(bits byte) string {
	for i, name := range []string{"toeplitz", "xor", "crc32"} {
		if bits>>i&1 != 0 {
			return name
		}
	}
	return "an unknown function"
}

// A Flow is a kind of packets that are hashed alike.
type Flow uint32

// TCP segments of the two IP versions (TCP_V4_FLOW, TCP_V6_FLOW).
const (
	TCPv4 Flow = 1
	TCPv6 Flow = 5
)

// fourTuple are both addresses and both ports (RXH_IP_SRC, RXH_IP_DST, RXH_L4_B_0_1,
// RXH_L4_B_2_3).
const fourTuple = 1<<4 | 1<<5 | 1<<6 | 1<<7

// FourTuple tells whether the device hashes addresses and ports of such packets,
// and nothing else: `ethtool -n NAME rx-flow-hash tcp4`.
func (s *Socket) FourTuple(name string, f Flow) (bool, error) {
	// The first members of struct ethtool_rxnfc, which are all that the kernel reads
	// and writes for this request.
	value := struct {
		cmd, flow uint32
		fields    uint64
	}{cmd: unix.ETHTOOL_GRXFH, flow: uint32(f)}
	err := do(s, name, &value)
	return value.fields == fourTuple, err
}
