package recorder

import (
	"net/netip"
)

// The layout of the file: a header, the slots of connections, the archive. All
// numbers are in the machine's byte order.
type (
	fileHeader struct {
		magic           [8]byte
		conns, archived uint32
		pid, shards     uint32
		origin, started int64 // UnixNano of time 0, and of the start
		program         [64]byte
		panicked        int64 // when a poller did, a time; 0: none has
		panicShard      uint32
		_               uint32
		panicText       [264]byte
	}
	slot struct {
		id                    uint64 // 0: never used
		opened, closed, taken int64  // times; 0: not yet
		local, remote         [16]byte
		localPort, remotePort uint16
		shard                 uint16
		reason                Reason // of a capture
		v6                    bool
		rare                  uint32 // rare records written so far
		_                     [52]byte
		rows                  [rows]row
		rares                 [rareRecords]record
	}
	// A row is what happened one after the other: in, read, write, out. It is as
	// long as a line of the processor's cache.
	row struct {
		time   int64     // nanoseconds, of the first of them
		number uint32    // from 1; 0: never used
		since  [3]uint16 // how long after time the others were, in units of 64 ns
		// What a SYN in, and a SYN out, offered.
		shift       [2]uint8 // window scale and the bits below
		mss         [2]uint16
		read, write uint32 // bytes; 0: none
		in, out     segment
	}
	segment struct {
		seq, ack     uint32
		window, size uint16
		flags        uint8
		kind         Kind // 0: none
		_            uint16
	}
	record struct {
		time     int64 // nanoseconds
		until, n uint32
		// It stands behind what was recorded in the row number up to step; number is 0
		// where only the time is known.
		number uint32
		kind   Kind
		step   step
		_      uint16
	}
)

// Bits of row.shift above the shift itself.
const (
	hasScale      = 0x80
	hasSACK       = 0x40
	hasTimestamps = 0x20
	scaleShift    = 0x0f
)

// sinceUnit is log2 of the unit of row.since in nanoseconds: a row spans 4 ms.
const sinceUnit = 6

var magic = [8]byte{'t', 'p', 'a', 'r', 'e', 'c', '0', '4'}

func (s *slot) addrs() (local, remote netip.AddrPort) {
	addr := func(b [16]byte) netip.Addr {
		if s.v6 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrPortFrom(addr(s.local), s.localPort), netip.AddrPortFrom(addr(s.remote), s.remotePort)
}
