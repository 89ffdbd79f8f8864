package checksum

// wide tells whether sumBlocks and copyBlocks may run: every arm64 processor has NEON.
const wide = true

// sumBlocks sums the 32-bit little-endian words of b, whose length must be a
// positive multiple of 32, and less than 16 GB.
//
//go:noescape
func sumBlocks(b []byte) uint64

// copyBlocks copies src to dst, which must be as long, and returns its sum. It
// asks of src what sumBlocks does.
//
//go:noescape
func copyBlocks(dst, src []byte) uint64
