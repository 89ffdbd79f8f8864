package xdp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gotpa/tpa/link"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// FuzzComplete: no frame makes complete panic; it changes nothing but the
// checksum field of frames that it calls good, and those have a right one then.
func FuzzComplete(f *testing.F) {
	v4 := make([]byte, 60)
	v4[12], v4[14], v4[17], v4[23] = 0x08, 0x45, 46, 6
	binary.BigEndian.PutUint16(v4[24:], ^checksum.Checksum(v4[14:34], 0))
	binary.BigEndian.PutUint16(v4[50:], 6+26)
	v6 := make([]byte, 80)
	v6[12], v6[13], v6[14], v6[19], v6[20] = 0x86, 0xdd, 0x60, 26, 6
	binary.BigEndian.PutUint16(v6[70:], 6+26)
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
		verdict := Complete(frame)
		if verdict != link.Good {
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
