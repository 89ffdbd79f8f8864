package gvisortcp

import (
	"log/slog"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/testframe"
)

// head is a TCP header.
func head(seq, ack uint32, flags header.TCPFlags, window uint16, options ...byte) header.TCP {
	end := netip.MustParseAddrPort("10.0.0.1:1")
	s := testframe.TCP{Src: end, Dst: end, Seq: seq, Ack: ack, Flags: flags, Window: window, Options: options}
	return s.Segment()
}

// TestSendQueue checks what is left to be acknowledged, across the wrap of
// sequence numbers too.
func TestSendQueue(t *testing.T) {
	r, err := recorder.New(recorder.Options{Conns: 1, Program: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	end := netip.MustParseAddrPort("10.0.0.1:1")
	trace := &trace{Trace: r.Open(clock.New(), 0, end, end, nil)}
	queue := func(written uint64, want int) {
		t.Helper()
		if got := trace.sendQueue(written); got != want {
			t.Errorf("%d bytes written: got %d in the queue, want %d", written, got, want)
		}
	}
	queue(0, 0)
	queue(10, 10)
	const first = 0xfffffff0
	trace.Sent(head(first, 1, flagACK, 100), 0, false)
	trace.Sent(head(first, 1, flagACK, 100), 10, false)
	queue(30, 30)
	trace.Received(head(1, first, flagACK, 100), 5)
	queue(30, 30)
	trace.Received(head(6, first+10, flagACK, 100), 0)
	queue(30, 20)
	trace.Sent(head(first+10, 6, flagACK, 100), 20, false)
	trace.Received(head(6, 14, flagACK, 100), 0)
	queue(30, 0)
	queue(1<<32+35, 5)
	trace.Received(head(6, 15, flagACK, 100), 0) // our FIN too
	queue(30, 0)
}
