//go:build !amd64 && !arm64

package checksum

// sum adds the little-endian words of b to s.
func sum(b []byte, s uint64) uint64 { return sumWords(b, s) }

// copySum copies src to dst, which is as long, and adds its little-endian words to
// s.
func copySum(dst, src []byte, s uint64) uint64 {
	copy(dst, src)
	return sumWords(src, s)
}
