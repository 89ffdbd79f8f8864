package bpf

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/link"
)

// TestErrors: causes that this machine cannot bring about, each with its name and
// the way out.
func TestErrors(t *testing.T) {
	card := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}}
	jumbo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 9001}}
	owned := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500, Xdp: &netlink.LinkXdp{Attached: true, ProgId: 1 << 30}}}
	for _, tt := range []struct {
		name string
		err  error
		is   error
		want []string
	}{
		{"kernel without bpf_link for XDP", errFilter(card, Auto, fmt.Errorf("create link: %w", ebpf.ErrNotSupported)), ebpf.ErrNotSupported, []string{"kernel " + KernelRelease(), "Linux 5.10"}},
		{"kernel without tcx", errFilter(card, Ingress, fmt.Errorf("create link: %w", ebpf.ErrNotSupported)), ebpf.ErrNotSupported, []string{"behind XDP", "Linux 6.6"}},
		{"no right to load", errFilter(card, Auto, syscall.EPERM), syscall.EPERM, []string{"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "setcap"}},
		{"driver without XDP", errFilter(card, Native, syscall.EOPNOTSUPP), syscall.EOPNOTSUPP, []string{"does not run XDP", "AttachGeneric"}},
		{"driver without XDP, in its words", errFilter(card, Native, enotsupp), enotsupp, []string{"does not run XDP", "AttachGeneric"}},
		{"MTU too great", errFilter(jumbo, Native, syscall.EINVAL), syscall.EINVAL, []string{"MTU of 9001", "mtu 1500"}},
		{"program of somebody", errFilter(owned, Native, syscall.EBUSY), ErrOccupied, []string{"another XDP program is attached: number 1073741824", "ip link set dev eth0 xdp off"}},
		{"interface gone", errFilter(card, Auto, syscall.ENODEV), syscall.ENODEV, []string{"gone", "ip link"}},
		{"interface gone, later", Gone("eth0", "xdp"), syscall.ENODEV, []string{"gone", "open it again"}},
		{"anything else", errFilter(card, Native, syscall.ENOMEM), syscall.ENOMEM, []string{"native mode", "dmesg"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e *link.InterfaceError
			if !errors.As(tt.err, &e) || e.Problem == "" || e.Remedy == "" || !errors.Is(tt.err, tt.is) {
				t.Errorf("%v: want a problem, a remedy, and %v below", tt.err, tt.is)
			}
			for _, w := range append(tt.want, "eth0") {
				if !strings.Contains(tt.err.Error(), w) {
					t.Errorf("%v does not say %q", tt.err, w)
				}
			}
		})
	}
}

// TestUpperOf: what to name in the place of a part of another interface.
func TestUpperOf(t *testing.T) {
	for _, tt := range []struct{ kind, name, want string }{
		{"bond", "bond0", "name bond0"},
		{"bridge", "br0", "name br0"},
		{"openvswitch", "ovs-system", "`ovs-vsctl port-to-br eth0`"},
	} {
		upper := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: tt.name}, LinkType: tt.kind}
		if got := upperOf("eth0", upper); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.kind, got, tt.want)
		}
	}
}
