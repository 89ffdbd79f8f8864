package main

import (
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/internal/genetlink"
	"github.com/gotpa/tpa/link/xdp"
)

// ethernet is what the kernel tells about an interface, each part as far as it
// knows: known is false for what it does not answer.
type ethernet struct {
	// attached is the XDP program that is attached already, 0 for none.
	attached uint32
	// plan is what AF_XDP would make of the interface.
	plan   *xdp.Plan
	queues struct {
		known     bool
		now, most int
	}
	features struct {
		known  bool
		active map[string]bool // by the kernel's names, such as rx-lro
	}
	rss struct {
		known    bool
		function string
		key      int // bytes
		queues   int // that the table names
	}
}

// askKernel asks about an interface. What the kernel or the driver does not know
// stays unknown.
func askKernel(name string) (e ethernet) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return e
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		e.attached = x.ProgId
	}
	if p, err := (xdp.Config{Interface: name}).Plan(); err == nil {
		e.plan = &p
	}
	if s, err := ethtool.Open(); err == nil {
		defer s.Close()
		if c, err := s.Channels(name); err == nil {
			e.queues.known, e.queues.now, e.queues.most = true, c.Receiving(), c.MaxReceiving()
		}
		if r, err := s.RSS(name); err == nil && len(r.Key) > 0 {
			slices.Sort(r.Table)
			e.rss.known, e.rss.key, e.rss.function, e.rss.queues = true, len(r.Key), r.Function, len(slices.Compact(r.Table))
		}
	}
	if c, err := genetlink.Open(); err == nil {
		defer c.Close()
		header := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
		header.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_INDEX, nl.Uint32Attr(uint32(l.Attrs().Index)))
		if a, err := c.Ask(unix.ETHTOOL_GENL_NAME, unix.ETHTOOL_MSG_FEATURES_GET, header); err == nil {
			e.features.known, e.features.active = true, bitset(a[unix.ETHTOOL_A_FEATURES_ACTIVE])
		}
	}
	return e
}

// bitset returns the bits that are set, by name.
func bitset(b []byte) map[string]bool {
	set := make(map[string]bool)
	outer, err := genetlink.Parse(b)
	if err != nil {
		return set
	}
	_, noMask := outer[unix.ETHTOOL_A_BITSET_NOMASK]
	bits, err := genetlink.List(outer[unix.ETHTOOL_A_BITSET_BITS])
	if err != nil {
		return set
	}
	for _, bit := range bits {
		a, err := genetlink.Parse(bit.Value)
		if err != nil {
			return set
		}
		if _, value := a[unix.ETHTOOL_A_BITSET_BIT_VALUE]; value || noMask {
			set[unix.ByteSliceToString(a[unix.ETHTOOL_A_BITSET_BIT_NAME])] = true
		}
	}
	return set
}
