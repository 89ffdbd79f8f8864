package checksum

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	gvisor "gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// loop is the definition: words in network order, added with end-around carry.
func loop(b []byte, initial uint16) uint16 {
	s := uint32(initial)
	for i, x := range b {
		if i%2 == 0 {
			s += uint32(x) << 8
		} else {
			s += uint32(x)
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// words is Sum where there are no wide registers.
func words(b []byte, initial uint16) uint16 {
	return fold(sumWords(b, uint64(bits.ReverseBytes16(initial))))
}

func check(t *testing.T, b []byte, initial uint16) {
	t.Helper()
	want := loop(b, initial)
	if got := Sum(b, initial); got != want {
		t.Errorf("Sum of %d bytes, initial %#x: got %#x, want %#x", len(b), initial, got, want)
	}
	if got := words(b, initial); got != want {
		t.Errorf("Sum of %d bytes by words, initial %#x: got %#x, want %#x", len(b), initial, got, want)
	}
	around := bytes.Repeat([]byte{0x5a}, len(b)+2)
	if got := Copy(around[1:], b, initial); got != want {
		t.Errorf("Copy of %d bytes, initial %#x: got %#x, want %#x", len(b), initial, got, want)
	}
	if !bytes.Equal(around[1:len(b)+1], b) || around[0] != 0x5a || around[len(b)+1] != 0x5a {
		t.Errorf("Copy of %d bytes wrote other bytes, or elsewhere", len(b))
	}
}

func TestSumOfEachLengthAndAlignment(t *testing.T) {
	random := make([]byte, 600)
	rand.NewChaCha8([32]byte{1}).Read(random)
	ones := bytes.Repeat([]byte{0xff}, len(random)) // carries in every addition
	zeros := make([]byte, len(random))
	for _, b := range [][]byte{random, ones, zeros} {
		for n := range 500 {
			for at := range 33 {
				check(t, b[at:at+n], uint16(n*at*2654435761>>3))
			}
		}
	}
	for _, n := range []int{1460, 8948, 65535, 65536, 1 << 20} {
		for _, initial := range []uint16{0, 1, 0xfffe, 0xffff} {
			check(t, bytes.Repeat([]byte{0xff}, n), initial)
		}
	}
}

// TestSumReadsNothingBeyond has other bytes around those that count.
func TestSumReadsNothingBeyond(t *testing.T) {
	for n := range 300 {
		b := bytes.Repeat([]byte{0xa5}, n+128)
		want := loop(make([]byte, n), 7)
		clear(b[64 : 64+n])
		if got := Sum(b[64:64+n], 7); got != want {
			t.Errorf("%d bytes of 0: got %#x, want %#x", n, got, want)
		}
	}
}

// TestRFC1071 has the example of section 3.
func TestRFC1071(t *testing.T) {
	if got := Sum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0); got != 0xddf2 {
		t.Errorf("got %#x, want 0xddf2", got)
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 200), uint16(0xffff), uint16(33))
	f.Fuzz(func(t *testing.T, b []byte, initial, cut uint16) {
		check(t, b, initial)
		// In two parts, the second of which may start at an odd offset.
		at := int(cut) % (len(b) + 1)
		rest := Sum(b[at:], 0)
		if at%2 == 1 {
			rest = Odd(rest)
		}
		if got, want := Combine(Sum(b[:at], initial), rest), loop(b, initial); got != want {
			t.Errorf("%d bytes in two parts cut at %d: got %#x, want %#x", len(b), at, got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 128, 256, 576, 1480, 8980, 65535} {
		buf := make([]byte, n)
		rand.NewChaCha8([32]byte{1}).Read(buf)
		for _, c := range []struct {
			name string
			sum  func([]byte, uint16) uint16
		}{{"tpa", Sum}, {"words", words}, {"gvisor", gvisor.Checksum}} {
			b.Run(fmt.Sprintf("bytes=%d/by=%s", n, c.name), func(b *testing.B) {
				b.SetBytes(int64(n))
				var s uint16
				for b.Loop() {
					s = c.sum(buf, s)
				}
			})
		}
	}
}

// BenchmarkCopy copies pieces of 1 MB, which is not in the first cache, to places
// that are.
func BenchmarkCopy(b *testing.B) {
	src, dst := make([]byte, 1<<20), make([]byte, 16<<10)
	for _, n := range []int{1448, 8948} {
		for _, c := range []struct {
			name string
			sum  func(dst, src []byte, s uint16) uint16
		}{
			{"Copy", Copy},
			{"copy and Sum", func(dst, src []byte, s uint16) uint16 {
				copy(dst, src)
				return Sum(dst[:len(src)], s)
			}},
		} {
			b.Run(fmt.Sprintf("bytes=%d/by=%s", n, c.name), func(b *testing.B) {
				b.SetBytes(int64(n))
				var s uint16
				for at := 0; b.Loop(); at += n {
					if at+n > len(src) {
						at = 0
					}
					s = c.sum(dst[66:], src[at:at+n], s)
				}
			})
		}
	}
}
