// Package checksum computes the Internet checksum (RFC 1071): the one's
// complement sum of 16-bit words in network order. A sum is 0 only if all that
// went into it was 0, and 0xffff otherwise where the number is a multiple of
// that; what a header carries is its complement.
//
// The functions keep no state and may be called by any goroutine.
package checksum

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds the words of b to the sum initial. A last odd byte counts as if a 0
// followed.
func Sum(b []byte, initial uint16) uint16 {
	return fold(sum(b, uint64(bits.ReverseBytes16(initial))))
}

// Copy copies src to dst, which must not overlap it and be as long at least, and
// adds the words of src to the sum initial, as Sum does: in one pass over the
// bytes, which takes a quarter to a third less time than copy and Sum.
func Copy(dst, src []byte, initial uint16) uint16 {
	return fold(copySum(dst[:len(src)], src, uint64(bits.ReverseBytes16(initial))))
}

// Combine adds two sums.
func Combine(a, b uint16) uint16 {
	v := uint32(a) + uint32(b)
	return uint16(v + v>>16)
}

// Odd turns the sum of bytes into what they add where they stand at an odd
// offset (RFC 1071 section 2 (B)).
func Odd(sum uint16) uint16 { return bits.ReverseBytes16(sum) }

// fold takes a sum of little-endian words to 16 bits in network order.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffff_ffff // 33 bits
	s = s>>16 + s&0xffff      // 18 bits
	s = s>>16 + s&0xffff      // 17 bits
	s = s>>16 + s&0xffff
	return bits.ReverseBytes16(uint16(s))
}

// sumWords adds the little-endian words of b to s. The order of bytes makes no
// difference to a one's complement sum but that it swaps the bytes of the result
// (RFC 1071 section 2 (B)), nor does the size of the words, so that it adds 64
// bits at a time: the compiler makes a chain of ADCQ on amd64, of ADCS on arm64.
func sumWords(b []byte, s uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		s, c = bits.Add64(s, 0, c)
		s += c
		b = b[64:]
	}
	if len(b) >= 32 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, 0, c)
		s += c
		b = b[32:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s += c // less than all ones before: it cannot overflow
		b = b[8:]
	}
	var rest uint64
	if len(b) >= 4 {
		rest = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		rest += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		rest += uint64(b[0])
	}
	s, c = bits.Add64(s, rest, 0)
	return s + c
}
