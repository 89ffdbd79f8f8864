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

// Statistics are the driver's own counters of an interface, which `ethtool -S NAME`
// shows. Some drivers have thousands: their names are asked for once, and again when
// their number changes. Only one goroutine at a time may use it.
type Statistics struct {
	socket *Socket
	name   string
	names  []string
	// values is struct ethtool_stats, with room for twice as many: their number may grow
	// between two calls, and the kernel writes as many as there are then.
	values []byte
}

// Statistics returns the counters of an interface.
func (s *Socket) Statistics(name string) *Statistics { return &Statistics{socket: s, name: name} }

// Read returns the counters as they are, in a map of the caller's.
func (s *Statistics) Read() (map[string]uint64, error) {
	n, err := s.count()
	if err != nil {
		return nil, err
	}
	if n != len(s.names) {
		if err := s.readNames(n); err != nil {
			return nil, err
		}
	}
	const header = 8
	clear(s.values)
	binary.NativeEndian.PutUint32(s.values, unix.ETHTOOL_GSTATS)
	binary.NativeEndian.PutUint32(s.values[4:], uint32(n))
	if err := doBytes(s.socket, s.name, s.values); err != nil {
		return nil, err
	}
	if n = min(n, int(binary.NativeEndian.Uint32(s.values[4:]))); n == 0 {
		return nil, unix.EOPNOTSUPP
	}
	all := make(map[string]uint64, n)
	for i, name := range s.names[:n] {
		all[name] = binary.NativeEndian.Uint64(s.values[header+8*i:])
	}
	return all, nil
}

// count asks for the number of counters.
func (s *Statistics) count() (int, error) {
	// struct ethtool_sset_info, with room for one size.
	sets := struct {
		cmd, _ uint32
		mask   uint64
		size   [2]uint32
	}{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << ethSSStats}
	if err := do(s.socket, s.name, &sets); err != nil {
		return 0, err
	}
	n := int(sets.size[0])
	if sets.mask == 0 || n == 0 {
		return 0, unix.EOPNOTSUPP
	}
	if n > 1<<16 {
		return 0, fmt.Errorf("%s: %d statistics", s.name, n)
	}
	return n, nil
}

// readNames asks for the names of n counters.
func (s *Statistics) readNames(n int) error {
	s.names = nil
	// struct ethtool_gstrings.
	const header = 12
	names := binary.NativeEndian.AppendUint32(nil, unix.ETHTOOL_GSTRINGS)
	names = binary.NativeEndian.AppendUint32(names, ethSSStats)
	names = binary.NativeEndian.AppendUint32(names, uint32(n))
	names = append(names, make([]byte, 2*n*nameLen)...)
	if err := doBytes(s.socket, s.name, names); err != nil {
		return err
	}
	if got := int(binary.NativeEndian.Uint32(names[8:])); got != n {
		return fmt.Errorf("%s: %d names for %d statistics", s.name, got, n)
	}
	for i := range n {
		s.names = append(s.names, unix.ByteSliceToString(names[header+i*nameLen:][:nameLen]))
	}
	s.values = make([]byte, 8+2*n*8)
	return nil
}
