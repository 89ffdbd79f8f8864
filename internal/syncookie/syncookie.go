// Package syncookie makes SYN cookies (RFC 4987 section 3.6): initial sequence
// numbers that say all that is needed to make a connection when its handshake is
// through, so that a flood of SYNs takes no memory.
//
// A cookie has 27 bits of a keyed hash, SipHash-2-4, of the connection, the peer's
// initial sequence number and the rest of the cookie: two bits of the minute and
// three of the peer's MSS. TCP makes them and knows them again; the filter of
// internal/bpf makes the same ones in the kernel.
//
// Where the peer has timestamps, the one in the answer says in its last bits what
// else the peer can do, as with Linux: the peer echoes it. Nothing proves that echo,
// and nothing has to: who changes it harms its own connection alone.
package syncookie

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// A Key keeps others from making cookies.
type Key [2]uint64

// life is how old a cookie may be, in minutes that have begun since.
const life = 2

// sizes are the MSS that a cookie can tell, each taken for all up to the next one.
var sizes = [8]uint16{216, 536, 768, 996, 1220, 1360, 1440, 1460}

// Make answers a SYN from remote to local with a cookie. irs is the SYN's sequence
// number, mss what it says of the peer's MSS.
func (k Key) Make(local, remote netip.AddrPort, irs, minute uint32, mss uint16) uint32 {
	i := uint32(0)
	for int(i)+1 < len(sizes) && sizes[i+1] <= mss {
		i++
	}
	return k.cookie(local, remote, irs, minute, i)
}

// Check tells whether a cookie is one that Make made for the same connection not
// long ago, and the peer's MSS. now is the minute.
func (k Key) Check(local, remote netip.AddrPort, irs, now, cookie uint32) (mss uint16, ok bool) {
	age := (now - cookie>>3) & 3
	if age > life || k.cookie(local, remote, irs, now-age, cookie&7) != cookie {
		return 0, false
	}
	return sizes[cookie&7], true
}

// WindowShift is the window scale that answers offer for our window.
const WindowShift = 7

// The last bits of an answer's timestamp: the peer's window scale, noShift for none,
// and whether it permits SACK.
const (
	noShift = 15
	sack    = 1 << 4
	told    = 1<<6 - 1
)

// Stamp returns the timestamp of an answer at a time in milliseconds, to a peer with
// a window scale, less than 0 for none, that permits SACK or not.
func Stamp(millis uint32, shift int, permitsSACK bool) uint32 {
	if shift < 0 || shift > noShift-1 {
		shift = noShift
	}
	stamp := millis&^told | uint32(shift)
	if permitsSACK {
		stamp |= sack
	}
	return stamp
}

// Told returns what Stamp was called with, from the peer's echo.
func Told(echo uint32) (shift int, permitsSACK bool) {
	if shift = int(echo & noShift); shift == noShift {
		shift = -1
	}
	return shift, echo&sack != 0
}

func (k Key) cookie(local, remote netip.AddrPort, irs, minute, mss uint32) uint32 {
	var b [44]byte
	to, from := local.Addr().As16(), remote.Addr().As16()
	copy(b[:], to[:])
	copy(b[16:], from[:])
	binary.BigEndian.PutUint16(b[32:], local.Port())
	binary.BigEndian.PutUint16(b[34:], remote.Port())
	binary.BigEndian.PutUint32(b[36:], irs)
	binary.LittleEndian.PutUint32(b[40:], minute<<3|mss)
	return uint32(k.hash(b[:]))&^31 | minute&3<<3 | mss
}

// hash is SipHash-2-4 (Aumasson and Bernstein, 2012).
func (k Key) hash(b []byte) uint64 {
	v0, v1 := k[0]^0x736f6d6570736575, k[1]^0x646f72616e646f6d
	v2, v3 := k[0]^0x6c7967656e657261, k[1]^0x7465646279746573
	rounds := func(n int) {
		for range n {
			v0 += v1
			v2 += v3
			v1 = bits.RotateLeft64(v1, 13) ^ v0
			v3 = bits.RotateLeft64(v3, 16) ^ v2
			v0 = bits.RotateLeft64(v0, 32)
			v2 += v1
			v0 += v3
			v1 = bits.RotateLeft64(v1, 17) ^ v2
			v3 = bits.RotateLeft64(v3, 21) ^ v0
			v2 = bits.RotateLeft64(v2, 32)
		}
	}
	last := uint64(len(b)) << 56
	for ; len(b) >= 8; b = b[8:] {
		word := binary.LittleEndian.Uint64(b)
		v3 ^= word
		rounds(2)
		v0 ^= word
	}
	var rest [8]byte
	copy(rest[:], b)
	last |= binary.LittleEndian.Uint64(rest[:])
	v3 ^= last
	rounds(2)
	v0 ^= last
	v2 ^= 0xff
	rounds(4)
	return v0 ^ v1 ^ v2 ^ v3
}

// Cookies are what SYN cookies are made with. Those of the shards of a runtime are
// the same: the filter of their device, which makes them, too, does not know to
// whom an answer goes.
type Cookies struct {
	Key Key
	// Now is a monotonic clock in nanoseconds.
	Now func() int64
}

// Minute is the time that cookies tell.
func (c *Cookies) Minute() uint32 { return uint32(c.Now() / int64(time.Minute)) }
