package packetsocket

import (
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/link"
)

// Capabilities are those of a Sender on an interface of this network namespace. A
// VLAN above a driver that does not put the tag in itself (virtio_net, ena) expects
// room for it in each header: Linux then looks for the IP header of a large segment
// 4 bytes too far (packet_snd, hard_header_len), and drops it. There is no
// segmentation offload on those, and on what is made of them.
func Capabilities(l netlink.Link) link.Capabilities {
	c := link.Capabilities{TxTCPChecksum: true, TSO: MaxFrame}
	if longHeader(l, tagsItself) {
		c.TSO = 0
	}
	return c
}

// depth is how many interfaces lie upon another in longHeader.
const depth = 8

// longHeader tells whether the kernel takes headers of an interface for longer than
// Ethernet's.
func longHeader(l netlink.Link, tags func(index int) bool) bool {
	for range depth {
		attrs, kind := l.Attrs(), l.Type()
		if !slices.Contains([]string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"}, kind) {
			return false
		}
		if attrs.NetNsID >= 0 {
			return true // nobody can tell from here
		}
		if kind == "vlan" && !tags(attrs.ParentIndex) {
			return true
		}
		parent, err := netlink.LinkByIndex(attrs.ParentIndex)
		if err != nil {
			return true
		}
		l = parent
	}
	return true
}

// tagsItself tells whether a driver puts VLAN tags into frames.
func tagsItself(index int) bool {
	c, err := genetlink.Open()
	if err != nil {
		return false
	}
	defer c.Close()
	on, err := ethtool.Features(c, index)
	return err == nil && on["tx-vlan-hw-insert"]
}
