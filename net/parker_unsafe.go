package tpanet

import (
	"sync/atomic"
	"unsafe"

	gsync "gvisor.dev/gvisor/pkg/sync"

	"github.com/gotpa/tpa/internal/prefetch"
)

// A parker is where one goroutine at a time waits until somebody asserts it. It costs
// three locked instructions per wait, where a channel takes a lock on both sides and
// gVisor's sleep.Sleeper, which serves many wakers, takes twice as many. The zero
// value is ready to use.
//
// It holds a goroutine as a number. That is sound because the number is there only
// while the goroutine is parked, who takes it out is the one that wakes it, and the
// runtime does not free what describes a goroutine.
type parker struct {
	// state is idle, asserted, or the goroutine that waits.
	state uintptr
}

const (
	idle     = 0
	asserted = 1
)

// Assert ends the current wait, or the next one. Anyone may call it.
func (p *parker) Assert() {
	if atomic.LoadUintptr(&p.state) == asserted {
		return
	}
	if g := atomic.SwapUintptr(&p.state, asserted); g != idle && g != asserted {
		gsync.Goready(g, 0, true)
	}
}

// Clear forgets that the parker was asserted. Only who may call Wait calls it.
func (p *parker) Clear() {
	if atomic.LoadUintptr(&p.state) == asserted {
		atomic.StoreUintptr(&p.state, idle)
	}
}

// Wait waits until the parker is asserted, and clears it. One goroutine at a time may
// call it.
func (p *parker) Wait() {
	for atomic.LoadUintptr(&p.state) != asserted {
		gsync.Gopark(commitPark, unsafe.Pointer(&p.state), gsync.WaitReasonSelect, gsync.TraceBlockSelect, 0)
	}
	atomic.StoreUintptr(&p.state, idle)
}

// goroutineSize is what the runtime keeps of a goroutine, in bytes, as far as waking
// it needs that.
const goroutineSize = 448

// prefetch asks for the goroutine that waits, if one does. Anyone may call it.
func (p *parker) prefetch() {
	if g := atomic.LoadUintptr(&p.state); g > asserted {
		prefetch.Bytes(g, goroutineSize)
	}
}

// commitPark runs when goroutine g is about to stop, and reports false where the
// parker was asserted meanwhile: then g goes on. There is no stack and no race
// context for more than this.
//
//go:norace
//go:nosplit
func commitPark(g uintptr, state unsafe.Pointer) bool {
	return gsync.RaceUncheckedAtomicCompareAndSwapUintptr((*uintptr)(state), idle, g)
}
