package follower

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestEncrypted(t *testing.T) {
	network := func(s string) *net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	out := func(dst string, priority int, change func(*netlink.XfrmPolicy)) netlink.XfrmPolicy {
		p := netlink.XfrmPolicy{Src: network("0.0.0.0/0"), Dst: network(dst), Dir: netlink.XFRM_DIR_OUT, Priority: priority}
		if change != nil {
			change(&p)
		}
		return p
	}
	protect := func(p *netlink.XfrmPolicy) { p.Tmpls = make([]netlink.XfrmPolicyTmpl, 1) }
	for _, tt := range []struct {
		name     string
		policies []netlink.XfrmPolicy
		want     bool
	}{
		{"none", nil, false},
		{"protects", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, protect)}, true},
		{"another destination", []netlink.XfrmPolicy{out("10.9.0.0/16", 1, protect)}, false},
		{"another source", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { protect(p); p.Src = network("192.0.2.0/24") })}, false},
		{"another protocol", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { protect(p); p.Proto = unix.IPPROTO_UDP })}, false},
		{"inwards", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { protect(p); p.Dir = netlink.XFRM_DIR_IN })}, false},
		{"blocks", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { p.Action = netlink.XFRM_POLICY_BLOCK })}, true},
		{"bypass first", []netlink.XfrmPolicy{out("10.0.0.0/8", 2, protect), out("10.0.0.1/32", 1, nil)}, false},
		{"bypass last", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, protect), out("10.0.0.1/32", 2, nil)}, true},
		{"bypass as good", []netlink.XfrmPolicy{out("10.0.0.1/32", 1, nil), out("10.0.0.0/8", 1, protect)}, true},
		{"protects a port", []netlink.XfrmPolicy{out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { protect(p); p.DstPort = 80 })}, true},
		{"bypass of a port", []netlink.XfrmPolicy{out("10.0.0.0/8", 2, protect), out("10.0.0.0/8", 1, func(p *netlink.XfrmPolicy) { p.DstPort = 22 })}, true},
	} {
		m := new(Follower)
		m.policies.Store(&tt.policies)
		if got := m.encrypted(netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.0.0.1")); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	m := new(Follower)
	if m.everything.Store(true); !m.encrypted(netip.Addr{}, netip.MustParseAddr("10.0.0.1")) {
		t.Error("policies that could not be read cover nothing")
	}
}
