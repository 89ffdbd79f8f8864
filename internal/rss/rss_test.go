package rss

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/gotpa/tpa/link"
)

// vectors are those that Microsoft publishes with "Verifying the RSS Hash
// Calculation".
var vectors = []struct {
	dst, src     string
	hash2, hash4 uint32
}{
	{"161.142.100.80:1766", "66.9.149.187:2794", 0x323e8fc2, 0x51ccc178},
	{"65.69.140.83:4739", "199.92.111.2:14230", 0xd718262a, 0xc626b0ea},
	{"12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0a5de, 0x5c2b394a},
	{"209.142.163.6:2217", "38.27.205.30:48228", 0x82989176, 0xafc7327f},
	{"202.188.127.2:1303", "153.39.163.191:44251", 0x5d1809c5, 0x10e828a2},
	{"[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc18cd5, 0x40207d3d},
	{"[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c461c, 0xdde51bbf},
	{"[fe80::200:f8ff:fe21:67cf]:38024", "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", 0x4b61e985, 0x02d1feef},
}

func spread(tb testing.TB, key []byte, entries, queues int) *Spread {
	tb.Helper()
	s, err := New(link.RSS{Key: key, Table: Table(entries, queues)}, queues)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestMicrosoftVectors(t *testing.T) {
	long := append(MicrosoftKey(), make([]byte, LongKeyLen-KeyLen)...)
	for _, key := range [][]byte{MicrosoftKey(), long} {
		s := spread(t, key, 128, 4)
		for _, v := range vectors {
			src, dst := netip.MustParseAddrPort(v.src), netip.MustParseAddrPort(v.dst)
			if got := s.Hash2(src.Addr(), dst.Addr()); got != v.hash2 {
				t.Errorf("key of %d bytes: Hash2(%v, %v) = %#x, want %#x", len(key), src.Addr(), dst.Addr(), got, v.hash2)
			}
			if got := s.Hash4(src, dst); got != v.hash4 {
				t.Errorf("key of %d bytes: Hash4(%v, %v) = %#x, want %#x", len(key), src, dst, got, v.hash4)
			}
			addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
			ports := []byte{byte(src.Port() >> 8), byte(src.Port()), byte(dst.Port() >> 8), byte(dst.Port())}
			if got := s.Hash(addrs, ports); got != v.hash4 {
				t.Errorf("key of %d bytes: Hash of %v to %v as headers = %#x, want %#x", len(key), src, dst, got, v.hash4)
			}
			if got := s.Hash(addrs, nil); got != v.hash2 {
				t.Errorf("key of %d bytes: Hash of the addresses of %v to %v = %#x, want %#x", len(key), src, dst, got, v.hash2)
			}
		}
	}
}

// bitwise is the hash as its definition has it: for each set bit of the input,
// the 32 bits of the key that start there.
func bitwise(key, input []byte) uint32 {
	bit := func(i int) uint32 { return uint32(key[i/8]) >> (7 - i%8) & 1 }
	var hash uint32
	for i := range len(input) * 8 {
		if input[i/8]>>(7-i%8)&1 == 0 {
			continue
		}
		for j := range 32 {
			hash ^= bit(i+j) << (31 - j)
		}
	}
	return hash
}

func TestHashIsItsDefinition(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for range 50 {
		for _, addrs := range []int{8, 32} {
			key, err := RandomKey(random, LongKeyLen)
			if err != nil {
				t.Fatal(err)
			}
			input := make([]byte, addrs+4)
			random.Read(input)
			s := spread(t, key, 64, 3)
			if got, want := s.Hash(input[:addrs], input[addrs:]), bitwise(key, input); got != want {
				t.Fatalf("key %x, input %x: hash %#x, want %#x", key, input, got, want)
			}
		}
	}
}

func TestSymmetricKey(t *testing.T) {
	for _, n := range []int{KeyLen, LongKeyLen} {
		s := spread(t, SymmetricKey(n), 128, 4)
		for _, v := range vectors {
			src, dst := netip.MustParseAddrPort(v.src), netip.MustParseAddrPort(v.dst)
			if there, back := s.Hash4(src, dst), s.Hash4(dst, src); there != back {
				t.Errorf("%v and %v: hash %#x one way, %#x the other", src, dst, there, back)
			}
		}
	}
}

func TestMappedAddressHashesAsIPv4(t *testing.T) {
	s := spread(t, MicrosoftKey(), 128, 4)
	src, dst := netip.MustParseAddrPort(vectors[0].src), netip.MustParseAddrPort(vectors[0].dst)
	mapped := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	if got := s.Hash4(mapped(src), mapped(dst)); got != vectors[0].hash4 {
		t.Errorf("hash of mapped addresses = %#x, want %#x", got, vectors[0].hash4)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		rss    link.RSS
		queues int
		want   string
	}{
		{"short key", link.RSS{Key: make([]byte, 39), Table: Table(128, 1)}, 1, "39 bytes"},
		{"key between", link.RSS{Key: make([]byte, 44), Table: Table(128, 1)}, 1, "44 bytes"},
		{"no table", link.RSS{Key: MicrosoftKey()}, 1, "0 entries"},
		{"odd table", link.RSS{Key: MicrosoftKey(), Table: Table(100, 1)}, 1, "100 entries"},
		{"huge table", link.RSS{Key: MicrosoftKey(), Table: Table(2*MaxTable, 1)}, 1, "131072 entries"},
		{"missing queue", link.RSS{Key: MicrosoftKey(), Table: Table(128, 5)}, 4, "queue 4"},
		{"nothing", link.RSS{}, 1, "0 bytes"},
	} {
		_, err := New(c.rss, c.queues)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", c.name, err, c.want)
		}
	}
}

func TestSpreadKeepsItsOwnCopy(t *testing.T) {
	r := link.RSS{Key: MicrosoftKey(), Table: Table(128, 4)}
	s, err := New(r, 4)
	if err != nil {
		t.Fatal(err)
	}
	clear(r.Table)
	clear(r.Key)
	got := s.RSS()
	if !bytes.Equal(got.Key, MicrosoftKey()) || s.Queue(1) != 1 {
		t.Error("the spread changed with what it was made from")
	}
	got.Table[1] = 0
	if s.Queue(1) != 1 {
		t.Error("the spread changed with what it returned")
	}
}

func TestQueueUsesTheLowBits(t *testing.T) {
	s := spread(t, MicrosoftKey(), 128, 5)
	for _, hash := range []uint32{0, 1, 127, 128, 0xffffffff} {
		if got, want := s.Queue(hash), int(hash%128%5); got != want {
			t.Errorf("Queue(%#x) = %d, want %d", hash, got, want)
		}
	}
}

func BenchmarkHash4(b *testing.B) {
	s := spread(b, MicrosoftKey(), 128, 4)
	for name, v := range map[string]int{"IPv4": 0, "IPv6": 5} {
		src, dst := netip.MustParseAddrPort(vectors[v].src), netip.MustParseAddrPort(vectors[v].dst)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Queue(s.Hash4(src, dst))
			}
		})
	}
}

func BenchmarkHash(b *testing.B) {
	s := spread(b, MicrosoftKey(), 128, 4)
	for name, addrs := range map[string]int{"IPv4": 8, "IPv6": 32} {
		header := make([]byte, addrs+4)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Queue(s.Hash(header[:addrs], header[addrs:]))
			}
		})
	}
}
