package dpdk

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRuleCheck(t *testing.T) {
	queues := make([]uint16, 257)
	for i := range queues {
		queues[i] = uint16(i)
	}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	for _, tt := range []struct {
		name string
		rule Rule
		want string // part of the error, "" for none
	}{
		{"port", Rule{Port: 80, Queues: []uint16{3}}, ""},
		{"all", Rule{Addr: v4, Port: 0xc000, PortMask: 0xffc0, Queues: []uint16{0, 1, 2, 3}}, ""},
		{"IPv6", Rule{IPv6: true, Addr: v6, Port: 65535, Queues: []uint16{0}}, ""},
		{"IPv6 address for IPv4", Rule{Addr: v6, Port: 80, Queues: []uint16{0}}, "Rule.Addr is fd00::1"},
		{"IPv4 address for IPv6", Rule{IPv6: true, Addr: v4, Port: 80, Queues: []uint16{0}}, "Rule.Addr is 10.0.0.1"},
		{"mapped", Rule{IPv6: true, Addr: netip.AddrFrom16(v4.As16()), Port: 80, Queues: []uint16{0}}, "Rule.Addr is ::ffff:10.0.0.1"},
		{"zone", Rule{IPv6: true, Addr: netip.MustParseAddr("fe80::1%lo"), Port: 80, Queues: []uint16{0}}, "Rule.Addr is fe80::1%lo"},
		{"no port", Rule{Queues: []uint16{0}}, "Rule.Port is 0"},
		{"port outside the mask", Rule{Port: 81, PortMask: 0xfff0, Queues: []uint16{0}}, "Rule.Port is 0x51"},
		{"no queue", Rule{Port: 80}, "Rule.Queues has 0 queues"},
		{"many queues", Rule{Port: 80, Queues: queues}, "Rule.Queues has 257 queues"},
		{"queue 4 of 4", Rule{Port: 80, Queues: []uint16{1, 4}}, "want each of 0 to 3 at most once"},
		{"double", Rule{Port: 80, Queues: []uint16{1, 1}}, "want each of 0 to 3 at most once"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 4
			if slices.Equal(tt.rule.Queues, queues) {
				n = 300
			}
			err := tt.rule.check(n)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
