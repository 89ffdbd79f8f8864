//go:build linux

package xdp

import (
	"encoding/binary"

	"github.com/gotpa/tpa/link"
)

// partial returns Good for a TCP segment whose checksum the sender left to its
// device, else Unchecked.
//
// The kernel at the other end of a veth pair does that (CHECKSUM_PARTIAL), unless
// `ethtool -K PEER tx off` forbids it: no device follows that could fill in the
// checksum, and none that could damage the segment. The field then holds the sum
// of the pseudo-header. A segment that came over a wire before holds that value
// by chance once in 65,536 times, and was checked by the device that received it.
func partial(frame []byte) link.Verdict {
	var sum uint64
	var tcp []byte
	switch {
	case len(frame) >= 54 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14] == 0x45 && frame[23] == 6:
		ip := frame[14:34]
		size := int(binary.BigEndian.Uint16(ip[2:]))
		if size < 40 || size > len(frame)-14 || fold(add(0, ip)) != 0xffff {
			return link.Unchecked
		}
		tcp = frame[34 : 14+size]
		sum = add(0, ip[12:20])
	case len(frame) >= 74 && binary.BigEndian.Uint16(frame[12:]) == 0x86dd && frame[20] == 6:
		ip := frame[14:54]
		size := int(binary.BigEndian.Uint16(ip[4:]))
		if size < 20 || size > len(frame)-54 {
			return link.Unchecked
		}
		tcp = frame[54 : 54+size]
		sum = add(0, ip[8:40])
	default:
		return link.Unchecked
	}
	if fold(sum+6+uint64(len(tcp))) != binary.BigEndian.Uint16(tcp[16:]) {
		return link.Unchecked
	}
	return link.Good
}

// add adds b, a multiple of 4 bytes, to a sum as RFC 1071 computes it.
func add(sum uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	return sum
}

// fold reduces a sum to 16 bits.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
