package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/packetsocket"
	"github.com/gotpa/tpa/link/internal/sleeper"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// livenessPolls is how many empty receive calls pass between two looks whether
// the interface still is there.
const livenessPolls = 4096

// A Queue is a packet socket that receives and one that sends.
type Queue struct {
	name    string // of the interface
	rx      int
	ring    *ring
	sleeper *sleeper.Sleeper
	closed  atomic.Bool

	_ [64]byte

	// Owned by the receiving goroutine.
	position   uint32   // of the next slot
	held       uint32   // slots before it that hold the previous burst
	large      [][]byte // for frames that do not fit a slot
	emptyPolls int
	gone       error
	rxFrames   atomic.Uint64
	rxBytes    atomic.Uint64
	rxShape    atomic.Uint64
	rxHeld     atomic.Int32 // held, for others

	_ [64]byte

	out *packetsocket.Sender // the sending goroutine's

	_ [64]byte

	// mu guards the sockets against Stats during Close, and the following fields.
	mu    sync.Mutex
	drops uint64 // of the receiving socket
	final link.QueueStats
}

var (
	_ link.Queue  = (*Queue)(nil)
	_ link.Waiter = (*Queue)(nil)
)

// slotSize returns the size of slots for frames of an MTU. The kernel's header
// takes less than 128 bytes.
func slotSize(mtu int) int {
	size := 2048
	for size < 128+headerLen+mtu && size < 16384 {
		size *= 2
	}
	return size
}

// OpenQueue opens the sockets alone, for a filter that is attached already, of which tap
// is the descriptor of the socket filter. They receive into a ring of as many frames as
// Config.RingSize says by default.
func OpenQueue(name string, tap int) (*Queue, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, bpf.NoInterface(name, err)
	}
	q, err := openQueue(l.Attrs(), tap, 0)
	if err != nil {
		return nil, errSocket(name, err)
	}
	return q, nil
}

func openQueue(attrs *netlink.LinkAttrs, tap, ringSize int) (_ *Queue, err error) {
	q := &Queue{name: attrs.Name, rx: -1}
	defer func() {
		if err != nil {
			q.abandon()
		}
	}()
	if q.rx, err = socket(); err != nil {
		return nil, err
	}
	for _, o := range []struct {
		name                 string
		level, option, value int
	}{
		{"TPACKET_V2", unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		// What does not fit a slot is read from the socket instead.
		{"PACKET_COPY_THRESH", unix.SOL_PACKET, unix.PACKET_COPY_THRESH, 1},
		{"SO_ATTACH_BPF", unix.SOL_SOCKET, unix.SO_ATTACH_BPF, tap},
	} {
		if err := unix.SetsockoptInt(q.rx, o.level, o.option, o.value); err != nil {
			return nil, fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	// Not more than net.core.rmem_max without CAP_NET_ADMIN.
	if unix.SetsockoptInt(q.rx, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil {
		_ = unix.SetsockoptInt(q.rx, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	}
	slot := slotSize(attrs.MTU)
	if ringSize == 0 {
		ringSize = min(max(ringMemory/slot, leastRing), mostRing)
	}
	if q.ring, err = mapRing(q.rx, ringSize, slot); err != nil {
		return nil, err
	}
	// Receives from here on.
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(q.rx, &unix.SockaddrLinklayer{Protocol: all, Ifindex: attrs.Index}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if q.sleeper, err = sleeper.New([]int{q.rx}, func() bool { return q.ring.at(q.position).status()&unix.TP_STATUS_USER != 0 }); err != nil {
		return nil, err
	}

	if q.out, err = packetsocket.Open(attrs.Index, bpf.Gone(attrs.Name, "packet")); err != nil {
		return nil, err
	}
	return q, nil
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}

// Receive implements link.Queue.
func (q *Queue) Receive(frames []link.Frame) (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	for ; q.held > 0; q.held-- {
		q.ring.at(q.position - q.held).free()
	}
	n, large, bytes := 0, 0, 0
	for n < min(len(frames), link.MaxBurst) && int(q.held) < link.MaxBurst {
		s := q.ring.at(q.position)
		status := s.status()
		if status&unix.TP_STATUS_USER == 0 {
			break
		}
		q.position++
		q.held++
		f := link.Frame{Checksum: link.Unchecked}
		switch from, to := int(s.header.Mac), int(s.header.Mac)+int(s.header.Snaplen); {
		case status&unix.TP_STATUS_COPY != 0:
			f.Data = q.receiveLarge(large)
			large++
		case s.header.Snaplen == s.header.Len && to <= len(s.bytes):
			f.Data = s.bytes[from:to:to]
		}
		if len(f.Data) < headerLen {
			q.rxShape.Add(1)
			continue
		}
		switch {
		case status&unix.TP_STATUS_CSUMNOTREADY != 0:
			// Its sender left the checksum to a device that never came.
			if offload.Partial(f.Data) {
				f.Checksum = link.Partial
			}
		case status&unix.TP_STATUS_CSUM_VALID != 0 && goodHeader(f.Data):
			// The device has checked TCP's checksum, not the header's.
			f.Checksum = link.Good
		}
		frames[n] = f
		bytes += len(f.Data)
		n++
	}
	q.rxHeld.Store(int32(q.held))
	if n == 0 {
		return 0, q.idle()
	}
	q.emptyPolls = 0
	q.rxFrames.Add(uint64(n))
	q.rxBytes.Add(uint64(bytes))
	return n, nil
}

// receiveLarge reads the i-th frame of a burst that did not fit its slot.
func (q *Queue) receiveLarge(i int) []byte {
	if i == len(q.large) {
		q.large = append(q.large, make([]byte, maxFrame))
	}
	n, errno := receive(q.rx, q.large[i])
	if errno != 0 || n > maxFrame {
		return nil
	}
	return q.large[i][:n]
}

// goodHeader tells whether an IP header has the right checksum. IPv6 has none.
func goodHeader(frame []byte) bool {
	if len(frame) < headerLen+20 || frame[12] != 0x08 {
		return true
	}
	return checksum.Sum(frame[headerLen:headerLen+20], 0) == 0xffff
}

// idle does what is due when nothing was there.
func (q *Queue) idle() error {
	if q.gone != nil {
		return q.gone
	}
	if q.emptyPolls++; q.emptyPolls%livenessPolls != 0 {
		return nil
	}
	// Takes back the error that says the interface was set down: poll would report
	// it again and again.
	_, _ = unix.GetsockoptInt(q.rx, unix.SOL_SOCKET, unix.SO_ERROR)
	at, err := unix.Getsockname(q.rx)
	if ll, ok := at.(*unix.SockaddrLinklayer); err == nil && ok && ll.Ifindex <= 0 {
		q.gone = bpf.Gone(q.name, "packet")
	}
	return q.gone
}

// Reserve implements link.Queue.
func (q *Queue) Reserve(n int) []byte { return q.out.Reserve(n) }

// Commit implements link.Queue.
func (q *Queue) Commit(n int, tx link.TxOffload) { q.out.Commit(n, tx) }

// Flush implements link.Queue. What the interface does not take is lost and
// counted, as the kernel counts its own: when it is down, or its queueing
// discipline says so.
func (q *Queue) Flush() (pending int, err error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	return q.out.Flush()
}

// Wait implements link.Waiter.
func (q *Queue) Wait(timeout time.Duration) {
	q.sleeper.Wait(timeout)
	q.emptyPolls = livenessPolls - 1 // look at once whether the interface still is there
}

// Wake implements link.Waiter.
func (q *Queue) Wake() { q.sleeper.Wake() }

// Stats implements link.Queue.
func (q *Queue) Stats() link.QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.statsLocked()
}

func (q *Queue) statsLocked() link.QueueStats {
	if q.closed.Load() {
		return q.final
	}
	if s, err := statistics(q.rx); err == nil {
		q.drops += uint64(s.Drops)
	}
	st := link.QueueStats{
		RxFrames:    q.rxFrames.Load(),
		RxBytes:     q.rxBytes.Load(),
		RxMalformed: q.rxShape.Load(),
		RxNoBuffer:  q.drops,
	}
	q.out.Stats(&st)
	return st
}

// buffers returns how many frames the receive ring holds at most, and how many of
// them the receiver has.
func (q *Queue) buffers() (total, inUse int) {
	return int(q.ring.mask) + 1, int(q.rxHeld.Load())
}

// Close implements link.Queue.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed.Load() {
		return nil
	}
	err := q.out.Close()
	q.final = q.statsLocked()
	q.closed.Store(true)
	q.Wake()
	return errors.Join(err, q.abandon())
}

// abandon frees what there is of a queue.
func (q *Queue) abandon() (err error) {
	if q.sleeper != nil {
		q.sleeper.Close()
	}
	if q.out != nil {
		err = q.out.Close()
	}
	if q.rx >= 0 {
		err = errors.Join(err, unix.Close(q.rx))
	}
	q.ring.unmap()
	return err
}
