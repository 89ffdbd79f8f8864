package xdp

import (
	"fmt"
	"syscall"
	"time"

	"github.com/gotpa/tpa/link"
	"golang.org/x/sys/unix"
)

// umem is the memory region of a link queue, cut into chunks of equal size. The
// address of a byte is its offset in mem. Chunks for sending come first, then
// those of each receive queue.
type umem struct {
	mem   []byte
	chunk int // bytes, halfPage or pageSize
	// metadata: frames to send may have a txMetadata in front (Linux 6.8). software
	// has the kernel sum up instead of the device, in copy mode alone: for tests.
	metadata, software bool
}

func newUmem(chunks, chunk int) (*umem, error) {
	mem, err := unix.Mmap(-1, 0, chunks*chunk, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %d chunks of %d bytes: %w", chunks, chunk, err)
	}
	return &umem{mem: mem, chunk: chunk}, nil
}

// maxFrame returns the longest frame that fits a chunk: the kernel keeps some room
// in front of those that arrive.
func (u *umem) maxFrame() int { return u.chunk - headroom }

// sendOffset is where in its chunk a frame to send begins: room for a txMetadata, and
// aligned as a cache line.
const sendOffset = 64

// register makes the memory the region of a socket. Kernels and drivers without
// metadata get it without.
func (u *umem) register(fd int) error {
	if u.metadata {
		flags := uint32(0)
		if u.software {
			flags = unix.XDP_UMEM_TX_SW_CSUM
		}
		// Before Linux 6.11 there is no flag for the length.
		err := registerMemory(fd, u, flags|unix.XDP_UMEM_TX_METADATA_LEN)
		if err != nil {
			err = registerMemory(fd, u, flags)
		}
		if err == nil {
			return nil
		}
		u.metadata = false
	}
	return registerMemory(fd, u, 0)
}

func (u *umem) free() { unix.Munmap(u.mem) }

// A socket has one receive queue of the interface.
type socket struct {
	fd    int
	queue int

	// Owned by the receiving goroutine.
	fill *ring[uint64]
	rx   *ring[unix.XDPDesc]
	// held are the chunks of the frames that the last Receive handed out.
	held   []uint64
	joiner joiner

	// Owned by the sending goroutine. tx is nil where the socket only receives.
	tx         *ring[unix.XDPDesc]
	completion *ring[uint64]
}

// openSocket opens the socket of a receive queue and gives it the chunks
// firstChunk and following to receive into. The first socket of a memory region
// sends, the others name it as shared. flags are those of bind.
func openSocket(cfg Config, ifindex, queue int, memory *umem, firstChunk int, shared *socket, flags uint16) (_ *socket, err error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	s := &socket{fd: fd, queue: queue, held: make([]uint64, 0, link.MaxBurst)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	address := &unix.SockaddrXDP{Ifindex: uint32(ifindex), QueueID: uint32(queue), Flags: flags}
	if shared == nil {
		if err := memory.register(fd); err != nil {
			return nil, fmt.Errorf("register %d bytes of memory: %w", len(memory.mem), err)
		}
	} else {
		// The mode is that of the first socket.
		address.Flags, address.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(shared.fd)
	}

	rings := []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING}
	if shared == nil {
		rings = append(rings, unix.XDP_TX_RING)
	}
	for _, r := range rings {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, r, cfg.RingSize); err != nil {
			return nil, fmt.Errorf("make a ring of %d entries: %w", cfg.RingSize, err)
		}
	}
	offsets, err := ringOffsets(fd)
	if err != nil {
		return nil, fmt.Errorf("ask for ring offsets: %w", err)
	}
	if s.fill, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_FILL_RING, offsets.Fr, cfg.RingSize); err != nil {
		return nil, err
	}
	if s.completion, err = mapRing[uint64](fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, offsets.Cr, cfg.RingSize); err != nil {
		return nil, err
	}
	if s.rx, err = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_RX_RING, offsets.Rx, cfg.RingSize); err != nil {
		return nil, err
	}
	if shared == nil {
		if s.tx, err = mapRing[unix.XDPDesc](fd, unix.XDP_PGOFF_TX_RING, offsets.Tx, cfg.RingSize); err != nil {
			return nil, err
		}
		// The most frames that one kick sends in copy mode: a whole burst in place of
		// 32. Before Linux 6.17 a burst takes several kicks.
		_ = unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, cfg.RingSize)
	}

	for i := range cfg.RingSize {
		s.fill.put(uint64((firstChunk + i) * memory.chunk))
	}
	s.fill.publish()
	if cfg.BusyPoll > 0 {
		if err := setBusyPoll(fd, cfg.BusyPoll); err != nil {
			return nil, fmt.Errorf("turn on busy polling: %w", err)
		}
	}
	// The kernel frees the queue of a closed socket later, in a work item that takes
	// its lock of network configuration (xp_release_deferred): within 1 ms, but
	// after seconds where many interfaces come and go.
	wait := bindTimeout
	if cfg.Place != nil {
		wait = placeTimeout
	}
	deadline := time.Now().Add(wait)
	for err = unix.Bind(fd, address); err == unix.EBUSY && time.Now().Before(deadline); err = unix.Bind(fd, address) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	return s, nil
}

// bindTimeout is how long to wait for a receive queue that another socket has. A
// live owner has a filter attached too, which is found first and not waited for.
const bindTimeout = 5 * time.Second

// placeTimeout is that for a queue that another process has just left: nobody else is
// going to take it, and the frames reach that process meanwhile.
const placeTimeout = 30 * time.Second

// setBusyPoll has empty receive calls run the driver's receive routine. Interrupts
// stay off between two calls only where they are deferred: see deferInterrupts.
func setBusyPoll(fd int, d time.Duration) error {
	for _, o := range []struct{ option, value int }{
		{unix.SO_PREFER_BUSY_POLL, 1},
		{unix.SO_BUSY_POLL, int(d.Microseconds())},
		{unix.SO_BUSY_POLL_BUDGET, 64},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.option, o.value); err != nil {
			return err
		}
	}
	return nil
}

// kickRx has the kernel look at the fill ring again, or, when busy polling, at
// the device.
func (s *socket) kickRx() syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// kickTx has the kernel send what the transmit ring holds: in copy mode within
// this call.
func (s *socket) kickTx() syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

func (s *socket) close() {
	unix.Close(s.fd)
	s.fill.unmap()
	s.completion.unmap()
	s.rx.unmap()
	s.tx.unmap()
}
