package packet

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring is the receive ring that a packet socket shares with the kernel
// (TPACKET_V2): slots of equal size, each with a header, filled in order. A
// slot's status says whose it is; it is written last by the one that gives the
// slot away, with release semantics, and so are Go's atomics.
type ring struct {
	mem  []byte
	slot int // bytes of a slot, a power of two
	mask uint32
}

// A slot is the header of a slot, and the bytes of all of it.
type slot struct {
	header *unix.Tpacket2Hdr
	bytes  []byte
}

// mapRing has the socket fill a ring of slots.
func mapRing(fd, slots, slotSize int) (*ring, error) {
	block := max(slotSize, 65536)
	req := unix.TpacketReq{
		Block_size: uint32(block), Block_nr: uint32(max(1, slots*slotSize/block)),
		Frame_size: uint32(slotSize), Frame_nr: uint32(slots),
	}
	// Where a ring is smaller than a block, the block is the ring.
	if slots*slotSize < block {
		req.Block_size = uint32(slots * slotSize)
	}
	// Sound: req is converted in the call itself.
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_PACKET, unix.PACKET_RX_RING,
		uintptr(unsafe.Pointer(&req)), unsafe.Sizeof(req), 0)
	if errno != 0 {
		return nil, fmt.Errorf("make a ring of %d slots of %d bytes: %w", slots, slotSize, errno)
	}
	mem, err := unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	return &ring{mem: mem, slot: slotSize, mask: uint32(slots - 1)}, nil
}

func (r *ring) unmap() {
	if r != nil {
		unix.Munmap(r.mem)
	}
}

// at returns the slot of a position.
func (r *ring) at(position uint32) slot {
	b := r.mem[int(position&r.mask)*r.slot:][:r.slot:r.slot]
	// Sound: the kernel puts this header at the start of each slot, which is
	// aligned to at least 2048 bytes, in a mapping that is not the garbage
	// collector's and stays until unmap.
	return slot{(*unix.Tpacket2Hdr)(unsafe.Pointer(&b[0])), b}
}

// status returns the TP_STATUS_* bits of the slot.
func (s slot) status() uint32 {
	// Sound: Status is a uint32, aligned to 4 bytes.
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&s.header.Status)))
}

// free gives the slot back to the kernel.
func (s slot) free() {
	// Sound: as in status.
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&s.header.Status)), unix.TP_STATUS_KERNEL)
}

// receive reads one frame that did not fit its slot, and returns its length,
// which is greater than len(b) if it does not fit b either.
func receive(fd int, b []byte) (int, syscall.Errno) {
	// Sound: b is converted in the call itself.
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	return int(n), errno
}

// statistics returns the frames that the socket got and those that it lost, since
// the last call.
func statistics(fd int) (stats unix.TpacketStats, err error) {
	size := uint32(unsafe.Sizeof(stats))
	// Sound: both pointers are converted in the call itself, and the kernel writes
	// no more than size bytes.
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS,
		uintptr(unsafe.Pointer(&stats)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return stats, errno
	}
	return stats, nil
}
