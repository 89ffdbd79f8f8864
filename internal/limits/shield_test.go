package limits

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
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

// fakeShard is a shard without connections.
type fakeShard struct {
	Shard
	stats   tcpip.Stats
	cookies *syncookie.Cookies
	failed  error
}

func (s *fakeShard) Counters() *tcpip.TCPStats         { return &s.stats.TCP }
func (s *fakeShard) MTU() int                          { return 1400 }
func (s *fakeShard) SetCookies(bool)                   {}
func (s *fakeShard) SetBuffers(Buffer, Buffer)         {}
func (s *fakeShard) Cookies() *syncookie.Cookies       { return s.cookies }
func (s *fakeShard) ShareCookies(c *syncookie.Cookies) { s.cookies = c }
func (s *fakeShard) ShieldFailed(err error)            { s.failed = err }

// fakeEndpoint listens on port 7.
type fakeEndpoint struct{ transport.Endpoint }

func (fakeEndpoint) LocalAddr() netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, 7) }

// shielded returns the two shards of a runtime. The first one listens on port 7,
// where so many connections wait.
func shielded(cookies bool, f Shield, waiting *int) (*Budget, []*fakeShard, []*Account) {
	b, now := NewBudget(Limits{HalfOpen: 80}, nil), func() int64 { return 1 }
	var shards []*fakeShard
	var accounts []*Account
	for i := range 2 {
		s := &fakeShard{stats: tcpip.Stats{}.FillIn()}
		if cookies {
			s.cookies = &syncookie.Cookies{Key: syncookie.Key{uint64(i), 7}, Now: now}
		}
		shards = append(shards, s)
		accounts = append(accounts, b.Open(s, Settings{Now: now}))
	}
	b.SetShield(f)
	accounts[0].Listening(fakeEndpoint{}, 16, func() int { return *waiting })
	return b, shards, accounts
}

func TestShield(t *testing.T) {
	f, waiting := &fakeShield{}, 0
	b, shards, accounts := shielded(true, f, &waiting)
	if shards[0].cookies != shards[1].cookies {
		t.Fatal("the shards have cookies of their own, want the same ones")
	}
	halfOpen := func(n int64) {
		accounts[1].begun.Store(n)
		accounts[1].tend()
	}
	check := func(when string, ports map[uint16]bool) {
		t.Helper()
		if (f.told != nil) != (ports != nil) {
			t.Fatalf("%s: the shield is told %+v, want ports %v", when, f.told, ports)
		}
		if f.told == nil {
			return
		}
		want := &link.SYNCookies{Key: shards[0].cookies.Key, MSS4: 1360, MSS6: 1340, Ports: ports}
		if diff := cmp.Diff(want, f.told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	now := time.Now()
	second := func() { now = now.Add(time.Second); b.tendShield(now) }
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
	for i, a := range accounts {
		if a.cookieAt.Load() == 0 {
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
	shards[0].stats.TCP.ListenOverflowSynCookieRcvd.IncrementBy(995)
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

// TestShieldWithoutCookies: a TCP with cookies of its own would not know the
// shield's.
func TestShieldWithoutCookies(t *testing.T) {
	f, waiting := &fakeShield{}, 0
	b, _, accounts := shielded(false, f, &waiting)
	accounts[0].begun.Store(80)
	accounts[0].tend()
	b.raise()
	b.tendShield(time.Now())
	if f.calls != 0 {
		t.Errorf("the shield was told %+v", f.told)
	}
}
