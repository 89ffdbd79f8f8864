// Package rss computes which queue of a device a flow arrives on, as the device
// itself does: receive side scaling, that is the Toeplitz hash over the
// addresses and ports of a packet, whose low bits pick a queue from the
// redirection table (RETA).
//
// A Spread is the hash and table of one device, made from the link.RSS that the
// device reports. It answers two questions: on which queue will this flow arrive
// (Queue of Hash4), and from which local port must a connection start so that
// its replies arrive on a wanted queue (Ports). A device that cannot tell its
// RSS has no Spread: flows are then found out by looking where they arrive.
//
// A Spread does not change and may be used by any goroutine. Nothing here
// allocates after construction.
package rss

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/gotpa/tpa/link"
)

// maxInput is the longest input of the hash: two IPv6 addresses and two ports.
const maxInput = 2*16 + 2*2

// MaxTable is the greatest length of a redirection table. No known device has
// more than 4096 entries.
const MaxTable = 1 << 16

// A Spread is how one device spreads flows over its queues.
type Spread struct {
	// part[i][b] is what byte b at position i of the input adds to the hash. The
	// hash is linear over XOR: the parts of all bytes XORed together are the hash.
	// IPv4 touches 12 KB of it.
	part  [maxInput][256]uint32
	table []uint16
	mask  uint32
	key   []byte
}

// New returns the spread of a device with that many queues. It fails when the
// key is neither 40 nor 52 bytes long, the table's length is not a power of two
// up to MaxTable, or an entry names a queue that is not there.
func New(r link.RSS, queues int) (*Spread, error) {
	var errs []error
	if n := len(r.Key); n != KeyLen && n != LongKeyLen {
		errs = append(errs, fmt.Errorf("RSS key is %d bytes long: want %d or %d", n, KeyLen, LongKeyLen))
	}
	if n := len(r.Table); n == 0 || n > MaxTable || n&(n-1) != 0 {
		errs = append(errs, fmt.Errorf("RSS table has %d entries: want a power of two up to %d", n, MaxTable))
	}
	for i, q := range r.Table {
		if int(q) >= queues {
			errs = append(errs, fmt.Errorf("RSS table entry %d is queue %d: the device has %d queues", i, q, queues))
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	s := &Spread{
		table: append([]uint16(nil), r.Table...),
		mask:  uint32(len(r.Table) - 1),
		key:   append([]byte(nil), r.Key...),
	}
	for i := range s.part {
		// window is the 40 bits of the key that the 8 bits of byte i select 32 of.
		var window uint64
		for _, b := range s.key[i : i+5] {
			window = window<<8 | uint64(b)
		}
		for b := range s.part[i] {
			for bit := range 8 {
				if b&(0x80>>bit) != 0 {
					s.part[i][b] ^= uint32(window >> (8 - bit))
				}
			}
		}
	}
	return s, nil
}

// RSS returns a copy of the key and table.
func (s *Spread) RSS() link.RSS {
	return link.RSS{Key: append([]byte(nil), s.key...), Table: append([]uint16(nil), s.table...)}
}

// Queue returns the queue that packets with this hash arrive on.
func (s *Spread) Queue(hash uint32) int { return int(s.table[hash&s.mask]) }

// Hash hashes the fields of a packet as they stand in its headers: addrs is the
// source and the destination address, 8 or 32 bytes; ports is the source and
// the destination port, 4 bytes, or nothing for packets that are spread by
// address alone (fragments, and protocols without ports).
func (s *Spread) Hash(addrs, ports []byte) uint32 {
	return s.at(0, addrs) ^ s.at(len(addrs), ports)
}

// at is what the bytes from position i of the input on add to the hash.
func (s *Spread) at(i int, input []byte) uint32 {
	part := s.part[i:]
	input = input[:min(len(input), len(part))]
	var hash uint32
	for j, b := range input {
		hash ^= part[j][b]
	}
	return hash
}

// Hash2 hashes a pair of addresses of one IP version.
func (s *Spread) Hash2(src, dst netip.Addr) uint32 {
	if src, dst := src.Unmap(), dst.Unmap(); src.Is4() {
		a, b := src.As4(), dst.As4()
		return s.at(0, a[:]) ^ s.at(4, b[:])
	}
	a, b := src.As16(), dst.As16()
	return s.at(0, a[:]) ^ s.at(16, b[:])
}

// Hash4 hashes the addresses and ports of a flow. Both addresses are of one IP
// version.
func (s *Spread) Hash4(src, dst netip.AddrPort) uint32 {
	hash := s.Hash2(src.Addr(), dst.Addr())
	ports := s.ports(dst.Addr())
	return hash ^ port(ports[0:2], src.Port()) ^ port(ports[2:4], dst.Port())
}

// ports is the part of the table that the ports of a flow with this address
// index: two bytes of source, two of destination.
func (s *Spread) ports(addr netip.Addr) *[4][256]uint32 {
	if addr.Is4() || addr.Is4In6() {
		return (*[4][256]uint32)(s.part[2*4:])
	}
	return (*[4][256]uint32)(s.part[2*16:])
}

// port is what one port adds to the hash.
func port(part [][256]uint32, p uint16) uint32 {
	_ = part[1]
	return part[0][p>>8] ^ part[1][p&0xff]
}
