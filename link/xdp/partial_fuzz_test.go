//go:build linux

package xdp

import (
	"encoding/binary"
	"testing"

	"github.com/gotpa/tpa/link"
)

// FuzzPartial: no frame makes partial panic, and none of those it vouches for is
// changed in the checksum field without it taking notice.
func FuzzPartial(f *testing.F) {
	v4 := make([]byte, 60)
	v4[12], v4[14], v4[17], v4[23] = 0x08, 0x45, 46, 6
	v6 := make([]byte, 80)
	v6[12], v6[13], v6[14], v6[19], v6[20] = 0x86, 0xdd, 0x60, 26, 6
	binary.BigEndian.PutUint16(v4[24:], ^fold(add(0, v4[14:34])))
	binary.BigEndian.PutUint16(v4[50:], fold(add(0, v4[26:34])+6+26))
	binary.BigEndian.PutUint16(v6[70:], fold(add(0, v6[22:54])+6+26))
	for _, frame := range [][]byte{v4, v6} {
		if partial(frame) != link.Good {
			f.Fatalf("does not vouch for %x", frame)
		}
	}
	for _, frame := range [][]byte{nil, v4, v4[:54], v4[:53], v6, v6[:74], v6[:73]} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if partial(frame) != link.Good {
			return
		}
		field := 34 + 16
		if frame[12] == 0x86 {
			field = 54 + 16
		}
		frame[field] ^= 0x55
		if partial(frame) == link.Good {
			t.Errorf("vouches for any checksum: %x", frame)
		}
	})
}
