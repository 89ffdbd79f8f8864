package tpanet

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadline moves a deadline about in virtual time.
func TestDeadline(t *testing.T) {
	const s = time.Second
	type step struct {
		after time.Duration // since the step before
		set   time.Duration // the new deadline, from then; 0 clears it, -1 leaves it
		want  bool          // expired, once it is set
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"none", []step{{0, -1, false}, {1000 * s, -1, false}}},
		{"passes", []step{{0, 10 * s, false}, {9 * s, -1, false}, {s, -1, true}, {s, -1, true}}},
		{"past", []step{{0, -s, true}, {s, -1, true}}},
		{"cleared before", []step{{0, 10 * s, false}, {9 * s, 0, false}, {10 * s, -1, false}}},
		{"cleared after", []step{{0, 10 * s, false}, {10 * s, -1, true}, {0, 0, false}, {10 * s, -1, false}}},
		{"cleared, then set", []step{{0, 10 * s, false}, {s, 0, false}, {s, 20 * s, false}, {8 * s, -1, false}, {11 * s, -1, false}, {s, -1, true}}},
		{"moved later", []step{{0, 10 * s, false}, {9 * s, 10 * s, false}, {s, -1, false}, {8 * s, -1, false}, {s, -1, true}}},
		{"moved later often", []step{{0, 2 * s, false}, {s, 2 * s, false}, {s, 2 * s, false}, {s, 2 * s, false}, {s, -1, false}, {s, -1, true}}},
		{"moved earlier", []step{{0, 10 * s, false}, {s, 2 * s, false}, {s, -1, false}, {s, -1, true}, {7 * s, -1, true}}},
		{"moved to the past and back", []step{{0, 10 * s, false}, {s, -s, true}, {s, 20 * s, false}, {8 * s, -1, false}, {11 * s, -1, false}, {s, -1, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h half
				for i, step := range tt.steps {
					time.Sleep(step.after)
					synctest.Wait()
					switch step.set {
					case -1:
					case 0:
						h.setDeadline(time.Time{})
					default:
						h.setDeadline(time.Now().Add(step.set))
					}
					if got := errors.Is(h.err(), os.ErrDeadlineExceeded); got != step.want {
						t.Errorf("step %d: expired is %v, want %v", i, got, step.want)
					}
				}
				h.close()
				if err := h.setDeadline(time.Now()); err != net.ErrClosed {
					t.Errorf("set after close: %v", err)
				}
			})
		})
	}
}

// TestDeadlineIsLazy checks that a deadline which moves on arms its timer once
// per firing and not once per move.
func TestDeadlineIsLazy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h half
		h.setDeadline(time.Now().Add(time.Minute))
		armed := h.deadline.Load().armed
		for range 50 {
			time.Sleep(time.Second)
			h.setDeadline(time.Now().Add(time.Minute))
			if h.deadline.Load().armed != armed {
				t.Fatal("the timer was armed anew")
			}
		}
		h.close()
	})
}
