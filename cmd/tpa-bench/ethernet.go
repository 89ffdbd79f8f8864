package main

import (
	"slices"

	"github.com/vishvananda/netlink"

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
		if active, err := ethtool.Features(c, l.Attrs().Index); err == nil {
			e.features.known, e.features.active = true, active
		}
	}
	return e
}
