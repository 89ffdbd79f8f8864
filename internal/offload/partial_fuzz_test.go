package offload

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gotpa/tpa/internal/testframe"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// FuzzPartial: no frame makes it panic; Complete changes nothing but the checksum field
// of frames for which Partial holds, and those have a right one then.
func FuzzPartial(f *testing.F) {
	ends := func(a netip.Addr) []byte {
		s := testframe.TCP{Src: netip.AddrPortFrom(a, 1), Dst: netip.AddrPortFrom(a, 2), Payload: make([]byte, 6), Sum: testframe.Partial}
		return s.Frame()
	}
	v4, v6 := ends(netip.IPv4Unspecified()), ends(netip.IPv6Unspecified())
	for _, frame := range [][]byte{v4, v6} {
		if !Partial(frame) {
			f.Fatalf("not partial: %x", frame)
		}
	}
	for _, frame := range [][]byte{nil, v4, v4[:54], v4[:53], v6, v6[:74], v6[:73]} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		partial := Partial(frame)
		if !bytes.Equal(frame, before) {
			t.Fatalf("Partial changed\n%x to\n%x", before, frame)
		}
		Complete(frame)
		if !partial {
			if !bytes.Equal(frame, before) {
				t.Fatalf("changed a frame that is not partial:\n%x\n%x", before, frame)
			}
			return
		}
		field, addrs, size := 50, frame[26:34], int(binary.BigEndian.Uint16(frame[16:]))-20
		if frame[12] == 0x86 {
			field, addrs, size = 70, frame[22:54], int(binary.BigEndian.Uint16(frame[18:]))
		}
		sum := checksum.Combine(checksum.Checksum(addrs, 6), uint16(size))
		if got := checksum.Checksum(frame[field-16:][:size], sum); got != 0xffff {
			t.Errorf("checksum does not add up: %#x in %x", got, frame)
		}
		copy(frame[field:], before[field:field+2])
		if !bytes.Equal(frame, before) {
			t.Errorf("changed more than the checksum:\n%x\n%x", before, frame)
		}
	})
}
