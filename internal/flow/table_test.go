package flow

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
)

func key(i uint64) Key {
	return Key{SrcLo: i >> 16, DstLo: 7, Ports: uint32(i&0xffff)<<16 | 80}
}

func TestKeys(t *testing.T) {
	ports := []byte{0x12, 0x34, 0x56, 0x78}
	if got, want := Key4([]byte{1, 2, 3, 4, 5, 6, 7, 8}, ports), (Key{SrcLo: 0x01020304, DstLo: 0x05060708, Ports: 0x12345678}); got != want {
		t.Errorf("Key4 = %+v, want %+v", got, want)
	}
	var addrs [32]byte
	for i := range addrs {
		addrs[i] = byte(i)
	}
	want := Key{
		SrcHi: binary.BigEndian.Uint64(addrs[0:]), SrcLo: binary.BigEndian.Uint64(addrs[8:]),
		DstHi: binary.BigEndian.Uint64(addrs[16:]), DstLo: binary.BigEndian.Uint64(addrs[24:]), Ports: 0x12345678,
	}
	if got := Key6(addrs[:], ports); got != want {
		t.Errorf("Key6 = %+v, want %+v", got, want)
	}
}

// TestAgainstMap makes random changes and compares with a map.
func TestAgainstMap(t *testing.T) {
	var table Table[int]
	want := make(map[Key]int)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 50_000 {
		k := key(rng.Uint64N(3000))
		switch rng.IntN(3) {
		case 0:
			table.Delete(k)
			delete(want, k)
		default:
			table.Insert(k, i)
			want[k] = i
		}
	}
	if table.Len() != len(want) {
		t.Errorf("Len = %d, want %d", table.Len(), len(want))
	}
	for i := range uint64(3000) {
		k := key(i)
		got, ok := table.Lookup(&k)
		if w, wok := want[k]; got != w || ok != wok {
			t.Errorf("Lookup(%+v) = %d, %v, want %d, %v", k, got, ok, w, wok)
		}
	}
	seen := 0
	for k, v := range table.All() {
		if seen++; want[k] != v {
			t.Errorf("All: %+v has %d, want %d", k, v, want[k])
		}
	}
	if seen != len(want) {
		t.Errorf("All visited %d entries, want %d", seen, len(want))
	}
}

// TestReader looks up entries that stay while others come and go and the table
// grows under the reader.
func TestReader(t *testing.T) {
	var table Table[uint64]
	const stay = 100
	for i := range uint64(stay) {
		table.Insert(key(i), i)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range uint64(2) {
		wg.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := key(1_000_000*(w+1) + i%5000)
				table.Insert(k, i)
				if i%3 != 0 {
					table.Delete(k)
				}
			}
		})
	}
	for range 300 {
		for i := range uint64(stay) {
			k := key(i)
			if got, ok := table.Lookup(&k); !ok || got != i {
				t.Fatalf("Lookup(%d) = %d, %v", i, got, ok)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkLookup(b *testing.B) {
	for _, flows := range []uint64{50, 10_000} {
		b.Run(map[uint64]string{50: "50", 10_000: "10000"}[flows], func(b *testing.B) {
			var table Table[int]
			for i := range flows {
				table.Insert(key(i), int(i))
			}
			b.ReportAllocs()
			i := uint64(0)
			for b.Loop() {
				k := key(i % flows)
				table.Lookup(&k)
				i += 7
			}
		})
	}
}
