package ethtool

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	ethSSStats = 1  // ETH_SS_STATS
	nameLen    = 32 // ETH_GSTRING_LEN
)

// Statistics returns the driver's own counters, which `ethtool -S NAME` shows. Some
// drivers have thousands.
func (s *Socket) Statistics(name string) (map[string]uint64, error) {
	// struct ethtool_sset_info, with room for one size.
	sets := struct {
		cmd, _ uint32
		mask   uint64
		size   [2]uint32
	}{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << ethSSStats}
	if err := do(s, name, &sets); err != nil {
		return nil, err
	}
	n := int(sets.size[0])
	if sets.mask == 0 || n == 0 {
		return nil, unix.EOPNOTSUPP
	}
	if n > 1<<16 {
		return nil, fmt.Errorf("%s: %d statistics", name, n)
	}
	// struct ethtool_gstrings.
	const namesHeader = 12
	names := binary.NativeEndian.AppendUint32(nil, unix.ETHTOOL_GSTRINGS)
	names = binary.NativeEndian.AppendUint32(names, ethSSStats)
	names = binary.NativeEndian.AppendUint32(names, uint32(n))
	// The number may grow between the calls, the kernel writes as many as there are
	// then: room for twice as many keeps that harmless.
	names = append(names, make([]byte, 2*n*nameLen)...)
	if err := doBytes(s, name, names); err != nil {
		return nil, err
	}
	// struct ethtool_stats.
	const valuesHeader = 8
	values := binary.NativeEndian.AppendUint32(nil, unix.ETHTOOL_GSTATS)
	values = binary.NativeEndian.AppendUint32(values, uint32(n))
	values = append(values, make([]byte, 2*n*8)...)
	if err := doBytes(s, name, values); err != nil {
		return nil, err
	}
	if n = min(n, int(binary.NativeEndian.Uint32(names[8:])), int(binary.NativeEndian.Uint32(values[4:]))); n == 0 {
		return nil, unix.EOPNOTSUPP
	}
	all := make(map[string]uint64, n)
	for i := range n {
		all[unix.ByteSliceToString(names[namesHeader+i*nameLen:][:nameLen])] = binary.NativeEndian.Uint64(values[valuesHeader+8*i:])
	}
	return all, nil
}
