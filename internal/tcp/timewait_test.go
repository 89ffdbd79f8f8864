package tcp

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/transport"
)

// TestTimeWaitRecord: the garbage collector has nothing to follow in a record.
func TestTimeWaitRecord(t *testing.T) {
	var pointers func(reflect.Type) bool
	pointers = func(x reflect.Type) bool {
		switch x.Kind() {
		case reflect.Struct:
			for i := range x.NumField() {
				if pointers(x.Field(i).Type) {
					return true
				}
			}
			return false
		case reflect.Bool, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			return false
		}
		return true
	}
	r := reflect.TypeFor[timeWait]()
	if pointers(r) || r.Size() > 112 {
		t.Errorf("a record has %d bytes, pointers: %v; want at most 112 and none", r.Size(), pointers(r))
	}
}

// TestTimeWaitTable compares the table with a map, while connections come, go on, give
// way and end.
func TestTimeWaitTable(t *testing.T) {
	h := newHost(t, false)
	table := &h.p.waits
	rng := rand.New(rand.NewPCG(1, 2))
	want := make(map[flow.Key]int64) // to the end of the wait
	const longest = 3 * time.Second
	for range 20_000 {
		k := flow.Key{SrcLo: 1, DstLo: 2, Ports: rng.Uint32N(500)}
		now := h.p.now()
		switch rng.IntN(4) {
		case 0, 1:
			w := timeWait{key: k, endAt: now + rng.Int64N(int64(longest)), heard: now - reuseAfter - 1, tsOK: k.Ports%2 == 0, last: k.Ports}
			_, taken := want[k]
			if ok := table.add(&w, h.p); ok == taken {
				t.Fatalf("add = %v of a key that is taken: %v", ok, taken)
			} else if ok {
				want[k] = w.endAt
			}
		case 2:
			last, ok := table.reuse(&k, now)
			if _, there := want[k]; ok != (there && k.Ports%2 == 0) || ok && last != k.Ports {
				t.Fatalf("reuse = %d, %v of a key that is there: %v", last, ok, there)
			}
			if ok {
				delete(want, k)
			}
		default:
			h.advance(time.Millisecond)
			// Nothing ends too early, and nothing much later.
			now, late := h.p.now(), int64(longest/256)
			for k, at := range want {
				there := table.has(&k)
				if !there && at > now || there && at+late < now {
					t.Fatalf("at %d there is a wait that ends at %d: %v", now, at, there)
				}
				if !there {
					delete(want, k)
				}
			}
		}
		if n := int(table.n.Load()); n > len(want) || n != len(table.at) || n+len(table.free) != len(table.records) {
			t.Fatalf("%d waits: %d keys, %d records, %d of them free; want %d", n, len(table.at), len(table.records), len(table.free), len(want))
		}
	}
	h.advance(2 * longest)
	if table.n.Load() != 0 || table.records != nil {
		t.Errorf("%d waits are left, and room for %d", table.n.Load(), cap(table.records))
	}
}

// TestTimeWaitLeaves: an endpoint goes when the program is done with it, not before,
// and not before its last acknowledgement has left.
func TestTimeWaitLeaves(t *testing.T) {
	t.Run("the program reads on", func(t *testing.T) {
		h := newHost(t, false)
		h.accept(shape{})
		if err := h.ep.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		h.receive(out{}, out{flags: ack, data: "late"}, out{flags: fin | ack})
		if s, n := h.ep.current(), h.p.waits.n.Load(); s != transport.StateTimeWait || n != 0 {
			t.Errorf("before Close: %v, %d records; want TIME-WAIT and none", s, n)
		}
		b := make([]byte, 10)
		if n, _, err := h.ep.Read(b); string(b[:n]) != "late" {
			t.Errorf("Read = %q, %v", b[:n], err)
		}
		h.ep.Close()
		if s, n := h.ep.current(), h.p.waits.n.Load(); s != transport.StateClosed || n != 1 {
			t.Errorf("after Close: %v, %d records; want CLOSED and 1", s, n)
		}
	})
	t.Run("a full device", func(t *testing.T) {
		h := newHost(t, false)
		h.accept(shape{})
		h.ep.Close()
		h.receive(out{})
		h.take()
		h.room = 0
		h.receive(out{flags: fin | ack})
		h.expect("while the device is full")
		if n := h.p.waits.n.Load(); n != 0 {
			t.Error("the endpoint went with its acknowledgement")
		}
		h.room = -1
		h.p.Retry()
		h.expect("afterwards", "A")
		if n := h.p.waits.n.Load(); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
}
