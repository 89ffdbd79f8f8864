package checksum

import "golang.org/x/sys/cpu"

// wide tells whether sumBlocks and copyBlocks may run.
var wide = cpu.X86.HasAVX2

// sumBlocks sums the 32-bit little-endian words of b, whose length must be a
// positive multiple of 32. It needs AVX2, and b shorter than 16 GB.
//
//go:noescape
func sumBlocks(b []byte) uint64

// copyBlocks copies src to dst, which must be as long, and returns its sum. It
// asks of src what sumBlocks does.
//
//go:noescape
func copyBlocks(dst, src []byte) uint64
