package tcp

import (
	"math/rand/v2"
	"testing"
)

// TestFlights compares the scoreboard with one that has a state for each byte, at
// places where sequence numbers wrap around and change their sign.
func TestFlights(t *testing.T) {
	type place struct {
		state flightState
		at    int64
	}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		base := []uint32{0, 1000, 1<<31 - 200, 1<<32 - 200}[seed%4]
		var f flights
		var model []place // from una on
		una, now := base, int64(1)
		for step := range 300 {
			now += int64(r.IntN(2)) // what leaves at once is one flight
			switch k := r.IntN(5); {
			case k < 2 || len(model) == 0:
				for range 1 + r.IntN(12) {
					model = append(model, place{0, now})
				}
				f.sent(una+uint32(len(model)), 0, now)
			case k == 2: // acknowledged
				var e Endpoint
				e.flights, e.unacknowledged = f, una
				n := 1 + r.IntN(len(model))
				if r.IntN(3) > 0 {
					n = min(n, 5)
				}
				e.ackFlights(&segment{ack: una + uint32(n)}, now)
				f, una, model = e.flights, una+uint32(n), model[n:]
			case k == 3 && r.IntN(10) == 0: // timed out
				all := r.IntN(2) == 0
				f.lose(una, all)
				for i := range model {
					if x := &model[i]; all || x.state&sacked == 0 {
						x.state = x.state&resent | lost
					}
				}
			default:
				a := r.IntN(len(model))
				b := a + 1 + r.IntN(min(12, len(model)-a))
				x := place{sacked, 0}
				if k == 3 {
					x = place{resent, now}
				}
				f.set(una, span{una + uint32(a), una + uint32(b)}, x.state, x.at)
				for i := a; i < b; i++ {
					model[i] = x
				}
			}
			next := una + uint32(len(model))
			if err := f.invariant(una, next, true); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			i := f.head
			for j, want := range model {
				seq := una + uint32(j)
				for !after(f.list[i].end, seq) {
					i++
				}
				x := f.list[i]
				if x.state != want.state || x.state != sacked && x.at != want.at {
					t.Fatalf("seed %d step %d: at %d the scoreboard has %+v, want %+v", seed, step, j, x, want)
				}
				if got := f.find(seq); got != i {
					t.Fatalf("seed %d step %d: %d is found in flight %d, want %d", seed, step, j, got, i)
				}
			}
			// Neighbours that are equal are one.
			for k := f.head + 1; k < len(f.list); k++ {
				if f.list[k-1].state == sacked && f.list[k].state == sacked {
					t.Fatalf("seed %d step %d: flights %d and %d are SACKed", seed, step, k-1, k)
				}
			}
		}
	}
}

// TestCrowdedFlights: the scoreboard is bounded, whatever leaves and is sent again.
func TestCrowdedFlights(t *testing.T) {
	var f flights
	for i := range uint32(10 * maxFlights) {
		f.sent(10*(i+1), 0, int64(i))
	}
	if err := f.invariant(0, 100*maxFlights, true); err != nil {
		t.Fatal(err)
	}
	f.lose(0, false)
	for i := range uint32(10 * maxFlights) {
		f.set(0, span{10 * i, 10*i + 10}, resent, int64(1e6+i))
		if err := f.invariant(0, 100*maxFlights, true); err != nil {
			t.Fatal(err)
		}
	}
}
