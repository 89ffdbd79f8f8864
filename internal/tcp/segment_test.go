package tcp

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
)

func TestParseOptions(t *testing.T) {
	fast := []byte{1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9}
	for _, test := range []struct {
		name         string
		flags        header.TCPFlags
		options      []byte
		timestamp    bool
		tsVal, tsEcr uint32
		blocks       int
	}{
		{"none", ack, nil, false, 0, 0, 0},
		{"timestamps as all send them", ack, fast, true, 7, 9, 0},
		{"timestamps elsewhere", ack, []byte{8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0}, true, 7, 9, 0},
		{"twelve other bytes", ack, []byte{1, 1, 5, 10, 0, 0, 0, 7, 0, 0, 0, 9}, false, 0, 0, 1},
		{"timestamps and two blocks", ack, append(append([]byte{}, fast...), 1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4), true, 7, 9, 2},
		{"cut off", ack, []byte{8, 10, 0, 0}, false, 0, 0, 0},
		{"length 0", ack, []byte{5, 0, 0, 0}, false, 0, 0, 0},
		{"block of odd length", ack, []byte{1, 5, 7, 0, 0, 0, 1, 0}, false, 0, 0, 0},
		{"those of a SYN are read by others", syn, fast, false, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := testframe.TCP{Seq: 1<<32 - 1, Ack: 1 << 31, Flags: test.flags, Window: 0xfffe, Options: test.options}
			s := segment{timestamp: true, sack: make([]header.SACKBlock, 3)} // what an earlier one left
			s.parse(f.Segment(), []byte("data"))
			if s.seq != 1<<32-1 || s.ack != 1<<31 || s.flags != test.flags || s.window != 0xfffe || string(s.payload) != "data" {
				t.Errorf("got %+v", s)
			}
			if s.timestamp != test.timestamp || s.timestamp && (s.tsVal != test.tsVal || s.tsEcr != test.tsEcr) || len(s.sack) != test.blocks {
				t.Errorf("got timestamps %v %d %d and %d blocks, want %v %d %d and %d", s.timestamp, s.tsVal, s.tsEcr, len(s.sack),
					test.timestamp, test.tsVal, test.tsEcr, test.blocks)
			}
		})
	}
}

func TestSegmentLength(t *testing.T) {
	for _, test := range []struct {
		flags header.TCPFlags
		n     int
		want  uint32
	}{{ack, 0, 0}, {ack, 5, 5}, {syn, 0, 1}, {fin | ack, 0, 1}, {fin | ack, 5, 6}, {syn | fin, 5, 7}} {
		s := segment{flags: test.flags, payload: make([]byte, test.n)}
		if got := s.length(); got != test.want {
			t.Errorf("flags %v with %d bytes: got %d, want %d", test.flags, test.n, got, test.want)
		}
	}
}
