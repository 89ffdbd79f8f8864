// Package flow finds the owner of a TCP segment by its addresses and ports.
//
// A Table is read without a lock, by the poller above all, while others insert
// and delete. It is an open-addressed hash table of pointers: a reader sees each
// slot either before or after a change, and both are right.
package flow

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gotpa/tpa/internal/prefetch"
)

// Key names a flow as its segments arrive: source is the peer, destination is
// us. IPv4 addresses use the low halves and leave the high ones 0, which no
// IPv6 unicast address does.
type Key struct {
	SrcHi, SrcLo, DstHi, DstLo uint64
	// Ports is the source port in the high half and the destination port in the
	// low half.
	Ports uint32
}

// Key4 returns the key of an IPv4 segment: addrs is source and destination
// address, 8 bytes, ports the first 4 bytes of the TCP header.
func Key4(addrs, ports []byte) Key {
	_ = addrs[7]
	return Key{
		SrcLo: uint64(binary.BigEndian.Uint32(addrs)),
		DstLo: uint64(binary.BigEndian.Uint32(addrs[4:])),
		Ports: binary.BigEndian.Uint32(ports),
	}
}

// Key6 returns the key of an IPv6 segment: addrs is source and destination
// address, 32 bytes, ports the first 4 bytes of the TCP header.
func Key6(addrs, ports []byte) Key {
	_ = addrs[31]
	return Key{
		SrcHi: binary.BigEndian.Uint64(addrs),
		SrcLo: binary.BigEndian.Uint64(addrs[8:]),
		DstHi: binary.BigEndian.Uint64(addrs[16:]),
		DstLo: binary.BigEndian.Uint64(addrs[24:]),
		Ports: binary.BigEndian.Uint32(ports),
	}
}

// Ends are the addresses of the key's two ends.
func (k *Key) Ends() (local, remote netip.AddrPort) {
	end := func(hi, lo uint64, port uint16) netip.AddrPort {
		if k.SrcHi|k.DstHi == 0 {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(lo)))), port)
		}
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], hi)
		binary.BigEndian.PutUint64(a[8:], lo)
		return netip.AddrPortFrom(netip.AddrFrom16(a), port)
	}
	return end(k.DstHi, k.DstLo, uint16(k.Ports)), end(k.SrcHi, k.SrcLo, uint16(k.Ports>>16))
}

// minSlots is the size of an empty table, a power of two.
const minSlots = 256

// Table maps keys to values. The zero value is an empty table.
type Table[V any] struct {
	slots atomic.Pointer[slots[V]]

	// mu guards inserting and deleting.
	mu sync.Mutex
	// used counts entries and tombstones.
	used      int
	tombstone *entry[V]
	// live counts entries. It is written under mu.
	live atomic.Int64
}

type slots[V any] struct {
	seed [2]uint64
	mask uint64
	at   []atomic.Pointer[entry[V]]
}

// entry never changes once it is in a slot. A dead one is a tombstone, which
// keeps the search going: one for all of a table.
type entry[V any] struct {
	key   Key
	dead  bool
	value V
}

// hash is keyed, so that peers cannot choose tuples that collide.
func hash(seed *[2]uint64, k *Key) uint64 {
	h1, l1 := bits.Mul64(k.SrcHi^seed[0]^bits.RotateLeft64(k.DstHi, 32), k.SrcLo^seed[1]^uint64(k.Ports)<<32)
	h2, l2 := bits.Mul64(h1^l1^k.DstLo, seed[0]^uint64(k.Ports))
	return h2 ^ l2
}

// Lookup returns the value of k. It takes no lock.
func (t *Table[V]) Lookup(k *Key) (v V, ok bool) {
	s := t.slots.Load()
	if s == nil {
		return v, false
	}
	for i := hash(&s.seed, k); ; i++ {
		e := s.at[i&s.mask].Load()
		if e == nil {
			return v, false
		}
		if e.key == *k && !e.dead {
			return e.value, true
		}
	}
}

// Prefetch asks for what Lookup will need: first, with far unset, the slot, and some
// time later, with far set, the entry.
func (t *Table[V]) Prefetch(k *Key, far bool) {
	s := t.slots.Load()
	if s == nil {
		return
	}
	slot := &s.at[hash(&s.seed, k)&s.mask]
	if !far {
		prefetch.Of(slot)
	} else if e := slot.Load(); e != nil {
		prefetch.Of(e)
	}
}

// Insert sets the value of k.
func (t *Table[V]) Insert(k Key, v V) { t.insert(k, v, true) }

// Add sets the value of k unless it has one, and tells whether it did.
func (t *Table[V]) Add(k Key, v V) bool { return t.insert(k, v, false) }

func (t *Table[V]) insert(k Key, v V, replace bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slots.Load()
	if s == nil || (t.used+1)*2 > len(s.at) {
		s = t.rehashLocked(s)
	}
	var free *atomic.Pointer[entry[V]] // the first tombstone on the way
	for i := hash(&s.seed, &k); ; i++ {
		slot := &s.at[i&s.mask]
		e := slot.Load()
		switch {
		case e == nil:
			if free == nil {
				free = slot
				t.used++
			}
			free.Store(&entry[V]{key: k, value: v})
			t.live.Add(1)
			return true
		case e.dead:
			if free == nil {
				free = slot
			}
		case e.key == k:
			if replace {
				slot.Store(&entry[V]{key: k, value: v})
			}
			return replace
		}
	}
}

// Delete removes k.
func (t *Table[V]) Delete(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slots.Load()
	if s == nil {
		return
	}
	for i := hash(&s.seed, &k); ; i++ {
		slot := &s.at[i&s.mask]
		e := slot.Load()
		if e == nil {
			return
		}
		if e.key == k && !e.dead {
			if t.tombstone == nil {
				t.tombstone = &entry[V]{dead: true}
			}
			t.live.Add(-1)
			slot.Store(t.tombstone)
			return
		}
	}
}

// Len returns the number of entries. It takes no lock.
func (t *Table[V]) Len() int { return int(t.live.Load()) }

// All yields the entries. It takes no lock: of those that come and go meanwhile
// it may miss some.
func (t *Table[V]) All() iter.Seq2[Key, V] {
	return func(yield func(Key, V) bool) {
		s := t.slots.Load()
		if s == nil {
			return
		}
		for i := range s.at {
			if e := s.at[i].Load(); e != nil && !e.dead && !yield(e.key, e.value) {
				return
			}
		}
	}
}

// rehashLocked moves the living to new slots, at most a quarter full, under a
// new seed. The reader keeps using the old ones until it looks again.
func (t *Table[V]) rehashLocked(old *slots[V]) *slots[V] {
	n := minSlots
	live := int(t.live.Load())
	for n < 4*(live+1) {
		n *= 2
	}
	s := &slots[V]{
		seed: [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1},
		mask: uint64(n - 1),
		at:   make([]atomic.Pointer[entry[V]], n),
	}
	if old != nil {
		for i := range old.at {
			e := old.at[i].Load()
			if e == nil || e.dead {
				continue
			}
			j := hash(&s.seed, &e.key)
			for s.at[j&s.mask].Load() != nil {
				j++
			}
			s.at[j&s.mask].Store(e)
		}
	}
	t.used = live
	t.slots.Store(s)
	return s
}
