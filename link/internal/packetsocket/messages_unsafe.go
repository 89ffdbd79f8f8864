package packetsocket

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
const stride = (messageOffset + vnetLen + MaxFrame + 4095) &^ 4095

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
	return m.mem[i*stride+messageOffset+vnetLen:][:MaxFrame:MaxFrame]
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
