//go:build amd64 || arm64

package checksum

import "math/bits"

// worth is the length in bytes from which sumBlocks is faster than sumWords.
const worth = 192

// sum adds the little-endian words of b to s.
func sum(b []byte, s uint64) uint64 {
	if len(b) < worth || !wide {
		return sumWords(b, s)
	}
	n := len(b) &^ 31
	s, c := bits.Add64(s, sumBlocks(b[:n]), 0)
	return sumWords(b[n:], s+c)
}

// copySum copies src to dst, which is as long, and adds its little-endian words to
// s.
func copySum(dst, src []byte, s uint64) uint64 {
	if len(src) < worth || !wide {
		copy(dst, src)
		return sumWords(src, s)
	}
	n := len(src) &^ 31
	s, c := bits.Add64(s, copyBlocks(dst[:n], src[:n]), 0)
	copy(dst[n:], src[n:])
	return sumWords(src[n:], s+c)
}
