package xdp

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Which interfaces join segments below one that is made of others, and the commands
// that have them stop.
func TestLowerGRO(t *testing.T) {
	attrs := func(index int, name string, master, parent int) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Index, a.Name, a.MasterIndex, a.ParentIndex = index, name, master, parent
		return a
	}
	far := attrs(12, "macvlan12", 0, 1)
	far.NetNsID = 0
	all := map[string]netlink.Link{
		"eth1":      &netlink.Device{LinkAttrs: attrs(1, "eth1", 0, 0)},
		"eth2":      &netlink.Device{LinkAttrs: attrs(2, "eth2", 4, 0)},
		"eth3":      &netlink.Device{LinkAttrs: attrs(3, "eth3", 4, 0)},
		"bond":      &netlink.Bond{LinkAttrs: attrs(4, "bond", 0, 0)},
		"bond.10":   &netlink.Vlan{LinkAttrs: attrs(5, "bond.10", 0, 4)},
		"eth1.10":   &netlink.Vlan{LinkAttrs: attrs(6, "eth1.10", 0, 1)},
		"vrf":       &netlink.Vrf{LinkAttrs: attrs(7, "vrf", 0, 0)},
		"veth":      &netlink.Veth{LinkAttrs: attrs(8, "veth", 9, 99)},
		"bridge":    &netlink.Bridge{LinkAttrs: attrs(9, "bridge", 0, 0)},
		"orphan":    &netlink.Vlan{LinkAttrs: attrs(10, "orphan", 0, 77)},
		"vxlan":     &netlink.Vxlan{LinkAttrs: attrs(11, "vxlan", 0, 0)},
		"macvlan12": &netlink.Macvlan{LinkAttrs: far},
		"eth13":     &netlink.Device{LinkAttrs: attrs(13, "eth13", 7, 0)},
	}
	links := slices.SortedFunc(maps.Values(all), func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	const unseen = "an interface that cannot be seen from here"
	on := map[string]map[string]bool{
		"eth2": {"rx-gro": true}, "eth3": {"rx-gro": true, "rx-lro": true, "rx-gro-hw": true}, "eth13": {"rx-gro": true},
		"bond": {"rx-gro": true}, "bond.10": {"rx-gro": true},
	}
	for _, tt := range []struct{ upper, names, remedy string }{
		{"eth1", "", ""},
		{"eth1.10", "", ""},
		{"veth", "", ""},
		{"vrf", "", ""},
		{"bond", "eth2, eth3", "; or ethtool -K eth2 gro off && ethtool -K eth3 gro off lro off rx-gro-hw off"},
		{"bond.10", "eth2, eth3", "; or ethtool -K eth2 gro off && ethtool -K eth3 gro off lro off rx-gro-hw off"},
		{"bridge", "veth", ""},
		{"orphan", unseen, ""},
		{"vxlan", unseen, ""},
		{"macvlan12", unseen, ""},
	} {
		found := lowerGROs(all[tt.upper], links, func(l netlink.Link) map[string]bool { return on[l.Attrs().Name] })
		if len(found) == 0 || tt.names == "" {
			if len(found) > 0 || tt.names != "" {
				t.Errorf("%s: got %v, want %q", tt.upper, found, tt.names)
			}
			continue
		}
		if why := whyLowerGRO(found); !strings.HasPrefix(why, tt.names+" below") {
			t.Errorf("%s: got %q, want %q", tt.upper, why, tt.names)
		}
		if got, want := lowerGRORemedy(found), "use Linux 6.6 or newer, which hands them over in several chunks"+tt.remedy; got != want {
			t.Errorf("%s: got %q, want %q", tt.upper, got, want)
		}
	}
}
