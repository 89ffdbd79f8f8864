package flow

import (
	"sync"
	"testing"
)

func TestRecent(t *testing.T) {
	key := func(i int) *Key { return &Key{SrcLo: uint64(i), DstLo: 7, Ports: uint32(i)} }
	const size, newest = 1024, 64
	r := NewRecent(size)
	for i := range 100 * size {
		if r.Has(key(i)) {
			t.Fatalf("key %d is there before it was added", i)
		}
		r.Add(key(i))
		if !r.Has(key(i)) {
			t.Fatalf("key %d is not there after it was added", i)
		}
	}
	lost := 0
	for i := 100*size - newest; i < 100*size; i++ {
		if !r.Has(key(i)) {
			lost++
		}
	}
	// 64 keys in 256 sets: more than four in one set are next to impossible.
	if lost > 1 {
		t.Errorf("%d of the newest %d keys are lost", lost, newest)
	}
	last := key(100*size - 1)
	if r.Forget(last); r.Has(last) {
		t.Error("a key is there after Forget")
	}
	kept := 0
	for i := range 99 * size {
		if r.Has(key(i)) {
			kept++
		}
	}
	if kept > size {
		t.Errorf("%d old keys are there: want at most %d", kept, size)
	}
}

func TestRecentConcurrent(t *testing.T) {
	r := NewRecent(1 << 12)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 10_000 {
				k := Key{SrcLo: uint64(g), Ports: uint32(i % 16)}
				r.Add(&k)
				if !r.Has(&k) {
					t.Errorf("key %d of goroutine %d is gone", i, g)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRecentMiss(b *testing.B) {
	r := NewRecent(1 << 15)
	k := Key{SrcLo: 1, DstLo: 2, Ports: 3}
	b.ReportAllocs()
	for b.Loop() {
		k.Ports++
		if r.Has(&k) {
			b.Fatal("found what was never added")
		}
	}
}
