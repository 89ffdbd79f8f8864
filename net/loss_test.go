package tpanet_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/memory"
)

// TestInfoUnderLoss sends over a long path that loses, reorders and doubles
// frames: all arrives, and Info tells what it took.
func TestInfoUnderLoss(t *testing.T) {
	s, c := newDevices(t, memory.Options{})
	const delay = 5 * time.Millisecond
	bad, err := fault.Wrap(c, fault.Config{
		Seed:     7,
		Transmit: fault.Impairment{Drop: 0.02, Reorder: 0.01, Duplicate: 0.01, Delay: delay},
		Receive:  fault.Impairment{Drop: 0.01},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, client := newHost(t, s, "10.0.0.1", "fd00::1", accel.Config{}), newHost(t, bad, "10.0.0.2", "fd00::2", accel.Config{})
	a, b := pair(t, server, client)
	want := pattern(1 << 20)
	got := receive(a)
	if n, err := b.Write(want); n != len(want) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	b.CloseWrite()
	if data, err := got(); err != nil || !bytes.Equal(data, want) {
		t.Fatalf("peer got %d bytes, %v", len(data), err)
	}
	info := b.Info()
	if info.Retransmits == 0 || info.FastRetransmits > info.Retransmits {
		t.Errorf("%d retransmits, %d of them fast; want some", info.Retransmits, info.FastRetransmits)
	}
	if info.RTT < delay || info.RTT > 10*time.Second || info.RTO < info.RTT || info.CongestionWindow == 0 {
		t.Errorf("got %+v, want a round-trip time above %v", info, delay)
	}
	if info := a.Info(); info.BytesRead != 1<<20 || info.Retransmits != 0 {
		t.Errorf("at the receiver: %+v", info)
	}
}
