//go:build dpdk && cgo && linux

package dpdk_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/dpdk/flowtest"
)

// What reaches rte_flow, byte by byte: headers in network order (RFC 791, 8200,
// 9293), RSS types of rte_ethdev.h.
func TestFlowRules(t *testing.T) {
	const (
		// The IPv4 header up to the destination, which is its last field.
		ipv4 = "00000000000000000000000000000000"
		// The IPv6 header likewise.
		ipv6   = "000000000000000000000000000000000000000000000000"
		behind = "00000000000000000000000000000000" // of the TCP header after the ports
	)
	for _, tt := range []struct {
		name string
		rule dpdk.Rule
		want string
	}{
		{"port to one queue", dpdk.Rule{Port: 6379, Queues: []uint16{2}},
			"eth / ipv4 / tcp spec=000018eb" + behind + " mask=0000ffff" + behind + " -> queue 2"},
		{"address and port to one queue", dpdk.Rule{Addr: netip.MustParseAddr("192.168.1.2"), Port: 80, Queues: []uint16{0}},
			"eth / ipv4 spec=" + ipv4 + "c0a80102 mask=" + ipv4 + "ffffffff / tcp spec=00000050" + behind + " mask=0000ffff" + behind + " -> queue 0"},
		{"block of ports to one queue", dpdk.Rule{Port: 0xc040, PortMask: 0xffc0, Queues: []uint16{3}},
			"eth / ipv4 / tcp spec=0000c040" + behind + " mask=0000ffc0" + behind + " -> queue 3"},
		{"port to all queues", dpdk.Rule{Port: 443, Queues: []uint16{0, 1, 2, 3}},
			"eth / ipv4 / tcp spec=000001bb" + behind + " mask=0000ffff" + behind + " -> rss func 0 level 0 types 0x10 queues 0 1 2 3"},
		{"IPv6 to some queues", dpdk.Rule{IPv6: true, Addr: netip.MustParseAddr("fd00::1:2"), Port: 443, Queues: []uint16{3, 1}},
			"eth / ipv6 spec=" + ipv6 + "fd000000000000000000000000010002 mask=" + ipv6 + "ffffffffffffffffffffffffffffffff / tcp spec=000001bb" + behind + " mask=0000ffff" + behind + " -> rss func 0 level 0 types 0x400 queues 3 1"},
		{"IPv6, any address", dpdk.Rule{IPv6: true, Port: 443, Queues: []uint16{0}},
			"eth / ipv6 / tcp spec=000001bb" + behind + " mask=0000ffff" + behind + " -> queue 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, dpdk.Config{Device: "net_null0", Queues: 4})
			flowtest.Play(t, flowtest.Refuse{})
			f, err := p.CreateRule(tt.rule)
			if err != nil {
				t.Fatal(err)
			}
			rule := "group 0 priority 0 ingress / " + tt.want
			if got, want := flowtest.Take(), "validate "+rule+"\ncreate "+rule+" = rule\n"; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for range 2 {
				if err := f.Remove(); err != nil {
					t.Error(err)
				}
			}
			if got := flowtest.Take(); got != "destroy\n" {
				t.Errorf("got %q, want the rule destroyed once", got)
			}
		})
	}
}

func TestFlowRulesEndWithThePort(t *testing.T) {
	p := open(t, dpdk.Config{Device: "net_null0", Queues: 2})
	flowtest.Play(t, flowtest.Refuse{})
	var rules []*dpdk.FlowRule
	for port := range uint16(3) {
		f, err := p.CreateRule(dpdk.Rule{Port: 80 + port, Queues: []uint16{0}})
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, f)
	}
	flowtest.Take()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := flowtest.Take(); got != strings.Repeat("destroy\n", 3) {
		t.Errorf("got %q, want three rules destroyed", got)
	}
	if err := rules[0].Remove(); err != nil {
		t.Errorf("Remove after Close: %v", err)
	}
	if _, err := p.CreateRule(dpdk.Rule{Port: 80, Queues: []uint16{0}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("CreateRule after Close: %v", err)
	}
	if err := p.Isolate(true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Isolate after Close: %v", err)
	}
}

func TestFlowErrors(t *testing.T) {
	rule := dpdk.Rule{Port: 80, Queues: []uint16{0}}
	create := func(p *dpdk.Port) error { _, err := p.CreateRule(rule); return err }
	isolate := func(p *dpdk.Port) error { return p.Isolate(true) }
	remove := func(p *dpdk.Port) error {
		f, err := p.CreateRule(rule)
		if err != nil {
			return err
		}
		return f.Remove()
	}
	for _, tt := range []struct {
		name   string
		refuse *flowtest.Refuse // nil: the driver as it is
		call   func(*dpdk.Port) error
		want   string
		is     error
		calls  int
	}{
		{"no rules", nil, create, "the driver net_null cannot take the flow rule", dpdk.ErrNotSupported, 0},
		{"no isolated mode", nil, isolate, "the driver net_null cannot change its isolated mode", dpdk.ErrNotSupported, 0},
		{"not this rule", &flowtest.Refuse{Validate: syscall.ENOTSUP}, create, "(the test says no): not supported", dpdk.ErrNotSupported, 1},
		{"not valid", &flowtest.Refuse{Validate: syscall.EINVAL}, create, "(the test says no): the driver says: invalid argument", syscall.EINVAL, 1},
		{"exists", &flowtest.Refuse{Create: syscall.EEXIST}, create, "cannot take the flow rule", os.ErrExist, 2},
		{"table full", &flowtest.Refuse{Create: syscall.ENOSPC}, create, "no space left", syscall.ENOSPC, 2},
		{"stays", &flowtest.Refuse{Destroy: syscall.EIO}, remove, "cannot remove a flow rule", syscall.EIO, 3},
		{"isolated mode fails", &flowtest.Refuse{Isolate: syscall.EIO}, isolate, "cannot change its isolated mode", syscall.EIO, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, dpdk.Config{Device: "net_null0"})
			flowtest.Take()
			if tt.refuse != nil {
				flowtest.Play(t, *tt.refuse)
			}
			err := tt.call(p)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %q of kind %v", err, tt.want, tt.is)
			}
			if got := strings.Count(flowtest.Take(), "\n"); got != tt.calls {
				t.Errorf("%d calls of rte_flow, want %d", got, tt.calls)
			}
		})
	}
}

func TestIsolatedMode(t *testing.T) {
	if _, err := dpdk.Open(testEAL, dpdk.Config{Device: "net_null0", Isolated: true}); !errors.Is(err, dpdk.ErrNotSupported) {
		t.Errorf("a device that has none: %v", err)
	}
	flowtest.Play(t, flowtest.Refuse{})
	p := open(t, dpdk.Config{Device: "net_null0", Isolated: true})
	if got := flowtest.Take(); got != "isolate 1\n" {
		t.Errorf("got %q at Open", got)
	}
	// A driver that wants the port stopped gets it stopped, and it runs again.
	flowtest.Play(t, flowtest.Refuse{Isolate: syscall.EBUSY})
	if err := p.Isolate(false); err != nil {
		t.Error(err)
	}
	if got := flowtest.Take(); got != "isolate 0\nisolate 0\n" {
		t.Errorf("got %q", got)
	}
	if f, err := receive(p.Queue(0)); err != nil || len(f.Data) == 0 {
		t.Errorf("after a restart: %v, %v", f, err)
	}
}
