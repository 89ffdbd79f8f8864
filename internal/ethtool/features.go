package ethtool

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/genetlink"
)

// Features are those of `ethtool -k` that are on, by the kernel's names, such as
// rx-lro. They are asked for by netlink (Linux 5.6), which knows their names.
func Features(c *genetlink.Conn, ifindex int) (map[string]bool, error) {
	header := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_INDEX, nl.Uint32Attr(uint32(ifindex)))
	a, err := c.Ask(unix.ETHTOOL_GENL_NAME, unix.ETHTOOL_MSG_FEATURES_GET, header)
	if err != nil {
		return nil, err
	}
	return bitset(a[unix.ETHTOOL_A_FEATURES_ACTIVE]), nil
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
