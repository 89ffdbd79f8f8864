//go:build amd64 || arm64

package prefetch

// lines has the processor fetch n cache lines, at least one, from an address on.
//
//go:noescape
func lines(address uintptr, n int)
