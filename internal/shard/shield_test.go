package shard

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
)

// fakeShield notes what it is told. Budget calls it with a lock held.
type fakeShield struct {
	told     *link.SYNCookies
	calls    int
	answered uint64
	err      error
	called   chan struct{}
}

func (f *fakeShield) Answer(c *link.SYNCookies) error {
	f.told = c
	f.calls++
	if f.called != nil {
		close(f.called)
		f.called = nil
	}
	return f.err
}

func (f *fakeShield) Answered() uint64 { return f.answered }

// shielded returns the two shards of a runtime whose pollers do not run. The first
// one listens on port 7, where so many connections wait.
func shielded(t *testing.T, engine string, f Shield, waiting *int) (*Budget, []*Shard) {
	t.Helper()
	a, b, err := memory.Pair(memory.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	info, budget := b.Info(), NewBudget(Limits{HalfOpen: 80})
	n := netif.NewNeighbours(link.MAC(info.HardwareAddr), clock.New(), nil)
	t.Cleanup(func() { n.Close(); a.Close(); b.Close() })
	var shards []*Shard
	for i := range 2 {
		s, err := New(Options{
			Index: i, Device: info, Queue: b.Queue(i), Neighbours: n, MTU: 1400,
			CPU: -1, Budget: budget, TCP: TCP{Engine: engine}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		shards = append(shards, s)
	}
	budget.SetShield(f)
	ep, _, terr := shards[0].Socket(false)
	if terr != nil {
		t.Fatal(terr)
	}
	t.Cleanup(ep.Close)
	if terr := ep.Bind(tcpip.FullAddress{Port: 7}); terr != nil {
		t.Fatal(terr)
	}
	shards[0].Listening(ep, 16, func() int { return *waiting })
	return budget, shards
}

func TestShield(t *testing.T) {
	f, waiting := &fakeShield{}, 0
	b, shards := shielded(t, "tpa", f, &waiting)
	if shards[0].own.Cookies() != shards[1].own.Cookies() {
		t.Fatal("the shards have cookies of their own, want the same ones")
	}
	halfOpen := func(n int64) {
		shards[1].admission.begun.Store(n)
		shards[1].admission.tend()
	}
	check := func(when string, ports map[uint16]bool) {
		t.Helper()
		if (f.told != nil) != (ports != nil) {
			t.Fatalf("%s: the shield is told %+v, want ports %v", when, f.told, ports)
		}
		if f.told == nil {
			return
		}
		want := &link.SYNCookies{Key: shards[0].own.Cookies().Key, MSS4: 1360, MSS6: 1340, Ports: ports}
		if diff := cmp.Diff(want, f.told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	now := time.Now()
	second := func() { now = now.Add(time.Second); b.tend(now) }
	raise := func() {
		called := make(chan struct{})
		f.called = called
		b.raise()
		<-called
		b.shielding.mu.Lock() // until it is done with the answer
		defer b.shielding.mu.Unlock()
		if up := b.shielding.up.Load(); up != (f.err == nil) {
			t.Errorf("the shield is up: %v; its error is %v", up, f.err)
		}
	}

	second()
	check("in peace", nil)
	halfOpen(80)
	raise()
	b.raise()
	check("under attack", map[uint16]bool{7: true})
	if f.calls != 1 {
		t.Errorf("the shield was called %d times, want once", f.calls)
	}
	for i, s := range shards {
		if s.admission.cookieAt.Load() == 0 {
			t.Errorf("shard %d does not look for cookies", i)
		}
	}
	waiting = 16
	second()
	check("with the accept queue full", map[uint16]bool{7: false})
	waiting = 0
	b.closed.Store(true)
	second()
	check("while memory is short", map[uint16]bool{7: false})
	b.closed.Store(false)

	halfOpen(10)
	for range 3 {
		f.answered += 1000
		second()
		check("while the flood goes on", map[uint16]bool{7: true})
	}
	// As many SYNs, but of clients that mean it.
	f.answered += 1000
	shards[0].stackStats.TCP.ListenOverflowSynCookieRcvd.IncrementBy(995)
	second()
	check("after the flood", nil)
	calls := f.calls
	second()
	if f.calls != calls {
		t.Error("the shield is told of peace again")
	}

	halfOpen(80)
	f.err = errors.New("no")
	raise()
	check("when it fails", nil)
	calls = f.calls
	b.raise()
	second()
	if f.calls != calls {
		t.Error("a shield that failed is called again")
	}
}

// TestShieldNotOfGVisor: gVisor's TCP would not know the cookies.
func TestShieldNotOfGVisor(t *testing.T) {
	f, waiting := &fakeShield{}, 0
	b, shards := shielded(t, "gvisor", f, &waiting)
	shards[0].admission.begun.Store(80)
	shards[0].admission.tend()
	b.raise()
	b.tend(time.Now())
	if f.calls != 0 {
		t.Errorf("the shield was told %+v", f.told)
	}
}
