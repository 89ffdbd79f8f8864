package xdp

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring is a queue of descriptors in memory shared with the kernel: one side
// produces, the other consumes. Both positions only grow, and wrap at 2^32; the
// entry of a position is at its remainder by the number of entries.
//
// The side that writes a position owns the entries up to it. The kernel reads and
// writes positions with acquire and release semantics, and so do Go's atomics: an
// entry is written before the position that gives it away, and read after the
// position that brings it.
//
// A ring belongs to the goroutine that receives or to the one that sends.
type ring[T any] struct {
	producer, consumer, flags *atomic.Uint32
	entries                   []T
	mask                      uint32
	// position is our side's: what we have produced or consumed, before the kernel
	// is told.
	position uint32
	mem      []byte

	_ [64]byte // the rings of the two sides share no cache line
}

// mapRing maps one ring of a socket. offset is one of XDP_PGOFF_*.
func mapRing[T any](fd int, offset int64, layout unix.XDPRingOffset, entries int) (*ring[T], error) {
	var entry T
	size := int(layout.Desc) + entries*int(unsafe.Sizeof(entry))
	mem, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	// Sound: the kernel lays out a ring of that many entries at these offsets,
	// aligned for their types, inside the mapping, which stays until unmap. The
	// memory is not the garbage collector's. atomic.Uint32 is a uint32 in memory.
	word := func(offset uint64) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&mem[offset])) }
	return &ring[T]{
		producer: word(layout.Producer),
		consumer: word(layout.Consumer),
		flags:    word(layout.Flags),
		entries:  unsafe.Slice((*T)(unsafe.Pointer(&mem[layout.Desc])), entries),
		mask:     uint32(entries - 1),
		mem:      mem,
	}, nil
}

func (r *ring[T]) unmap() {
	if r != nil {
		unix.Munmap(r.mem)
	}
}

// at returns the entry of a position.
func (r *ring[T]) at(position uint32) *T { return &r.entries[position&r.mask] }

// put adds an entry to a ring that we produce. The caller knows that there is
// room; the kernel sees it after publish.
func (r *ring[T]) put(v T) {
	*r.at(r.position) = v
	r.position++
}

// publish gives the kernel what was put.
func (r *ring[T]) publish() { r.producer.Store(r.position) }

// taken returns the position up to which the kernel has consumed a ring that we
// produce.
func (r *ring[T]) taken() uint32 { return r.consumer.Load() }

// available returns how many entries a ring that we consume holds for us.
func (r *ring[T]) available() uint32 { return r.producer.Load() - r.position }

// get takes the next entry of a ring that we consume. The caller knows that there
// is one; the kernel has the slot back after release.
func (r *ring[T]) get() T {
	v := *r.at(r.position)
	r.position++
	return v
}

// release gives the kernel back the slots of what was taken.
func (r *ring[T]) release() { r.consumer.Store(r.position) }

// needWakeup tells whether the kernel has gone idle and has to be kicked to look
// at the ring again. It must be called after publish: both sides write, then
// read, and Go's atomics are sequentially consistent, so that at least one of
// them sees the other.
func (r *ring[T]) needWakeup() bool { return r.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }
