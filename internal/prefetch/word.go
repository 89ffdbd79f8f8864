//go:build !race

package prefetch

// A word is written in one piece: see package counter.
type word struct{ n uintptr }

func (w *word) store(n uintptr) { w.n = n }
func (w *word) load() uintptr   { return w.n }
