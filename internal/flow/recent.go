package flow

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// ways is the number of slots that a key may be in.
const ways = 4

// Recent remembers the keys that it was given last. It has a fixed size: a flood
// of keys pushes older ones out, and costs no memory. Any goroutine may call its
// methods, and none waits.
type Recent struct {
	seed  [2]uint64
	mask  uint64
	slots []atomic.Uint64 // hashes, 0 for none
	next  []atomic.Uint32 // by set of slots: how many keys it was given
}

// NewRecent returns a Recent with that many slots, a power of two of at least 4.
func NewRecent(slots int) *Recent {
	return &Recent{
		seed:  [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1},
		mask:  uint64(slots/ways - 1),
		slots: make([]atomic.Uint64, slots),
		next:  make([]atomic.Uint32, slots/ways),
	}
}

// find returns what stands for a key, and the set of slots where it may be with
// its number.
func (r *Recent) find(k *Key) (tag uint64, set []atomic.Uint64, number uint64) {
	h := hash(&r.seed, k)
	number = bits.RotateLeft64(h, 32) & r.mask
	return h | 1, r.slots[number*ways:][:ways], number
}

// Add remembers a key.
func (r *Recent) Add(k *Key) {
	tag, set, number := r.find(k)
	for i := range set {
		if set[i].Load() == tag {
			return
		}
	}
	set[r.next[number].Add(1)%ways].Store(tag)
}

// Forget takes a key back.
func (r *Recent) Forget(k *Key) {
	tag, set, _ := r.find(k)
	for i := range set {
		set[i].CompareAndSwap(tag, 0)
	}
}

// Has tells whether a key is remembered. That it says so of another key has a
// chance of 2 to the power of -61.
func (r *Recent) Has(k *Key) bool {
	tag, set, _ := r.find(k)
	for i := range set {
		if set[i].Load() == tag {
			return true
		}
	}
	return false
}
