//go:build race

package prefetch

import "sync/atomic"

type word struct{ n atomic.Uintptr }

func (w *word) store(n uintptr) { w.n.Store(n) }
func (w *word) load() uintptr   { return w.n.Load() }
