package recorder

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
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
		pos                   [lanes]uint32 // records written so far
		rare                  uint32        // likewise
		_                     [32]byte
		// The lanes lie side by side: a request and its answer make one record in
		// each, and these are neighbours in the cache then.
		records [laneRecords][lanes]record
		rares   [rareRecords]record
	}
	record struct {
		time   int64  // nanoseconds
		seqAck uint64 // sequence number in the high half
		rest   uint64 // kind, flags, window, length: 8, 8, 16 and 32 bits
	}
)

var magic = [8]byte{'t', 'p', 'a', 'r', 'e', 'c', '0', '3'}

func (s *slot) addrs() (local, remote netip.AddrPort) {
	addr := func(b [16]byte) netip.Addr {
		if s.v6 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrPortFrom(addr(s.local), s.localPort), netip.AddrPortFrom(addr(s.remote), s.remotePort)
}

// mapMemory maps a new file, or anonymous memory.
func mapMemory(path string, size int) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if path == "" {
		return unix.Mmap(-1, 0, size, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err = f.Truncate(int64(size)); err == nil {
		var b []byte
		if b, err = unix.Mmap(int(f.Fd()), 0, size, prot, unix.MAP_SHARED); err == nil {
			return b, nil
		}
	}
	os.Remove(path)
	return nil, fmt.Errorf("recorder: %s: %w", path, err)
}
