// Package link is the contract between a network device and what drives it: a
// device with its queues, bursts of Ethernet frames, and the optional interfaces
// by which a device says what else it can do.
//
// Packages below it implement it: link/dpdk, link/xdp and link/packet over real
// interfaces, link/memory between two stacks of one process. link/softnic and
// link/fault are a network card in software and a bad network, for tests.
//
// # Threads
//
// One goroutine receives from a queue. Sending needs a lock, which is up to the
// caller. Sending and receiving never wait for each other.
package link

import (
	"math/bits"
	"net"
	"time"
)

// MaxBurst is the most frames that one Receive returns or one Flush hands to a
// device in a single call across the language border. 64 keeps the frames of a
// burst inside the L1 and L2 caches and makes a 40 ns cgo call cost less than
// 1 ns per frame.
const MaxBurst = 64

// BurstBuckets is the number of sizes that statistics tell bursts apart by.
const BurstBuckets = 7

// BurstBucket returns the bucket of a burst of n frames, n > 0: bucket i is for
// 2^i to 2^(i+1)-1 frames, the last one for all that are larger.
func BurstBucket(n int) int { return min(bits.Len(uint(n))-1, BurstBuckets-1) }

// ChecksumStatus is what a device found when it checked the checksums of a frame.
type ChecksumStatus uint8

const (
	// Unchecked: the device did not look, software has to.
	Unchecked ChecksumStatus = iota
	// Good: the IPv4 header checksum (where there is one) and the transport
	// checksum are right.
	Good
	// Bad: one of them is wrong. The frame must be dropped and counted.
	Bad
	// Partial: the frame comes from this machine's kernel or the virtual machine's host,
	// which left the TCP checksum to a device that never came (CHECKSUM_PARTIAL). It is as
	// right as Good, but the field holds the sum of the pseudo-header: it has to be filled
	// in before anybody checks it.
	Partial
)

// Right tells whether there is nothing left to check.
func (s ChecksumStatus) Right() bool { return s == Good || s == Partial }

// A Frame is one received Ethernet frame.
type Frame struct {
	// Data runs from the destination MAC address to the last byte of the
	// payload, without the frame check sequence. It belongs to the queue and is
	// valid until the next Receive or Close of that queue. The receiver may
	// write to it.
	Data []byte
	// Checksum is what the device found.
	Checksum ChecksumStatus
}

// TxFlags says what the device is to fill in before a frame leaves.
type TxFlags uint8

const (
	// TxIPv4Checksum: compute the IPv4 header checksum. The field holds 0.
	TxIPv4Checksum TxFlags = 1 << iota
	// TxTCPChecksum: compute the TCP checksum. The field holds the sum of the
	// pseudo-header (not complemented; without the length when MSS is set), as
	// DPDK's RTE_MBUF_F_TX_TCP_CKSUM wants it.
	TxTCPChecksum
	// TxIPv6: the network header is IPv6, else IPv4.
	TxIPv6
)

// TxOffload describes one frame to a device. The zero value asks for nothing.
type TxOffload struct {
	Flags TxFlags
	// L2Len, L3Len and L4Len are header lengths in bytes. They are needed only
	// when Flags or MSS ask for something.
	L2Len, L3Len, L4Len uint8
	// MSS, when not 0, asks the device to cut the frame into TCP segments of at
	// most that many payload bytes. Only devices with Capabilities.TSO get it.
	MSS uint16
}

// A Queue is one receive ring and one transmit ring of a device.
//
// Receive may be called by one goroutine at a time, and so may the group of
// Reserve, Commit and Flush; the two groups may run at the same time. Stats may
// be called by anyone at any time. No method blocks.
type Queue interface {
	// Receive fills frames with up to min(len(frames), MaxBurst) received frames
	// and returns how many. It takes back the buffers handed out by the previous
	// call. 0 with a nil error means that nothing was there. After Close it
	// returns net.ErrClosed; any other error means that the device is gone for
	// good.
	//
	// Every frame is in one piece and between 14 bytes and Info.MaxFrame long:
	// what the device delivers otherwise (runts, chains that do not fit, lying
	// lengths) is dropped and counted in Stats.
	Receive(frames []Frame) (int, error)

	// Reserve returns a buffer of at least n bytes for one frame, or nil when no
	// transmit buffer is free: call Flush and try again later. n must not be
	// greater than Info.MaxFrame, or Capabilities.TSO where that is greater. Its
	// contents are undefined. A buffer that was reserved but not committed is
	// handed out again.
	Reserve(n int) []byte

	// Commit stages the first n bytes of the buffer that was last reserved.
	Commit(n int, tx TxOffload)

	// Flush hands the staged frames to the device, oldest first, and returns how
	// many stay staged because its ring is full. Frames are never dropped by
	// Flush, except after an error, when all staged frames are counted as
	// dropped. After Close it returns net.ErrClosed.
	Flush() (pending int, err error)

	// Stats returns the counters of the queue.
	Stats() QueueStats

	// Close gives every buffer back. The caller makes sure that none of the
	// other methods is running. Closing twice is harmless.
	Close() error
}

// A Waiter is a Queue whose reader can sleep until there is something to do.
// Queues without it are polled at growing intervals while idle.
type Waiter interface {
	// Wait blocks until a frame may have arrived, Wake was called since the last
	// Wait returned, the queue was closed, or timeout has passed (negative:
	// never). It may return early for no reason. Only the receiving goroutine
	// calls it.
	Wait(timeout time.Duration)
	// Wake ends the current Wait, or the next one. Anyone may call it.
	Wake()
}

// QueueStats are counters since the queue was opened.
type QueueStats struct {
	RxFrames, RxBytes uint64
	TxFrames, TxBytes uint64
	// RxMalformed counts frames dropped for their shape: too short, too long
	// for one buffer, chains that cannot be joined, lengths that do not add up.
	RxMalformed uint64
	// RxNoBuffer counts frames lost for want of a receive buffer.
	RxNoBuffer uint64
	// TxDropped counts staged frames that an error or Close prevented from
	// leaving.
	TxDropped uint64
	// TxFull counts Flush calls that found the device's ring full.
	TxFull uint64
}

// Add adds the counters of another queue.
func (s *QueueStats) Add(o QueueStats) {
	s.RxFrames += o.RxFrames
	s.RxBytes += o.RxBytes
	s.TxFrames += o.TxFrames
	s.TxBytes += o.TxBytes
	s.RxMalformed += o.RxMalformed
	s.RxNoBuffer += o.RxNoBuffer
	s.TxDropped += o.TxDropped
	s.TxFull += o.TxFull
}

// Capabilities are what a device can take off the processor.
type Capabilities struct {
	// RxChecksum: the device sets Frame.Checksum.
	RxChecksum bool
	// TxIPv4Checksum and TxTCPChecksum: the TxFlags of that name are honoured.
	TxIPv4Checksum, TxTCPChecksum bool
	// NoChecksum: segments come and go without TCP checksums, as their memory is shared
	// with the peer. Frames are Good then whatever their checksums say.
	NoChecksum bool
	// TSO is the greatest frame in bytes that the device cuts into segments, 0
	// when it cannot.
	TSO int
}

// Info describes a device. It does not change while the device is open, except
// where a method of Device says so.
type Info struct {
	// Name is the interface's or port's name, Driver the driver's.
	Name, Driver string
	// HardwareAddr is the device's MAC address, 6 bytes.
	HardwareAddr net.HardwareAddr
	// MTU is the greatest IP packet in bytes, MaxFrame the greatest frame
	// (MTU + 14, more where the device accepts VLAN tags).
	MTU, MaxFrame int
	// Queues is the number of queues, at least 1.
	Queues int
	// RxRing is how many frames wait in each queue for Receive at most: those that come
	// when as many do are lost, and TCP keeps its windows small enough. 0: the sender
	// waits, or nobody knows.
	RxRing int
	// Mode says for people how a kernel interface is used: "XDP native,
	// zero-copy". It is empty for devices that can be used in one way only.
	Mode string
	// QueueModes says for people how each queue is used, and why no better: "copy:
	// the driver has no zero-copy mode". It is nil for devices whose queues can be
	// used in one way only.
	QueueModes []string
	// NUMANode is the node the device hangs off, -1 when unknown.
	NUMANode int
	Capabilities
}

// A Device is a network device with its queues. All methods may be called at
// any time by anyone.
type Device interface {
	// Info describes the device.
	Info() Info
	// Queue returns queue i, 0 <= i < Info().Queues: the same one each time.
	Queue(i int) Queue
	// LinkUp tells whether there is a carrier.
	LinkUp() bool
	// Stats returns the counters of the whole device. It may be slow and must
	// not be called by a poller.
	Stats() DeviceStats
	// Close closes the queues and gives the device back. The caller makes sure
	// that no queue is in use. Closing twice is harmless.
	Close() error
}

// DeviceStats are counters of a whole device since it was opened.
type DeviceStats struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	// RxMissed counts frames that the device dropped because its rings were
	// full, RxNoBuffer those lost for want of a buffer.
	RxMissed, RxNoBuffer uint64
	RxErrors, TxErrors   uint64
	// LinkSpeed is in bits per second, 0 when there is no link, or nobody knows.
	LinkSpeed uint64
	// BuffersInUse and BuffersTotal are packet buffers (mbufs, UMEM chunks) of
	// all pools. In use includes those that wait in receive rings.
	BuffersInUse, BuffersTotal int
	// Extended holds the driver's own counters by name; nil where there are none. The
	// map is not to be written to: later results may share it. Those of an interface of
	// the kernel's are up to a second old.
	Extended map[string]uint64
}

// AddQueue adds what a queue has received, sent, and lost for want of a buffer.
func (s *DeviceStats) AddQueue(q QueueStats) {
	s.RxPackets += q.RxFrames
	s.RxBytes += q.RxBytes
	s.TxPackets += q.TxFrames
	s.TxBytes += q.TxBytes
	s.RxNoBuffer += q.RxNoBuffer
}

// RSS is how a device spreads flows over its queues.
type RSS struct {
	// Key is the Toeplitz key, 40 or 52 bytes.
	Key []byte
	// Table is the redirection table (RETA): the queue for each value of the
	// hash's low bits. Its length is a power of two.
	Table []uint16
}

// A Steerer is a Device that can send TCP segments to a queue by rule, past its
// RSS.
type Steerer interface {
	// Steer makes segments whose destination port equals port in the bits of mask
	// arrive on a queue, until the device is closed.
	Steer(port, mask uint16, queue int) error
}

// A Spreader is a Device that can tell, and perhaps set, its RSS. Devices
// without it, or that answer an error, spread flows in an unknown way.
type Spreader interface {
	RSS() (RSS, error)
	SetRSS(RSS) error
}
