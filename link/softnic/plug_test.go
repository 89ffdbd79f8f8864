package softnic_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/link/softnic"
)

// TestPlug sends frames through a wire in memory to a card with four queues, and
// back.
func TestPlug(t *testing.T) {
	near, far, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	defer far.Close()
	nic, err := softnic.New(softnic.Config{Queues: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer nic.Close()
	if err := nic.AddRule(softnic.Rule{Port: 6379, Queue: 2}); err != nil {
		t.Fatal(err)
	}
	unplug := nic.Plug(far.Queue(0))
	defer unplug()
	segment := testframe.TCP{
		DstMAC: []byte{2, 0, 0, 0, 0, 1}, SrcMAC: []byte{2, 0, 0, 0, 0, 2},
		Src: netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("10.0.0.2:6379"),
	}
	frame := segment.Frame()
	send := func(q link.Queue) {
		q.Commit(copy(q.Reserve(len(frame)), frame), link.TxOffload{})
		if _, err := q.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(q link.Queue) int {
		frames := make([]link.Frame, link.MaxBurst)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if n, err := q.Receive(frames); n > 0 || err != nil {
				return n
			}
		}
		return 0
	}
	send(near.Queue(0))
	if n := receive(nic.Queue(2)); n != 1 {
		t.Errorf("%d frames arrived at the queue of the rule, want 1", n)
	}
	send(nic.Queue(3))
	if n := receive(near.Queue(0)); n != 1 {
		t.Errorf("%d frames came back, want 1", n)
	}
	unplug()
	send(nic.Queue(0))
	if got := nic.Stats().Extended["tx_unplugged"]; got != 1 {
		t.Errorf("%d frames found no cable, want 1", got)
	}
}
