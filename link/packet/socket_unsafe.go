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

// vnetHeader is struct virtio_net_hdr, which comes before each sent frame
// (PACKET_VNET_HDR). All fields are in the byte order of the machine.
type vnetHeader struct {
	flags, gsoType                            uint8
	headerLen, gsoSize, csumStart, csumOffset uint16
}

const (
	vnetLen = 10 // bytes of a vnetHeader

	vnetNeedsChecksum = 1
	vnetTCPv4         = 1
	vnetTCPv6         = 4
)

// messages are frames for one sendmmsg call, each a vnetHeader and a frame that
// follow each other in memory of its own.
type messages struct {
	mem     []byte // mapped, so that it stays where it is
	headers []mmsghdr
	iovecs  []unix.Iovec
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	n      uint32
	_      [4]byte
}

// stride is the distance between two messages in memory.
const stride = (messageOffset + vnetLen + maxFrame + 4095) &^ 4095

// messageOffset aligns the frame to 16 bytes.
const messageOffset = 16 - vnetLen

func newMessages(n int) (*messages, error) {
	mem, err := unix.Mmap(-1, 0, n*stride, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory to send from: %w", err)
	}
	m := &messages{mem: mem, headers: make([]mmsghdr, n), iovecs: make([]unix.Iovec, n)}
	for i := range n {
		m.iovecs[i].Base = &mem[i*stride+messageOffset]
		m.headers[i].header.Iov = &m.iovecs[i]
		m.headers[i].header.SetIovlen(1)
	}
	return m, nil
}

// frame returns the memory for the frame of message i.
func (m *messages) frame(i int) []byte {
	return m.mem[i*stride+messageOffset+vnetLen:][:maxFrame:maxFrame]
}

// set makes message i a frame of n bytes behind h.
func (m *messages) set(i, n int, h vnetHeader) {
	// Sound: a vnetHeader has the layout and size of vnetLen bytes, and
	// messageOffset is even.
	*(*vnetHeader)(unsafe.Pointer(&m.mem[i*stride+messageOffset])) = h
	m.iovecs[i].SetLen(vnetLen + n)
}

// size returns the length of the frame of message i.
func (m *messages) size(i int) int { return int(m.iovecs[i].Len) - vnetLen }

// send sends messages from first up to last and returns how many have left. An
// error is about the one behind those.
func (m *messages) send(fd, first, last int) (int, syscall.Errno) {
	// Sound: headers points into memory that the garbage collector does not move,
	// and is converted in the call itself.
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.headers[first])), uintptr(last-first),
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (m *messages) free() {
	if m != nil {
		unix.Munmap(m.mem)
	}
}
