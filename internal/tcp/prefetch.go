//go:build amd64 || arm64

package tcp

// prefetch has the processor fetch what every segment needs of an endpoint, which is
// its first 17 cache lines: see TestHotPart.
//
//go:noescape
func prefetch(e *Endpoint)
