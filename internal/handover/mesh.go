// Package handover brings frames that arrived on the wrong queue to the shard
// that owns their flow: after a change of the device's RSS, when its key is
// unknown, and for what a device spreads by address alone, such as fragments
// and ICMP errors.
//
// A Mesh joins all shards by one bounded ring per pair. The poller of a shard
// pushes foreign frames while it works through a burst and flushes once at the
// end of it, which wakes each owner at most once. The owner receives them as it
// receives from its own queue. Frames of one pair stay in order. A frame that
// finds its ring full is dropped and counted, as a device does, and TCP sends it
// again.
//
// Rings are made when their first frame comes: with a known key there is none,
// and no memory is spent.
package handover

import (
	"fmt"
	"sync/atomic"

	"github.com/gotpa/tpa/link"
)

// A Mesh is the rings between all shards of a runtime.
type Mesh struct {
	ports []Port
	slots int
	frame int
}

// New returns a mesh of that many shards. Each ring holds slots frames, a power
// of two. Room for frame bytes each is kept; longer ones, such as segments put
// together from fragments, get memory of their own. wake is called, by the flushing goroutine,
// for each owner that a Flush gave frames to; it must not block.
func New(shards, slots, frame int, wake func(owner int)) (*Mesh, error) {
	if shards < 1 || slots < 1 || slots&(slots-1) != 0 || frame < 1 {
		return nil, fmt.Errorf("hand-over of %d shards, %d slots of %d bytes: want at least one of each and a power of two of slots", shards, slots, frame)
	}
	m := &Mesh{ports: make([]Port, shards), slots: slots, frame: frame}
	for i := range m.ports {
		p := &m.ports[i]
		p.mesh, p.index, p.wake = m, i, wake
		p.from = make([]atomic.Pointer[ring], shards)
		p.pushed = make([]bool, shards)
	}
	return m, nil
}

// Port returns the place of shard i in the mesh.
func (m *Mesh) Port(i int) *Port { return &m.ports[i] }

// A Port is one shard's place in a mesh. Only the shard's poller may call it,
// except for Stats.
type Port struct {
	mesh  *Mesh
	index int
	wake  func(owner int)

	// Owned by this shard's poller.
	pushed []bool // by owner: frames wait for Flush
	dirty  bool   // any of pushed is set
	next   int    // producer to receive from first
	lent   bool   // frames are out since the last Receive

	sent, full, received atomic.Uint64

	_ [cacheLine]byte
	// from[i] is the ring from shard i to this one, made and stored by shard i.
	from []atomic.Pointer[ring]
	// arrived is set by producers after they published.
	arrived atomic.Bool
	_       [cacheLine]byte
}

// Push copies a frame into the ring to its owner, where it waits for Flush. It
// returns false when the frame was dropped, because the ring is full.
func (p *Port) Push(owner int, f link.Frame) bool {
	r := p.mesh.ports[owner].from[p.index].Load()
	if r == nil {
		r = newRing(p.mesh.slots, p.mesh.frame)
		p.mesh.ports[owner].from[p.index].Store(r)
	}
	if !r.push(f) {
		p.full.Add(1)
		return false
	}
	p.pushed[owner], p.dirty = true, true
	p.sent.Add(1)
	return true
}

// Flush shows the pushed frames to their owners and wakes them. Without any it
// costs one comparison.
func (p *Port) Flush() {
	if !p.dirty {
		return
	}
	p.dirty = false
	for owner, pushed := range p.pushed {
		if !pushed {
			continue
		}
		p.pushed[owner] = false
		o := &p.mesh.ports[owner]
		o.from[p.index].Load().publish()
		o.arrived.Store(true)
		p.wake(owner)
	}
}

// Receive fills frames with those that other shards handed over and returns how
// many. They are valid until the next Receive, as those of link.Queue are.
// Without any it costs one load.
func (p *Port) Receive(frames []link.Frame) int {
	if p.lent {
		p.lent = false
		for i := range p.from {
			if r := p.from[i].Load(); r != nil {
				r.release()
			}
		}
	}
	if !p.arrived.Load() {
		return 0
	}
	// Cleared before the rings are looked at: what is published after the look
	// sets it again.
	p.arrived.Store(false)
	n := 0
	for range p.from {
		if r := p.from[p.next].Load(); r != nil {
			n += r.pop(frames[n:])
			if n == len(frames) {
				// There may be more, here or further on. The next call starts with
				// another producer, so that a busy one does not starve the rest.
				p.arrived.Store(true)
			}
		}
		if p.next++; p.next == len(p.from) {
			p.next = 0
		}
		if n == len(frames) {
			break
		}
	}
	p.lent = n > 0
	p.received.Add(uint64(n))
	return n
}

// Waiting tells whether there may be frames for Receive. It may be called after
// the shard has said that it goes to sleep: frames that it does not see then are
// followed by a wake.
func (p *Port) Waiting() bool { return p.arrived.Load() }

// Stats are counters of frames since the mesh was made.
type Stats struct {
	// Sent counts frames that arrived on this shard's queue and were handed over,
	// Full those dropped because the ring to their owner was full.
	Sent, Full uint64
	// Received counts frames that other shards handed to this one.
	Received uint64
}

// Stats returns the counters of the shard. Anyone may call it at any time.
func (p *Port) Stats() Stats {
	return Stats{Sent: p.sent.Load(), Full: p.full.Load(), Received: p.received.Load()}
}
