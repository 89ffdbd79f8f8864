package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// FuzzComplete: no frame makes complete panic; it changes nothing but the
// checksum field of frames that it calls good, and those have a right one then.
func FuzzComplete(f *testing.F) {
	ends := func(a netip.Addr) []byte {
		s := testframe.TCP{Src: netip.AddrPortFrom(a, 1), Dst: netip.AddrPortFrom(a, 2), Payload: make([]byte, 6), Sum: testframe.Partial}
		return s.Frame()
	}
	v4, v6 := ends(netip.IPv4Unspecified()), ends(netip.IPv6Unspecified())
	for _, frame := range [][]byte{v4, v6} {
		if Complete(bytes.Clone(frame)) != link.Good {
			f.Fatalf("did not complete %x", frame)
		}
	}
	for _, frame := range [][]byte{nil, v4, v4[:54], v4[:53], v6, v6[:74], v6[:73]} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		status := Complete(frame)
		if status != link.Good {
			if !bytes.Equal(frame, before) {
				t.Fatalf("changed a frame that is not good:\n%x\n%x", before, frame)
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
