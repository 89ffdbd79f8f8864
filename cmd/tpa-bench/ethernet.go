package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ethernet is what the kernel tells about an interface, each part as far as it
// knows: known is false for what it does not answer.
type ethernet struct {
	// attached is the XDP program that is attached already, 0 for none.
	attached uint32
	xdp      struct {
		known                      bool
		native, redirect, zeroCopy bool
	}
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

// What <linux/netdev.h> names, from Linux 6.3 on.
const (
	netdevFamily      = "netdev"
	netdevDevGet      = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex     = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDPFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES

	xdpBasic    = 1 << 0 // NETDEV_XDP_ACT_BASIC
	xdpRedirect = 1 << 1 // NETDEV_XDP_ACT_REDIRECT
	xdpZeroCopy = 1 << 3 // NETDEV_XDP_ACT_XSK_ZEROCOPY
)

// What <linux/ethtool_netlink.h> names and package unix does not.
const (
	rssFunction = 3 // ETHTOOL_A_RSS_HFUNC
	rssTable    = 4 // ETHTOOL_A_RSS_INDIR
	rssKey      = 5 // ETHTOOL_A_RSS_HKEY
)

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
	device := nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(l.Attrs().Index)))
	if a, err := ask(netdevFamily, netdevDevGet, device); err == nil {
		if f, ok := a[netdevXDPFeatures]; ok && len(f) == 8 {
			bits := binary.NativeEndian.Uint64(f)
			e.xdp.known = true
			e.xdp.native, e.xdp.redirect, e.xdp.zeroCopy = bits&xdpBasic != 0, bits&xdpRedirect != 0, bits&xdpZeroCopy != 0
		}
	}
	header := func(attr int) *nl.RtAttr {
		h := nl.NewRtAttr(attr|unix.NLA_F_NESTED, nil)
		h.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_INDEX, nl.Uint32Attr(uint32(l.Attrs().Index)))
		return h
	}
	if a, err := ask(unix.ETHTOOL_GENL_NAME, unix.ETHTOOL_MSG_CHANNELS_GET, header(1)); err == nil {
		e.queues.known = true
		e.queues.now = number(a[unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT]) + number(a[unix.ETHTOOL_A_CHANNELS_RX_COUNT])
		e.queues.most = number(a[unix.ETHTOOL_A_CHANNELS_COMBINED_MAX]) + number(a[unix.ETHTOOL_A_CHANNELS_RX_MAX])
	}
	if a, err := ask(unix.ETHTOOL_GENL_NAME, unix.ETHTOOL_MSG_FEATURES_GET, header(unix.ETHTOOL_A_FEATURES_HEADER)); err == nil {
		e.features.known = true
		e.features.active = bitset(a[unix.ETHTOOL_A_FEATURES_ACTIVE])
	}
	if a, err := ask(unix.ETHTOOL_GENL_NAME, unix.ETHTOOL_MSG_RSS_GET, header(1)); err == nil && len(a[rssKey]) > 0 {
		e.rss.known, e.rss.key, e.rss.function = true, len(a[rssKey]), hashFunction(number(a[rssFunction]))
		seen := make(map[uint32]bool)
		for table := a[rssTable]; len(table) >= 4; table = table[4:] {
			seen[binary.NativeEndian.Uint32(table)] = true
		}
		e.rss.queues = len(seen)
	}
	return e
}

// ask sends a request of generic netlink and returns the attributes of the answer.
func ask(family string, command uint8, attr *nl.RtAttr) (map[uint16][]byte, error) {
	f, err := netlink.GenlFamilyGet(family)
	if err != nil {
		return nil, err
	}
	r := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	r.AddData(&nl.Genlmsg{Command: command, Version: uint8(f.Version)})
	r.AddData(attr)
	answers, err := r.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 || len(answers[0]) < nl.SizeofGenlmsg {
		return nil, fmt.Errorf("netlink family %s: %w", family, errors.ErrUnsupported)
	}
	return attributes(answers[0][nl.SizeofGenlmsg:])
}

func attributes(b []byte) (map[uint16][]byte, error) {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	all := make(map[uint16][]byte, len(list))
	for _, a := range list {
		all[kind(a)] = a.Value
	}
	return all, nil
}

// kind is an attribute's type without the flags that it carries.
func kind(a syscall.NetlinkRouteAttr) uint16 {
	return a.Attr.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
}

func number(b []byte) int {
	if len(b) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}

// bitset returns the bits that are set, by name.
func bitset(b []byte) map[string]bool {
	set := make(map[string]bool)
	outer, err := attributes(b)
	if err != nil {
		return set
	}
	_, noMask := outer[unix.ETHTOOL_A_BITSET_NOMASK]
	bits, err := nl.ParseRouteAttr(outer[unix.ETHTOOL_A_BITSET_BITS])
	if err != nil {
		return set
	}
	for _, bit := range bits {
		a, err := attributes(bit.Value)
		if err != nil {
			return set
		}
		if _, value := a[unix.ETHTOOL_A_BITSET_BIT_VALUE]; value || noMask {
			set[unix.ByteSliceToString(a[unix.ETHTOOL_A_BITSET_BIT_NAME])] = true
		}
	}
	return set
}

// hashFunction names the bits of RSS's hash functions, as ethtool does.
func hashFunction(bits int) string {
	for i, name := range []string{"toeplitz", "xor", "crc32"} {
		if bits>>i&1 != 0 {
			return name
		}
	}
	return "an unknown function"
}
