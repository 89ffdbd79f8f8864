package bifurcation

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gotpa/tpa/link"
)

// A fakeFilter remembers what is ours, and minds that nothing is claimed or
// released twice.
type fakeFilter struct {
	t      testing.TB
	ours   map[netip.AddrPort]bool
	flows  map[link.Flow]bool // true: ours
	refuse func(netip.Addr, uint16, int) error
}

func newFake(t testing.TB) *fakeFilter {
	return &fakeFilter{t: t, ours: map[netip.AddrPort]bool{}, flows: map[link.Flow]bool{}}
}

func (f *fakeFilter) Claim(a netip.Addr, first uint16, n int) error {
	if f.refuse != nil {
		if err := f.refuse(a, first, n); err != nil {
			return err
		}
	}
	for i := range n {
		ap := netip.AddrPortFrom(a, first+uint16(i))
		if f.ours[ap] {
			f.t.Errorf("%v claimed twice", ap)
		}
		f.ours[ap] = true
	}
	return nil
}

func (f *fakeFilter) Release(a netip.Addr, first uint16, n int) error {
	for i := range n {
		ap := netip.AddrPortFrom(a, first+uint16(i))
		delete(f.ours, ap)
		maps.DeleteFunc(f.flows, func(fl link.Flow, _ bool) bool { return fl.Local == ap })
	}
	return nil
}

func (f *fakeFilter) Stats() link.FilterStats {
	return link.FilterStats{Frames: []link.FrameCount{{Name: "frames", Frames: 7}}}
}

func (f *fakeFilter) String() string { return "fake" }

// A fakeFlowFilter can tell flows apart, too.
type fakeFlowFilter struct{ *fakeFilter }

func (f fakeFlowFilter) ClaimExcept(a netip.Addr, port uint16, kept []link.Flow) error {
	for _, fl := range kept {
		f.flows[fl] = false
	}
	return f.Claim(a, port, 1)
}

func (f fakeFlowFilter) Drain(a netip.Addr, port uint16, kept []link.Flow) error {
	for _, fl := range kept {
		f.flows[fl] = true
	}
	delete(f.ours, netip.AddrPortFrom(a, port))
	return nil
}

func (f fakeFlowFilter) Others(uint16) ([]link.Flow, error) { return nil, nil }

func (f fakeFlowFilter) Except(flows []link.Flow) error {
	for _, fl := range flows {
		delete(f.flows, fl)
	}
	return nil
}

var (
	v4, other4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	v6         = netip.MustParseAddr("fd00::1")
	any4, any6 = netip.IPv4Unspecified(), netip.IPv6Unspecified()
)

// want checks what is ours.
func (f *fakeFilter) want(when string, ours ...string) {
	f.t.Helper()
	got := []string{}
	for ap := range f.ours {
		got = append(got, ap.String())
	}
	sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
	if diff := cmp.Diff(ours, got, sorted, cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("%s: ours (-want +got):\n%s", when, diff)
	}
}

func TestSteering(t *testing.T) {
	f := newFake(t)
	s := New(f)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	claim := func(a netip.Addr, first uint16, n int) *Claim {
		t.Helper()
		c, err := s.Claim(Ports{Addr: a, First: first, Count: n})
		must(err)
		return c
	}
	all := claim(netip.Addr{}, 80, 1)
	f.want("no address")
	must(s.SetAddrs([]netip.Addr{v4, v6, v4}))
	f.want("two addresses", "10.0.0.1:80", "[fd00::1]:80")
	only4, only6 := claim(any4, 81, 1), claim(any6, 82, 1)
	one := claim(netip.MustParseAddr("::ffff:10.0.0.1"), 83, 2)
	strange := claim(other4, 84, 1)
	f.want("claims", "10.0.0.1:80", "[fd00::1]:80", "10.0.0.1:81", "[fd00::1]:82", "10.0.0.1:83", "10.0.0.1:84")
	must(s.SetAddrs([]netip.Addr{v6, other4}))
	f.want("another address", "10.0.0.2:80", "[fd00::1]:80", "10.0.0.2:81", "[fd00::1]:82", "10.0.0.2:84")
	if st := s.Stats(); st.Claims != 5 || st.Ports != 5 || st.Frames[0].Frames != 7 {
		t.Errorf("stats %+v, want 5 claims on 5 ports and the filter's counts", st)
	}

	again := claim(netip.Addr{}, 80, 1)
	must(all.Release())
	must(all.Release())
	f.want("claimed twice, released once", "10.0.0.2:80", "[fd00::1]:80", "10.0.0.2:81", "[fd00::1]:82", "10.0.0.2:84")
	must(again.Release())
	must(one.Release())
	must(strange.Release())
	f.want("released", "10.0.0.2:81", "[fd00::1]:82")
	must(only4.Release())
	must(s.SetAddrs(nil))
	f.want("no address left")
	must(s.SetAddrs([]netip.Addr{v6}))
	must(s.Close())
	must(s.Close())
	f.want("closed")
	must(only6.Release())
	if _, err := s.Claim(Ports{First: 1, Count: 1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("claim after close: %v, want net.ErrClosed", err)
	}
	if err := s.SetAddrs(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("addresses after close: %v, want net.ErrClosed", err)
	}
}

func TestClaimErrors(t *testing.T) {
	s := New(newFake(t))
	for _, p := range []Ports{{First: 0, Count: 1}, {First: 1, Count: 0}, {First: 65535, Count: 2}, {First: 1, Count: -1}} {
		if _, err := s.Claim(p); err == nil {
			t.Errorf("Claim(%+v) is nil, want an error", p)
		}
	}
}

// When one address refuses, the others have nothing left of the claim.
func TestRollback(t *testing.T) {
	f := newFake(t)
	s := New(f)
	if err := s.SetAddrs([]netip.Addr{v4, v6}); err != nil {
		t.Fatal(err)
	}
	inner, err := s.Claim(Ports{First: 102, Count: 1}) // splits the claim below
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("full")
	f.refuse = func(a netip.Addr, first uint16, _ int) error {
		if a == v6 && first == 103 {
			return full
		}
		return nil
	}
	if _, err := s.Claim(Ports{First: 100, Count: 5}); !errors.Is(err, full) {
		t.Fatalf("claim: %v, want %v", err, full)
	}
	f.want("refused", "10.0.0.1:102", "[fd00::1]:102")
	if err := inner.Release(); err != nil {
		t.Fatal(err)
	}
	f.want("released")

	// An address that refuses is tried again.
	if _, err := s.Claim(Ports{First: 7, Count: 1}); err != nil {
		t.Fatal(err)
	}
	f.refuse = func(a netip.Addr, _ uint16, _ int) error {
		if a == other4 {
			return full
		}
		return nil
	}
	if err := s.SetAddrs([]netip.Addr{v4, other4}); !errors.Is(err, full) {
		t.Fatalf("addresses: %v, want %v", err, full)
	}
	f.want("one address refused", "10.0.0.1:7")
	f.refuse = nil
	if err := s.SetAddrs([]netip.Addr{v4, other4}); err != nil {
		t.Fatal(err)
	}
	f.want("tried again", "10.0.0.1:7", "10.0.0.2:7")
}

func TestSharing(t *testing.T) {
	f := fakeFlowFilter{newFake(t)}
	s := New(f)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.SetAddrs([]netip.Addr{v4, v6}))
	flow := func(a netip.Addr, port uint16) link.Flow {
		return link.Flow{Local: netip.AddrPortFrom(a, port), Remote: netip.MustParseAddrPort("192.0.2.1:1000")}
	}
	wantFlows := func(when string, want map[link.Flow]bool) {
		t.Helper()
		if !maps.Equal(f.flows, want) {
			t.Errorf("%s: flows %v, want %v", when, f.flows, want)
		}
	}
	c, err := s.Claim(Ports{First: 80, Count: 1, Kept: []link.Flow{flow(v4, 80), flow(v6, 81)}})
	must(err)
	f.want("claimed", "10.0.0.1:80", "[fd00::1]:80")
	wantFlows("claimed", map[link.Flow]bool{flow(v4, 80): false})

	must(c.Drain([]link.Flow{flow(v6, 80)}))
	f.want("drained")
	wantFlows("drained", map[link.Flow]bool{flow(v4, 80): false, flow(v6, 80): true})
	must(s.Except([]link.Flow{flow(v4, 80)}))
	wantFlows("one flow less", map[link.Flow]bool{flow(v6, 80): true})

	// Who listens there again has the port, flows and all.
	again, err := s.Claim(Ports{First: 80, Count: 1})
	must(err)
	f.want("claimed again", "10.0.0.1:80", "[fd00::1]:80")
	must(c.Drain(nil)) // not the only one any more
	f.want("claimed by another", "10.0.0.1:80", "[fd00::1]:80")
	must(c.Release())
	f.want("the other goes on", "10.0.0.1:80", "[fd00::1]:80")
	must(again.Drain([]link.Flow{flow(v4, 80)}))
	f.want("drained again")
	must(again.Release())
	wantFlows("released", map[link.Flow]bool{})
	if err := again.Drain(nil); err == nil {
		t.Error("drained a released claim")
	}

	plain := New(newFake(t))
	pc, err := plain.Claim(Ports{First: 80, Count: 1, Kept: []link.Flow{flow(v4, 80)}})
	must(err)
	if err := pc.Drain(nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("drain: %v, want errors.ErrUnsupported", err)
	}
}

// Whatever claims and addresses come and go, the filter has what they add up to.
func TestRandomClaims(t *testing.T) {
	addrs := []netip.Addr{v4, other4, v6}
	specs := []netip.Addr{{}, any4, any6, v4, other4, v6}
	for seed := range uint64(50) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			f := newFake(t)
			s := New(f)
			var local []netip.Addr
			var claims []*Claim
			for range 200 {
				switch random.IntN(4) {
				case 0:
					local = nil
					for _, a := range addrs {
						if random.IntN(2) == 0 {
							local = append(local, a)
						}
					}
					if err := s.SetAddrs(local); err != nil {
						t.Fatal(err)
					}
				case 1:
					if len(claims) > 0 {
						i := random.IntN(len(claims))
						if err := claims[i].Release(); err != nil {
							t.Fatal(err)
						}
						claims = slices.Delete(claims, i, i+1)
					}
				default:
					c, err := s.Claim(Ports{Addr: specs[random.IntN(len(specs))], First: uint16(1 + random.IntN(20)), Count: 1 + random.IntN(5)})
					if err != nil {
						t.Fatal(err)
					}
					claims = append(claims, c)
				}
				want := map[netip.AddrPort]bool{}
				for _, c := range claims {
					for _, a := range local {
						if c.ports.matches(a) {
							for port := range c.ports.all() {
								want[netip.AddrPortFrom(a, port)] = true
							}
						}
					}
				}
				if !maps.Equal(f.ours, want) {
					t.Fatalf("ours are %v, want %v", f.ours, want)
				}
			}
		})
	}
}

// A fakeDevice takes flow rules.
type fakeDevice struct {
	rules  map[Rule]bool
	refuse func(Rule) error
}

func (d *fakeDevice) make(r Rule) (func() error, error) {
	if d.rules[r] {
		return nil, os.ErrExist
	}
	if d.refuse != nil {
		if err := d.refuse(r); err != nil {
			return nil, err
		}
	}
	d.rules[r] = true
	return func() error {
		if !d.rules[r] {
			return fmt.Errorf("no rule %v", r)
		}
		delete(d.rules, r)
		return nil
	}, nil
}

// ports returns the ports that the rules match.
func (d *fakeDevice) ports(a netip.Addr) []int {
	seen := map[int]bool{}
	for r := range d.rules {
		for port := range 65536 {
			if r.Addr == a && uint16(port)&r.Mask == r.Port {
				seen[port] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func TestRules(t *testing.T) {
	d := &fakeDevice{rules: map[Rule]bool{}}
	r := NewRules(d.make)
	check := func(when string, rules int, ports ...int) {
		t.Helper()
		if got := d.ports(v4); !slices.Equal(got, ports) {
			t.Errorf("%s: ports %v, want %v", when, got, ports)
		}
		if len(d.rules) != rules || r.Stats().Rules != rules {
			t.Errorf("%s: %d rules, %d known, want %d", when, len(d.rules), r.Stats().Rules, rules)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Claim(v4, 6379, 1))
	check("a listener", 1, 6379)
	must(r.Claim(v4, 64, 8))
	check("a block", 2, 64, 65, 66, 67, 68, 69, 70, 71, 6379)
	must(r.Claim(v6, 64, 8))
	must(r.Release(v6, 64, 8))
	must(r.Release(v4, 6379, 1))
	check("the block is left", 1, 64, 65, 66, 67, 68, 69, 70, 71)
	must(r.Release(v4, 67, 1))
	check("a hole", 3, 64, 65, 66, 68, 69, 70, 71)
	must(r.Claim(v4, 67, 1))
	must(r.Release(v4, 64, 8))
	check("nothing", 0)
	must(r.Claim(v4, 1, 65535))
	must(r.Release(v4, 1, 65535))
	check("all ports", 0)

	full := errors.New("table full")
	d.refuse = func(rule Rule) error {
		if rule.Port == 12 {
			return full
		}
		return nil
	}
	if err := r.Claim(v4, 7, 6); !errors.Is(err, full) {
		t.Errorf("claim: %v, want %v", err, full)
	}
	check("rolled back", 0)
}
