package redis

import (
	"hash/maphash"
	"runtime"
	"sync"
	"time"
)

// manyShards is the number of locks on several processors: a power of two, many
// times the processors of a large machine, so that two connections seldom want the
// same one.
const manyShards = 256

// Store holds the data set. Any goroutine may use it.
type Store struct {
	seed maphash.Seed
	// shards are manyShards; or one, which a connection keeps locked for all commands
	// that have arrived, where only one can run at a time.
	shards []shard
}

// shard is a part of the keys under one lock.
type shard struct {
	mu sync.RWMutex
	// mu guards the following fields
	values map[string]*value

	_ [88]byte // keeps the next shard's lock out of this one's cache lines
}

// value is a string, or a list when list is not nil.
type value struct {
	str     []byte
	list    *list
	expires int64 // Unix time in nanoseconds, 0: never
}

// NewStore returns an empty store for the processors that Go uses (GOMAXPROCS).
func NewStore() *Store {
	if runtime.GOMAXPROCS(0) == 1 {
		return newStore(1)
	}
	return newStore(manyShards)
}

func newStore(shards int) *Store {
	s := &Store{seed: maphash.MakeSeed(), shards: make([]shard, shards)}
	s.clear()
	return s
}

func (s *Store) clear() {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.values = make(map[string]*value)
		sh.mu.Unlock()
	}
}

// size counts the keys, with those that have expired but were not touched since.
func (s *Store) size() (n int) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		n += len(sh.values)
		sh.mu.RUnlock()
	}
	return n
}

// shard returns the part that key belongs to, of many. The caller locks it.
func (s *Store) shard(key []byte) *shard {
	return &s.shards[maphash.Bytes(s.seed, key)%manyShards]
}

// get returns the live value of key, or nil.
func (sh *shard) get(key []byte) *value {
	v := sh.values[string(key)]
	if v == nil || v.expires != 0 && v.expires <= time.Now().UnixNano() {
		return nil
	}
	return v
}

// set stores a string in place of whatever key had, reusing its memory.
func (sh *shard) set(key, str []byte) *value {
	v := sh.values[string(key)]
	if v == nil {
		v = new(value)
		sh.values[string(key)] = v
	}
	v.str = append(v.str[:0], str...)
	v.list, v.expires = nil, 0
	return v
}
