package xdp

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/internal/packetsocket"
	"golang.org/x/sys/unix"
)

// livenessPolls is how many empty receive calls pass between two looks whether
// the interface still is there: one system call of 0.2 µs in 20 µs or more.
const livenessPolls = 4096

// A Queue is the sockets of one or more receive queues around one memory region.
// The first socket sends in zero-copy mode. In copy mode it could do nothing that a
// packet socket cannot, which also has the kernel sum up and cut.
type Queue struct {
	name     string // of the interface
	memory   *umem
	sockets  []*socket
	zeroCopy bool
	copies   string // why it is not zero-copy
	// fragments: frames may arrive in several chunks.
	fragments bool
	// busyPoll: an empty receive call polls the device; notPolled is why not. So does
	// sleeper, unless sleepsUnpolled says why not.
	busyPoll                  bool
	notPolled, sleepsUnpolled error
	sleeper                   waiter
	closed                    atomic.Bool

	_ [64]byte

	// Owned by the receiving goroutine.
	turn       int // the socket to look at first
	emptyPolls int
	gone       error
	rxFrames   atomic.Uint64
	rxBytes    atomic.Uint64
	rxShape    atomic.Uint64

	_ [64]byte

	// Owned by the sending goroutine.
	out       *packetsocket.Sender // nil in zero-copy mode, in which the rest is used
	free      []uint64             // chunks to send from; Reserve hands out the last one
	counted   uint32               // position in the transmit ring up to which frames are counted
	lost      error                // why nothing can be sent any more
	txFrames  atomic.Uint64
	txBytes   atomic.Uint64
	txDropped atomic.Uint64
	txFull    atomic.Uint64
	txFree    atomic.Int32 // len(free) after the last Flush

	_ [64]byte

	// mu guards the sockets against Stats during Close, and the following fields.
	mu    sync.Mutex
	final link.QueueStats
}

var (
	_ link.Queue  = (*Queue)(nil)
	_ link.Waiter = (*Queue)(nil)
)

// tcpChecksumOffset is where a TCP header has its checksum, in bytes.
const tcpChecksumOffset = 16

// mode describes for people how the queue gets at frames, and why it does no better.
func (q *Queue) mode() string {
	if q.zeroCopy {
		s := fmt.Sprintf("zero-copy, chunks of %d bytes", q.memory.chunk)
		if q.memory.metadata {
			s += ", the device sums up"
		}
		return s
	}
	return "copy: " + q.copies
}

// maxFrame returns the longest frame that can be received and sent.
func (q *Queue) maxFrame() int {
	if q.fragments && q.out != nil {
		return packetsocket.MaxFrame
	}
	return q.memory.maxFrame()
}

// Receive implements link.Queue.
func (q *Queue) Receive(frames []link.Frame) (int, error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	frames = frames[:min(len(frames), link.MaxBurst)]
	n := 0
	for i := range q.sockets {
		s := q.sockets[(q.turn+i)%len(q.sockets)]
		s.refill()
		n += q.receive(s, frames[n:])
	}
	q.turn++
	if n == 0 {
		return 0, q.idle()
	}
	q.emptyPolls = 0
	return n, nil
}

// refill returns the chunks of the previous burst to the kernel.
func (s *socket) refill() {
	if len(s.held) == 0 {
		return
	}
	for _, addr := range s.held {
		s.fill.put(addr) // there is room: the ring has as many entries as chunks
	}
	s.fill.publish()
	s.held = s.held[:0]
}

func (q *Queue) receive(s *socket, frames []link.Frame) int {
	available := min(int(s.rx.available()), len(frames))
	if available == 0 {
		return 0
	}
	n, bytes := 0, 0
	s.joiner.begin()
	for range available {
		d := s.rx.get()
		// The address of the chunk; the kernel left room in front of the frame.
		s.held = append(s.held, d.Addr&^uint64(q.memory.chunk-1))
		end := d.Addr + uint64(d.Len)
		sound := end <= uint64(len(q.memory.mem))
		var data []byte
		if sound {
			data = q.memory.mem[d.Addr:end:end]
		}
		if more := d.Options&unix.XDP_PKT_CONTD != 0; more || s.joiner.joining {
			if data, sound = s.joiner.join(data, more, sound); more {
				continue
			}
		}
		if !sound || len(data) < link.EthernetHeaderLen {
			q.rxShape.Add(1)
			continue
		}
		frames[n].Data = data
		frames[n].Checksum = link.Unchecked
		if !q.zeroCopy && offload.Partial(data) {
			frames[n].Checksum = link.Partial
		}
		bytes += len(data)
		n++
	}
	s.rx.release()
	q.rxFrames.Add(uint64(n))
	q.rxBytes.Add(uint64(bytes))
	return n
}

// idle does what is due when nothing was there.
func (q *Queue) idle() error {
	if q.gone != nil {
		return q.gone
	}
	q.emptyPolls++
	look := q.emptyPolls%livenessPolls == 0
	for _, s := range q.sockets {
		if !look && !q.busyPoll && !s.fill.needWakeup() {
			continue
		}
		// ENXIO: the kernel has taken the socket off its interface. Other errors
		// pass: ENETDOWN goes when the interface is up again.
		if s.kickRx() == syscall.ENXIO {
			q.gone = bpf.Gone(q.name, "xdp")
			return q.gone
		}
	}
	return nil
}

// Reserve implements link.Queue.
func (q *Queue) Reserve(n int) []byte {
	if q.out != nil {
		return q.out.Reserve(n)
	}
	if len(q.free) == 0 {
		q.reclaim()
	}
	if len(q.free) == 0 || n > q.memory.maxFrame() || q.lost != nil {
		return nil
	}
	addr := q.free[len(q.free)-1]
	end := addr + uint64(q.memory.chunk)
	return q.memory.mem[addr+sendOffset : end : end]
}

// Commit implements link.Queue.
func (q *Queue) Commit(n int, tx link.TxOffload) {
	if q.out != nil {
		q.out.Commit(n, tx)
		return
	}
	last := len(q.free) - 1
	// There is room: the ring has as many entries as there are chunks.
	d := unix.XDPDesc{Addr: q.free[last] + sendOffset, Len: uint32(n)}
	if tx.Flags&link.TxTCPChecksum != 0 {
		askChecksum(q.memory.mem, d.Addr, uint16(tx.L2Len)+uint16(tx.L3Len), tcpChecksumOffset)
		d.Options = unix.XDP_TX_METADATA
	}
	q.sockets[0].tx.put(d)
	q.free = q.free[:last]
}

// Flush implements link.Queue. Pending are frames that the kernel has not taken
// and will not take without another Flush. While the interface is down, frames
// stay in the transmit ring and are not pending: the first Flush after it is up
// again sends them.
func (q *Queue) Flush() (pending int, err error) {
	if q.closed.Load() {
		return 0, net.ErrClosed
	}
	if q.out != nil {
		return q.out.Flush()
	}
	if q.lost != nil {
		return 0, q.lost
	}
	s := q.sockets[0]
	s.tx.publish()
	for s.tx.taken() != s.tx.position && s.tx.needWakeup() {
		before := s.tx.taken()
		errno := s.kickTx()
		if errno == 0 && q.zeroCopy || errno == syscall.ENETDOWN {
			break
		}
		left := int(s.tx.position - s.tx.taken())
		if errno == syscall.ENXIO {
			// The kernel has taken the socket off its interface.
			q.lost = bpf.Gone(q.name, "xdp")
			q.txDropped.Add(uint64(left))
			break
		}
		if s.tx.taken() == before {
			pending = left
			q.txFull.Add(1)
			break
		}
		// The kernel sends a limited number of frames at a time: go on.
	}
	q.reclaim()
	q.txFree.Store(int32(len(q.free)))
	return pending, q.lost
}

// reclaim takes back the chunks of frames that have left, and counts the frames.
func (q *Queue) reclaim() {
	tx, completion := q.sockets[0].tx, q.sockets[0].completion
	frames, bytes := 0, 0
	for taken := tx.taken(); q.counted != taken; q.counted++ {
		frames++
		bytes += int(tx.at(q.counted).Len)
	}
	if frames > 0 {
		q.txFrames.Add(uint64(frames))
		q.txBytes.Add(uint64(bytes))
	}
	if n := completion.available(); n > 0 {
		for range n {
			q.free = append(q.free, completion.get()&^uint64(q.memory.chunk-1))
		}
		completion.release()
	}
}

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
	st := link.QueueStats{
		RxFrames:    q.rxFrames.Load(),
		RxBytes:     q.rxBytes.Load(),
		RxMalformed: q.rxShape.Load(),
		TxFrames:    q.txFrames.Load(),
		TxBytes:     q.txBytes.Load(),
		TxDropped:   q.txDropped.Load(),
		TxFull:      q.txFull.Load(),
	}
	if q.out != nil {
		q.out.Stats(&st)
	}
	for _, s := range q.sockets {
		k, err := statistics(s.fd)
		if err != nil {
			continue
		}
		st.RxNoBuffer += k.Rx_ring_full
		if q.zeroCopy {
			// The driver drops for want of chunks, and counts by its own rules.
			st.RxMalformed += k.Rx_dropped
			continue
		}
		// In copy mode the kernel drops a frame when the fill ring is empty, counted
		// in both, or when a chunk is too small for it.
		st.RxNoBuffer += min(k.Rx_fill_ring_empty_descs, k.Rx_dropped)
		st.RxMalformed += k.Rx_dropped - min(k.Rx_fill_ring_empty_descs, k.Rx_dropped)
	}
	return st
}

// chunks returns how many chunks the queue has, and how many of them are neither
// free nor, after Close, gone.
func (q *Queue) chunks() (total, inUse int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed.Load() {
		return 0, 0
	}
	total = len(q.memory.mem) / q.memory.chunk
	return total, total - int(q.txFree.Load())
}

// Close implements link.Queue.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed.Load() {
		return nil
	}
	if q.out != nil {
		q.out.Close()
	} else if tx := q.sockets[0].tx; q.lost == nil {
		q.txDropped.Add(uint64(tx.position - tx.taken()))
	}
	q.final = q.statsLocked()
	q.closed.Store(true)
	q.Wake()
	q.abandon()
	return nil
}

// abandon frees what there is of a queue.
func (q *Queue) abandon() {
	if q.sleeper != nil {
		q.sleeper.Close()
	}
	if q.out != nil {
		q.out.Close()
	}
	for _, s := range q.sockets {
		s.close()
	}
	if q.memory != nil {
		q.memory.free()
	}
}
