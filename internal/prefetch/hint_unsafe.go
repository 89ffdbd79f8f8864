package prefetch

import "unsafe"

// A Hint remembers where something is, or was: memory that moved or is no more is
// asked for in vain, and no harm is done. It keeps nothing alive. The zero value
// is nowhere.
type Hint struct{ at word }

// Set remembers the memory that p points to. Of those who call it, one does so at a
// time.
func (h *Hint) Set(p *byte) { h.at.store(uintptr(unsafe.Pointer(p))) }

// Here remembers the stack of the goroutine that calls it, as Set.
func (h *Hint) Here() {
	var here byte
	h.at.store(uintptr(unsafe.Pointer(&here)))
}

// SetObject remembers what v points to, as Set.
func (h *Hint) SetObject(v any) { h.at.store((*[2]uintptr)(unsafe.Pointer(&v))[1]) }

// Around asks for some bytes before that place and behind it. Anyone may call it.
func (h *Hint) Around(before, behind int) {
	if at := h.at.load(); at != 0 {
		Bytes(at-uintptr(before), before+behind)
	}
}
