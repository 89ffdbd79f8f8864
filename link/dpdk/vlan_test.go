//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/dpdk/internal/ringtest"
)

// A port of a VLAN takes that VLAN's frames, without the tag, and no others.
func TestVLANReceive(t *testing.T) {
	segment := func(sum testframe.Sum) []byte {
		s := testframe.TCP{
			DstMAC: bytesOf(6, 1), SrcMAC: bytesOf(6, 7), Src: netip.MustParseAddrPort("10.0.0.1:4660"), Dst: netip.MustParseAddrPort("10.0.0.2:80"),
			Flags: header.TCPFlagAck, Payload: bytesOf(77, 3), Sum: sum,
		}
		return s.Frame()
	}
	frame := segment(testframe.Whole)
	tagged := testframe.VLAN(frame, 1234)
	priority := testframe.VLAN(frame, 1234)
	priority[14] |= 0xe0 // the upper bits are no part of the number
	p, r := openRing(t, dpdk.Config{VLAN: 1234})
	p.TrustChecksums(false, true)
	if got, want := p.Info().MaxFrame, p.Info().MTU+14; got != want {
		t.Errorf("MaxFrame: got %d, want %d", got, want)
	}
	for _, tt := range []struct {
		name   string
		chain  ringtest.Chain
		want   []byte // nil: none arrives
		status link.ChecksumStatus
	}{
		{"its tag", ringtest.Chain{Segments: [][]byte{tagged}}, frame, link.Unchecked},
		{"its tag and a priority", ringtest.Chain{Segments: [][]byte{priority}}, frame, link.Unchecked},
		{"checked by the device", ringtest.Chain{Segments: [][]byte{tagged}, Flags: ringtest.TCPGood}, frame, link.Good},
		{"unfinished checksum", ringtest.Chain{Segments: [][]byte{testframe.VLAN(segment(testframe.Partial), 1234)}, Flags: ringtest.TCPNone}, frame, link.Good},
		{"in pieces", ringtest.Chain{Segments: [][]byte{tagged[:13], tagged[13:20], tagged[20:]}}, frame, link.Unchecked},
		{"another tag", ringtest.Chain{Segments: [][]byte{testframe.VLAN(frame, 1235)}}, nil, 0},
		{"another upper half", ringtest.Chain{Segments: [][]byte{testframe.VLAN(frame, 1234^0x100)}}, nil, 0},
		{"two tags, the outer another", ringtest.Chain{Segments: [][]byte{testframe.VLAN(frame, 5, 1234)}}, nil, 0},
		{"no tag", ringtest.Chain{Segments: [][]byte{frame}}, nil, 0},
		{"a tag and nothing else", ringtest.Chain{Segments: [][]byte{tagged[:16]}}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.Stats().Extended["rx_other_vlan"]
			if err := r.Put(tt.chain); err != nil {
				t.Fatal(err)
			}
			if tt.want == nil {
				frames := make([]link.Frame, link.MaxBurst)
				if n, err := p.Queue(0).Receive(frames); n != 0 || err != nil {
					t.Errorf("got %d frames, %v; want none", n, err)
				}
				if got := p.Stats().Extended["rx_other_vlan"]; got != before+1 {
					t.Errorf("rx_other_vlan went from %d to %d", before, got)
				}
				return
			}
			f, err := receive(p.Queue(0))
			if err != nil || !bytes.Equal(f.Data, tt.want) || f.Checksum != tt.status {
				t.Errorf("got %x, status %d, %v\nwant %x, status %d", f.Data, f.Checksum, err, tt.want, tt.status)
			}
		})
	}
}

// What a port of a VLAN sends has the tag, once, also when the ring was full.
func TestVLANSend(t *testing.T) {
	p, r := openRing(t, dpdk.Config{VLAN: 4094})
	defer r.Free()
	q := p.Queue(0)
	const frames = 3000 // more than the ring has room for
	frame := func(i int) []byte { return bytesOf(60+i%1400, byte(i)) }
	for i := range frames {
		b := q.Reserve(len(frame(i)))
		if b == nil {
			t.Fatalf("no buffer for frame %d", i)
		}
		copy(b, frame(i))
		q.Commit(len(frame(i)), link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20})
	}
	waited := false
	for i := 0; i < frames; {
		pending, err := q.Flush()
		if err != nil {
			t.Fatal(err)
		}
		waited = waited || pending > 0
		for ; i < frames; i++ {
			got, ok := r.Take()
			if !ok {
				break
			}
			if want := testframe.VLAN(frame(i), 4094); !bytes.Equal(got.Data, want) {
				t.Fatalf("frame %d: got %x\nwant %x", i, got.Data, want)
			}
			if l2 := got.TxOffload & 0x7f; l2 != 18 {
				t.Fatalf("frame %d: the Ethernet header has %d bytes, want 18", i, l2)
			}
		}
	}
	if !waited {
		t.Error("the ring was never full")
	}
}
