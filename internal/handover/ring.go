package handover

import (
	"sync/atomic"

	"github.com/gotpa/tpa/link"
)

// cacheLine keeps what two processors write apart. 128 bytes: current
// processors fetch lines in pairs.
const cacheLine = 128

// A ring carries frames from one shard to another. One goroutine produces, one
// consumes. Positions only grow; a position's slot is its low bits.
//
// The producer writes a slot, then stores tail; the consumer loads tail, then
// reads the slot, and stores head when it has done with it; the producer loads
// head before it writes the slot again. So no slot is ever touched by both.
type ring struct {
	slots []slot
	mask  uint64

	_ [cacheLine]byte
	// Owned by the producer.
	write    uint64 // next slot to fill; tail follows at publish
	headSeen uint64 // head when last looked at
	_        [cacheLine]byte
	tail     atomic.Uint64 // end of what the consumer may read

	_ [cacheLine]byte
	// Owned by the consumer.
	read     uint64 // next slot to hand out; head follows at release
	tailSeen uint64 // tail when last looked at
	_        [cacheLine]byte
	head     atomic.Uint64 // end of what the producer may fill again
	_        [cacheLine]byte
}

type slot struct {
	buf []byte
	// frame is what was pushed: in buf, or in memory of its own when it is longer.
	frame    []byte
	checksum link.ChecksumStatus
}

func newRing(slots, frame int) *ring {
	r := &ring{slots: make([]slot, slots), mask: uint64(slots - 1)}
	memory := make([]byte, slots*frame)
	for i := range r.slots {
		r.slots[i].buf, memory = memory[:frame:frame], memory[frame:]
	}
	return r
}

// push copies a frame into the next slot. It returns false when there is none.
func (r *ring) push(f link.Frame) bool {
	if r.write-r.headSeen == uint64(len(r.slots)) {
		if r.headSeen = r.head.Load(); r.write-r.headSeen == uint64(len(r.slots)) {
			return false
		}
	}
	s := &r.slots[r.write&r.mask]
	s.frame, s.checksum = append(s.buf[:0:len(s.buf)], f.Data...), f.Checksum
	r.write++
	return true
}

// publish lets the consumer see what was pushed.
func (r *ring) publish() { r.tail.Store(r.write) }

// pop fills frames with the oldest ones and returns how many. They are the
// consumer's until release.
func (r *ring) pop(frames []link.Frame) int {
	if r.tailSeen-r.read < uint64(len(frames)) {
		r.tailSeen = r.tail.Load()
	}
	n := int(min(r.tailSeen-r.read, uint64(len(frames))))
	for i := range n {
		s := &r.slots[r.read&r.mask]
		frames[i] = link.Frame{Data: s.frame, Checksum: s.checksum}
		r.read++
	}
	return n
}

// release gives the slots of popped frames back to the producer.
func (r *ring) release() {
	if r.head.Load() != r.read {
		r.head.Store(r.read)
	}
}
