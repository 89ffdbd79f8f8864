// Package packetsocket sends frames through a packet socket (AF_PACKET): a burst
// with one system call, by the kernel's usual way out. The kernel, or the device,
// fills in TCP checksums and cuts large segments.
//
// One goroutine at a time sends. Stats may be called by anyone.
package packetsocket

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
	"golang.org/x/sys/unix"
)

// MaxFrame is the greatest frame that the kernel cuts or joins, in bytes.
const MaxFrame = 14 + 65535

// A Sender is the sending half of a link.Queue.
type Sender struct {
	fd   int
	gone error
	// Messages from first up to last are staged.
	messages    *messages
	first, last int
	lost        error // why nothing can be sent any more

	frames, bytes, dropped, full atomic.Uint64
}

// Open opens a socket that sends on an interface. gone is the error of a Flush
// after the interface is no more.
func Open(ifindex int, gone error) (_ *Sender, err error) {
	s := &Sender{fd: -1, gone: gone}
	defer func() {
		if err != nil {
			s.free()
		}
	}()
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return nil, fmt.Errorf("set PACKET_VNET_HDR: %w", err)
	}
	// Not more than net.core.wmem_max without CAP_NET_ADMIN.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20)
	}
	// Protocol 0: it receives nothing.
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if s.messages, err = newMessages(link.MaxBurst); err != nil {
		return nil, err
	}
	return s, nil
}

// Reserve does what link.Queue says, for frames of up to MaxFrame bytes.
func (s *Sender) Reserve(n int) []byte {
	if s.lost != nil || s.last == len(s.messages.headers) || n > MaxFrame {
		return nil
	}
	return s.messages.frame(s.last)
}

// Commit does what link.Queue says.
func (s *Sender) Commit(n int, tx link.TxOffload) {
	var h vnetHeader
	if tx.Flags&link.TxTCPChecksum != 0 {
		tcp := int(tx.L2Len) + int(tx.L3Len)
		h.flags, h.csumStart, h.csumOffset = vnetNeedsChecksum, uint16(tcp), 16
		if tx.MSS != 0 {
			h.gsoType = vnetTCPv4
			if tx.Flags&link.TxIPv6 != 0 {
				h.gsoType = vnetTCPv6
			}
			h.gsoSize, h.headerLen = tx.MSS, uint16(tcp)+uint16(tx.L4Len)
			// The kernel wants the length in the sum of the pseudo-header.
			sum := s.messages.frame(s.last)[tcp+16:]
			binary.BigEndian.PutUint16(sum, checksum.Combine(binary.BigEndian.Uint16(sum), uint16(n-tcp)))
		}
	}
	s.messages.set(s.last, n, h)
	s.last++
}

// Flush does what link.Queue says. What the interface does not take is lost and
// counted, as the kernel counts its own: when it is down, or its queueing
// discipline says so.
func (s *Sender) Flush() (pending int, err error) {
	for s.first < s.last && s.lost == nil {
		n, errno := s.messages.send(s.fd, s.first, s.last)
		for ; n > 0; n-- {
			s.frames.Add(1)
			s.bytes.Add(uint64(s.messages.size(s.first)))
			s.first++
		}
		switch errno {
		case 0, syscall.EINTR:
		case syscall.EAGAIN:
			s.full.Add(1)
			return s.last - s.first, nil
		case syscall.ENXIO, syscall.ENODEV:
			s.dropped.Add(uint64(s.last - s.first))
			s.lost = s.gone
		default:
			s.dropped.Add(1)
			s.first++
		}
	}
	s.first, s.last = 0, 0
	return 0, s.lost
}

// Stats fills in the counters of sent frames.
func (s *Sender) Stats(st *link.QueueStats) {
	st.TxFrames, st.TxBytes = s.frames.Load(), s.bytes.Load()
	st.TxDropped, st.TxFull = s.dropped.Load(), s.full.Load()
}

// Close closes the socket. What is staged is dropped and counted. Closing twice is
// harmless.
func (s *Sender) Close() error {
	if s.lost == nil {
		s.dropped.Add(uint64(s.last - s.first))
		s.lost = net.ErrClosed
	}
	return s.free()
}

func (s *Sender) free() (err error) {
	if s.fd >= 0 {
		err = unix.Close(s.fd)
	}
	s.messages.free()
	s.fd, s.messages = -1, nil
	return err
}
