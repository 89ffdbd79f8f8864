package packetsocket

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// Where the kernel takes headers for longer than Ethernet's, as far as that can be
// told without interfaces below.
func TestLongHeader(t *testing.T) {
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = 1 // lo
	elsewhere := attrs
	elsewhere.NetNsID = 0
	orphan := attrs
	orphan.ParentIndex = 1 << 20
	for _, tt := range []struct {
		name      string
		l         netlink.Link
		tags, far bool
	}{
		{"no VLAN", &netlink.Device{LinkAttrs: attrs}, false, false},
		{"a veth, whose other end is elsewhere", &netlink.Veth{LinkAttrs: elsewhere}, false, false},
		{"a VLAN of a driver that puts tags in", &netlink.Vlan{LinkAttrs: attrs}, true, false},
		{"a VLAN of one that does not", &netlink.Vlan{LinkAttrs: attrs}, false, true},
		{"a macvlan of what is no VLAN", &netlink.Macvlan{LinkAttrs: attrs}, false, false},
		{"a macvlan of something elsewhere", &netlink.Macvlan{LinkAttrs: elsewhere}, true, true},
		{"a VLAN of nothing", &netlink.Vlan{LinkAttrs: orphan}, true, true},
	} {
		if got := longHeader(tt.l, func(int) bool { return tt.tags }); got != tt.far {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.far)
		}
	}
}
