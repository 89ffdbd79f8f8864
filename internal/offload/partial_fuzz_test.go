package offload

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
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
	// With options of IPv4, and destination options of IPv6.
	options4, options6 := slices.Insert(bytes.Clone(v4), 34, 1, 1, 1, 0), slices.Insert(bytes.Clone(v6), 54, 6, 0, 1, 4, 0, 0, 0, 0)
	options4[14]++
	binary.BigEndian.PutUint16(options4[16:], uint16(len(options4)-14))
	testframe.SumIPv4(options4[14:])
	options6[20] = 60
	binary.BigEndian.PutUint16(options6[18:], uint16(len(options6)-54))
	for _, frame := range [][]byte{v4, v6, options4, options6} {
		if !Partial(frame) {
			f.Fatalf("not partial: %x", frame)
		}
	}
	for _, frame := range [][]byte{nil, options4, options6, v4, v4[:54], v4[:53], v6, v6[:74], v6[:73]} {
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
		p, ok := Parse(frame)
		if !ok {
			t.Fatalf("no packet: %x", frame)
		}
		field, addrs, size := p.L4+16, p.Addrs(frame), p.End-p.L4
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
