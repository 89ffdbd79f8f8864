package xdp

import (
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/genetlink"
)

// A lowerGRO is an interface below one that is made of others (a VLAN, a bond, a
// bridge). On it arriving segments are joined to ones of up to 64 KB, before the filter
// of the upper interface sees them, which runs in generic mode: they fit no chunk,
// and sockets take several from Linux 6.6 on. On an interface that has the filter itself, the kernel joins none in that mode
// (netif_elide_gro in its net/core/gro.c).
type lowerGRO struct {
	name string
	fix  string // the command that has it stop; "" where there is none
}

// elsewhere is one of which nothing is known.
var elsewhere = lowerGRO{name: "an interface that cannot be seen from here"}

// Kinds of interfaces whose frames have arrived on the one that IFLA_LINK names, and of
// those that carry frames in packets of other interfaces.
var (
	stacked = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"}
	tunnels = []string{"vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan"}
)

// lowerGROs returns those below an interface, all being those of its network
// namespace; features returns what is on at one.
func lowerGROs(upper netlink.Link, all []netlink.Link, features func(netlink.Link) map[string]bool) (found []lowerGRO) {
	for _, l := range lower(upper, all) {
		switch {
		case l == nil:
			found = append(found, elsewhere)
		case l.Type() == "veth" || l.Type() == "tuntap" || virtioOf(l.Attrs()).joins():
			// What the other end hands over as one segment stays one.
			found = append(found, lowerGRO{name: l.Attrs().Name})
		default:
			found = append(found, lowerGROs(l, all, features)...)
			if f := features(l); len(lower(l, all)) == 0 && (f["rx-gro"] || f["rx-lro"] || f["rx-gro-hw"]) {
				fix := "ethtool -K " + l.Attrs().Name
				for _, feature := range []struct{ is, name string }{{"rx-gro", " gro off"}, {"rx-lro", " lro off"}, {"rx-gro-hw", " rx-gro-hw off"}} {
					if f[feature.is] {
						fix += feature.name
					}
				}
				found = append(found, lowerGRO{l.Attrs().Name, fix})
			}
		}
	}
	return found
}

// lower returns the interfaces that another is made of. nil is one that is not in
// this network namespace.
func lower(upper netlink.Link, all []netlink.Link) (found []netlink.Link) {
	attrs := upper.Attrs()
	for _, l := range all {
		// A VRF routes; the frames are those of its interfaces.
		if l.Attrs().MasterIndex == attrs.Index && upper.Type() != "vrf" {
			found = append(found, l)
		}
	}
	switch {
	case slices.Contains(tunnels, upper.Type()):
		found = append(found, nil)
	case slices.Contains(stacked, upper.Type()):
		i := slices.IndexFunc(all, func(l netlink.Link) bool { return l.Attrs().Index == attrs.ParentIndex })
		if i < 0 || attrs.NetNsID >= 0 {
			return append(found, nil)
		}
		found = append(found, all[i])
	}
	return found
}

// askLower asks the kernel. Where it does not answer, nothing is known to join.
func askLower(upper netlink.Link) []lowerGRO {
	all, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	c, err := genetlink.Open()
	if err != nil {
		return nil
	}
	defer c.Close()
	return lowerGROs(upper, all, func(l netlink.Link) map[string]bool {
		f, _ := ethtool.Features(c, l.Attrs().Index)
		return f
	})
}

// whyLowerGRO is why AF_XDP would lose frames, and lowerGRORemedy what to do about that.
func whyLowerGRO(all []lowerGRO) string {
	var names []string
	for _, l := range all {
		names = append(names, l.name)
	}
	return strings.Join(names, ", ") + " below may hand on segments of up to 64 KB, which fit no chunk"
}

func lowerGRORemedy(all []lowerGRO) string {
	const remedy = "use Linux 6.6 or newer, which hands them over in several chunks"
	var fixes []string
	for _, l := range all {
		if l.fix == "" {
			return remedy
		}
		fixes = append(fixes, l.fix)
	}
	return remedy + "; or " + strings.Join(fixes, " && ")
}
