package rss

import (
	"fmt"
	"net/netip"
	"sync/atomic"
)

// cursors is the number of places that Ports remembers. More destinations than
// that share places, which only makes searches start at odd points.
const cursors = 1024

// Ports finds local ports for outbound connections such that the replies arrive
// on a wanted queue.
//
// It follows RFC 6056, algorithm 4: searches towards one destination go on where
// the last one stopped, so that ports are used in turn and a port just closed is
// tried last, and each place starts at a random point, so that who sees the
// ports towards one destination does not know those towards another. Any
// goroutine may search; two searches at the same time may find the same port.
type Ports struct {
	first, count uint32
	cursor       [cursors]atomic.Uint32 // offset from first, below count
}

// NewPorts returns a finder for the ports first to last. random supplies the
// starting points: math/rand/v2.Uint32, or a seeded source in simulations.
func NewPorts(first, last uint16, random func() uint32) (*Ports, error) {
	if first == 0 || first > last {
		return nil, fmt.Errorf("ports %d to %d: want a range within 1 to 65535", first, last)
	}
	p := &Ports{first: uint32(first), count: uint32(last) - uint32(first) + 1}
	for i := range p.cursor {
		p.cursor[i].Store(random() % p.count)
	}
	return p, nil
}

// A Search walks once over the ports that lead to one queue. It is a value, so
// that a search costs no memory.
type Search struct {
	spread *Spread
	ports  *Ports
	part   *[4][256]uint32
	cursor *atomic.Uint32
	base   uint32 // hash of everything but the local port
	queue  uint16
	next   uint32 // offset of the next port to look at
	left   uint32 // ports not yet looked at
}

// Search starts a search for local ports of connections from local to remote
// whose replies arrive on that queue. A nil spread accepts every port: what is
// left when the device does not tell its RSS.
func (p *Ports) Search(s *Spread, local netip.Addr, remote netip.AddrPort, queue int) Search {
	f := Search{spread: s, ports: p, queue: uint16(queue), left: p.count}
	if s != nil {
		f.part = s.ports(remote.Addr())
		// The reply's source is the remote end. Its destination port is the one
		// looked for: port 0 adds nothing to the hash, each candidate adds its part.
		f.base = s.Hash4(remote, netip.AddrPortFrom(local, 0))
		f.cursor = &p.cursor[f.base%cursors]
	} else {
		f.cursor = &p.cursor[place(remote)]
	}
	f.next = f.cursor.Load()
	return f
}

// place is where the cursor of a destination is, when no hash of the device's tells.
func place(remote netip.AddrPort) uint32 {
	h := uint32(remote.Port())
	for _, b := range remote.Addr().As16() {
		h = h*31 + uint32(b)
	}
	return h % cursors
}

// Next returns the next port that leads to the queue. Without one it returns
// false: each port of the range is looked at once per search, and one in as many
// as there are queues fits.
func (f *Search) Next() (uint16, bool) {
	for f.left > 0 {
		p := uint16(f.ports.first + f.next)
		if f.next++; f.next == f.ports.count {
			f.next = 0
		}
		f.left--
		if f.spread == nil || f.fits(p) {
			f.cursor.Store(f.next)
			return p, true
		}
	}
	return 0, false
}

func (f *Search) fits(p uint16) bool {
	hash := f.base ^ port(f.part[2:4], p)
	return f.spread.table[hash&f.spread.mask] == f.queue
}
