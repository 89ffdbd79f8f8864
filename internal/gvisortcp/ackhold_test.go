package gvisortcp

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/link"
)

// A wire is what a holder keeps segments from.
type wire struct {
	hold ackHold
	left []struct {
		tcp     header.TCP
		payload string
	}
}

// send is what netif.Endpoint.WriteTCP does with a segment. The flow's hash is its
// destination port, too.
func (w *wire) send(hash, ack uint32, flags header.TCPFlags, window uint16, payload string) {
	h := head(0, ack, flags, window)
	h.SetDestinationPort(uint16(hash))
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{})
	defer pkt.DecRef()
	pkt.Hash = hash
	ip := make([]byte, header.IPv4MinimumSize)
	if !w.hold.Hold(&netif.Outgoing{IP: ip, TCP: h, Payload: len(payload), Packet: pkt}, w.stage) {
		w.leave(h, payload)
	}
}

func (w *wire) stage(_ link.MAC, _, tcp []byte) { w.leave(bytes.Clone(tcp), "") }

func (w *wire) leave(tcp header.TCP, payload string) {
	w.left = append(w.left, struct {
		tcp     header.TCP
		payload string
	}{tcp, payload})
}

// TestAckHold checks which acknowledgements wait for the end of the poll, and
// that none is lost which says something new.
func TestAckHold(t *testing.T) {
	type seg struct {
		hash, ack uint32
		flags     header.TCPFlags
		payload   string
	}
	ack := header.TCPFlagAck
	for _, tc := range []struct {
		name  string
		sent  []seg
		want  []seg // in the order in which they leave
		saved uint64
	}{
		{
			name: "first of a flow leaves at once",
			sent: []seg{{1, 100, ack, ""}}, want: []seg{{1, 100, ack, ""}},
		},
		{
			name:  "data cancels",
			sent:  []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 200, ack, "b"}},
			want:  []seg{{1, 100, ack, "a"}, {1, 200, ack, "b"}},
			saved: 1,
		},
		{
			name: "alone it leaves with the flush, behind the data of others",
			sent: []seg{{1, 100, ack, "a"}, {2, 5, ack, "x"}, {1, 200, ack, ""}, {2, 6, ack, "y"}},
			want: []seg{{1, 100, ack, "a"}, {2, 5, ack, "x"}, {2, 6, ack, "y"}, {1, 200, ack, ""}},
		},
		{
			name:  "a later one replaces it",
			sent:  []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 300, ack, ""}},
			want:  []seg{{1, 100, ack, "a"}, {1, 300, ack, ""}},
			saved: 1,
		},
		{
			name: "duplicates leave at once, each of them",
			sent: []seg{{1, 100, ack, "a"}, {1, 100, ack, ""}, {1, 100, ack, ""}, {1, 100, ack, ""}},
			want: []seg{{1, 100, ack, "a"}, {1, 100, ack, ""}, {1, 100, ack, ""}, {1, 100, ack, ""}},
		},
		{
			name: "a duplicate does not cancel the one it repeats",
			sent: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 200, ack, ""}},
			want: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 200, ack, ""}},
		},
		{
			name: "FIN and RST do not wait",
			sent: []seg{{1, 100, ack, "a"}, {1, 200, ack | header.TCPFlagFin, ""}, {1, 300, ack | header.TCPFlagRst, ""}},
			want: []seg{{1, 100, ack, "a"}, {1, 200, ack | header.TCPFlagFin, ""}, {1, 300, ack | header.TCPFlagRst, ""}},
		},
		{
			name: "RST does not overtake",
			sent: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 200, ack | header.TCPFlagRst, ""}},
			want: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1, 200, ack | header.TCPFlagRst, ""}},
		},
		{
			name: "flows that share a place keep theirs",
			sent: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1025, 7, ack, "z"}, {1025, 8, ack, ""}},
			want: []seg{{1, 100, ack, "a"}, {1, 200, ack, ""}, {1025, 7, ack, "z"}, {1025, 8, ack, ""}},
		},
		{
			name: "sequence numbers wrap",
			sent: []seg{{1, 0xfffffff0, ack, "a"}, {1, 16, ack, ""}, {1, 16, ack, "b"}},
			want: []seg{{1, 0xfffffff0, ack, "a"}, {1, 16, ack, "b"}}, saved: 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var w wire
			for _, s := range tc.sent {
				w.send(s.hash, s.ack, s.flags, 0, s.payload)
			}
			w.hold.Release(w.stage)
			var got []seg
			for _, s := range w.left {
				got = append(got, seg{uint32(s.tcp.DestinationPort()), s.tcp.AckNumber(), s.tcp.Flags(), s.payload})
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(seg{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := w.hold.Saved(); got != tc.saved {
				t.Errorf("%d acknowledgements saved, want %d", got, tc.saved)
			}
		})
	}
}

// TestAckHoldKeepsWindows lets the peer see the windows of a flow in the order in
// which the stack opened them: an older one that arrives last shuts it again.
func TestAckHoldKeepsWindows(t *testing.T) {
	var w wire
	w.send(1, 100, header.TCPFlagAck, 1000, "a")
	w.send(1, 200, header.TCPFlagAck, 500, "")
	w.send(1, 200, header.TCPFlagAck, 2000, "")
	w.send(1, 200, header.TCPFlagAck, 3000, "")
	w.hold.Release(w.stage)
	var got []uint16
	for _, s := range w.left {
		got = append(got, s.tcp.WindowSize())
	}
	if diff := cmp.Diff([]uint16{1000, 2000, 3000}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
