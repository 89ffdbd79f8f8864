package firewall_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/gotpa/tpa/internal/firewall"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestAbout checks which rules count for port 6379 of 10.0.0.2 on eth0.
func TestAbout(t *testing.T) {
	testnet.Need(t, testnet.Root, testnet.Tool("iptables"), testnet.Tool("ip6tables"))
	port := firewall.Port{Number: 6379, Interface: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}}
	for _, tt := range []struct {
		name  string
		rules []string // commands of iptables
		want  []string
	}{
		{"none", nil, nil},
		{"drop", []string{"-A INPUT -p tcp --dport 6379 -j DROP"}, []string{"ip filter INPUT: drop, named"}},
		{"drop, IPv6", []string{"6 -A INPUT -p tcp --dport 6379 -j DROP"}, []string{"ip6 filter INPUT: drop, named"}},
		{"another port", []string{"-A INPUT -p tcp --dport 22 -j DROP"}, nil},
		{"another protocol", []string{"-A INPUT -p udp --dport 6379 -j DROP"}, nil},
		{"all but another port", []string{"-A INPUT -p tcp ! --dport 22 -j DROP"}, []string{"ip filter INPUT: drop, named"}},
		{"redirect", []string{"-t nat -A PREROUTING -p tcp --dport 6379 -j REDIRECT --to-ports 15001"}, []string{"ip nat PREROUTING: redirect, named"}},
		{"policy", []string{"-P INPUT DROP"}, []string{"ip filter INPUT: policy drop"}},
		{"on the way out", []string{"-A OUTPUT -p tcp --sport 6379 -j DROP"}, []string{"ip filter OUTPUT: drop, named"}},
		{"a client's port on the way out", []string{"-A OUTPUT -p tcp --dport 6379 -j DROP"}, nil},
		{"a source", []string{"-A INPUT -s 192.0.2.0/24 -j DROP"}, []string{"ip filter INPUT: drop"}},
		{"another interface", []string{"-A INPUT -i lo -j DROP"}, nil},
		{"interfaces", []string{"-A INPUT -i eth+ -j DROP"}, []string{"ip filter INPUT: drop"}},
		{"another address", []string{"-A INPUT -d 10.0.0.3 -j DROP"}, nil},
		{"our address", []string{"-A INPUT -d 10.0.0.2 -j DROP"}, []string{"ip filter INPUT: drop"}},
		{"a network", []string{"-A INPUT -d 10.0.0.0/8 -j DROP"}, []string{"ip filter INPUT: drop"}},
		{"a chain", []string{"-N OURS", "-A INPUT -j OURS", "-A OURS -p tcp --dport 6000:7000 -j REJECT"}, []string{"ip filter OURS: reject, named"}},
		{"a chain of another port", []string{"-N OURS", "-A INPUT -p tcp --dport 80 -j OURS", "-A OURS -j REJECT"}, nil},
		{"several ports", []string{"-A INPUT -p tcp -m multiport --dports 80,6379 -j DROP"}, []string{"ip filter INPUT: drop"}},
		{"accept", []string{"-A INPUT -p tcp --dport 6379 -j ACCEPT"}, []string{"ip filter INPUT: named, named"}},
		{"forwarded", []string{"-A FORWARD -j DROP", "-P FORWARD DROP"}, nil},
		{"masquerade", []string{"-t nat -A POSTROUTING -o eth0 -j MASQUERADE"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := testnet.New(t).Host("host")
			for _, r := range tt.rules {
				tool := "iptables"
				if rest, ok := strings.CutPrefix(r, "6 "); ok {
					tool, r = "ip6tables", rest
				}
				if out, err := h.Command(tool, strings.Fields(r)...).CombinedOutput(); err != nil {
					t.Fatalf("%s %s: %v: %s", tool, r, err, out)
				}
			}
			h.Do(func() { about(t, port, tt.want) })
		})
	}
	t.Run("sets", func(t *testing.T) {
		h := testnet.New(t).Host("host")
		h.Do(func() {
			addSets(t)
			about(t, port, []string{"inet test in: drop, named", "inet test in: drop, named"})
		})
	})
}

// about compares what About says.
func about(t *testing.T, port firewall.Port, want []string) {
	t.Helper()
	rules, err := firewall.Read()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules.About(port) {
		s := r.Chain + ": " + r.Does
		if r.Named {
			s += ", named"
		}
		if (r.Handle == 0) != strings.HasPrefix(r.Does, "policy") {
			t.Errorf("%s has handle %d", s, r.Handle)
		}
		got = append(got, s)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// addSets adds rules that look into sets of ports: two that have 6379 and two that have
// not.
func addSets(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "test"})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	number := func(n uint16) []byte { return []byte{byte(n >> 8), byte(n)} }
	interval := func(from, to uint16) []nftables.SetElement {
		return []nftables.SetElement{{Key: number(from)}, {Key: number(to + 1), IntervalEnd: true}}
	}
	for i, elements := range [][]nftables.SetElement{
		{{Key: number(80)}, {Key: number(6379)}},
		{{Key: number(80)}, {Key: number(443)}},
		append(interval(1, 1023), interval(6379, 6380)...),
		append(interval(1, 6378), interval(6380, 7000)...),
	} {
		set := &nftables.Set{
			Table: table, Name: fmt.Sprintf("ports%d", i), KeyType: nftables.TypeInetService, Interval: i > 1,
		}
		if err := c.AddSet(set, elements); err != nil {
			t.Fatal(err)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{6}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}
