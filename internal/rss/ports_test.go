package rss

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

var (
	local4  = netip.MustParseAddr("10.0.0.2")
	remote4 = netip.MustParseAddrPort("10.0.0.1:6379")
	local6  = netip.MustParseAddr("fd00::2")
	remote6 = netip.MustParseAddrPort("[fd00::1]:6379")
)

func ports(tb testing.TB, first, last uint16) *Ports {
	tb.Helper()
	p, err := NewPorts(first, last, rand.New(rand.NewPCG(1, 2)).Uint32)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestPortsLeadToTheQueue(t *testing.T) {
	const first, last = 16000, 65535
	random, err := RandomKey(rand.NewChaCha8([32]byte{7}), LongKeyLen)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]byte{"microsoft": MicrosoftKey(), "symmetric": SymmetricKey(KeyLen), "random": random}
	for name, key := range keys {
		for _, queues := range []int{1, 2, 5, 32} {
			for _, end := range []struct {
				local  netip.Addr
				remote netip.AddrPort
			}{{local4, remote4}, {local6, remote6}} {
				t.Run(fmt.Sprintf("%s/%d queues/%v", name, queues, end.local), func(t *testing.T) {
					s := spread(t, key, 128, queues)
					p := ports(t, first, last)
					seen := map[uint16]bool{}
					for q := range queues {
						found := 0
						for f := p.Search(s, end.local, end.remote, q); ; found++ {
							port, ok := f.Next()
							if !ok {
								break
							}
							if port < first || seen[port] {
								t.Fatalf("port %d is out of range or found twice", port)
							}
							seen[port] = true
							reply := s.Hash4(end.remote, netip.AddrPortFrom(end.local, port))
							if got := s.Queue(reply); got != q {
								t.Fatalf("a reply to port %d arrives on queue %d, want %d", port, got, q)
							}
						}
						// A fair share of the range, as far as the table is even.
						if fair := (last - first + 1) / queues; found < fair*3/4 || found > fair*5/4 {
							t.Errorf("queue %d has %d ports, want about %d", q, found, fair)
						}
					}
					if len(seen) != last-first+1 {
						t.Errorf("all queues together have %d ports, want %d", len(seen), last-first+1)
					}
				})
			}
		}
	}
}

func TestPortsAreUsedInTurn(t *testing.T) {
	s, p := spread(t, MicrosoftKey(), 128, 4), ports(t, 40000, 40999)
	seen := map[uint16]bool{}
	all := 0
	for f := p.Search(s, local4, remote4, 3); ; all++ {
		if _, ok := f.Next(); !ok {
			break
		}
	}
	// As many dials, each a search of its own, find as many different ports.
	for range all {
		f := p.Search(s, local4, remote4, 3)
		port, ok := f.Next()
		if !ok || seen[port] {
			t.Fatalf("port %d, %v after %d of %d: want one not used before", port, ok, len(seen), all)
		}
		seen[port] = true
	}
	f := p.Search(s, local4, remote4, 3)
	if port, ok := f.Next(); !ok || !seen[port] {
		t.Errorf("port %d, %v after all were used: want to start over", port, ok)
	}
}

func TestPortsWithoutASpread(t *testing.T) {
	p := ports(t, 50000, 50009)
	f := p.Search(nil, local4, remote4, 3)
	for i := range 10 {
		if _, ok := f.Next(); !ok {
			t.Fatalf("%d ports, want all 10", i)
		}
	}
	if port, ok := f.Next(); ok {
		t.Errorf("port %d after the last", port)
	}
}

// TestPortsAdded: searches go on in the ports that were added, and then use all.
func TestPortsAdded(t *testing.T) {
	p := ports(t, 50000, 50009)
	for range 3 {
		f := p.Search(nil, local4, remote4, 0)
		f.Next()
	}
	if err := p.Add(60000, 60004); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	f := p.Search(nil, local4, remote4, 0)
	for i := 0; ; i++ {
		port, ok := f.Next()
		if !ok {
			break
		}
		if i == 0 && port < 60000 {
			t.Errorf("port %d after ports were added, want one of these", port)
		}
		if port < 50000 || port > 50009 && port < 60000 || port > 60004 || seen[port] {
			t.Errorf("port %d is out of range or found twice", port)
		}
		seen[port] = true
	}
	if len(seen) != 15 {
		t.Errorf("%d ports, want all 15", len(seen))
	}
}

func TestPortsWithoutAFit(t *testing.T) {
	s := spread(t, MicrosoftKey(), 128, 1)
	f := ports(t, 50000, 50009).Search(s, local4, remote4, 1)
	if port, ok := f.Next(); ok {
		t.Errorf("port %d leads to a queue that no table entry names", port)
	}
}

func TestNewPortsRefuses(t *testing.T) {
	for _, r := range [][2]uint16{{0, 10}, {11, 10}} {
		if _, err := NewPorts(r[0], r[1], rand.Uint32); err == nil {
			t.Errorf("ports %d to %d: no error", r[0], r[1])
		}
	}
}

func TestSearchDoesNotAllocate(t *testing.T) {
	s, p := spread(t, MicrosoftKey(), 128, 8), ports(t, 16000, 65535)
	if n := testing.AllocsPerRun(100, func() {
		f := p.Search(s, local6, remote6, 5)
		f.Next()
	}); n != 0 {
		t.Errorf("%v allocations per search, want 0", n)
	}
}

func BenchmarkPortSearch(b *testing.B) {
	for _, queues := range []int{2, 8, 32} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			s, p := spread(b, MicrosoftKey(), 128, queues), ports(b, 16000, 65535)
			b.ReportAllocs()
			for b.Loop() {
				f := p.Search(s, local4, remote4, queues-1)
				if _, ok := f.Next(); !ok {
					b.Fatal("no port")
				}
			}
		})
	}
}
