package rss

import (
	"fmt"
	"net/netip"
	"slices"
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
	random func() uint32
	ranges atomic.Pointer[ranges] // never changed in place
	cursor [cursors]atomic.Uint32 // offset into all ranges, below their count
}

// ranges are ports numbered by offsets from 0 on, those of one range after the other.
type ranges struct {
	all   []portRange
	count uint32
}

type portRange struct{ first, count uint32 }

// NewPorts returns a finder for the ports first to last. random supplies the
// starting points: math/rand/v2.Uint32, or a seeded source in simulations.
func NewPorts(first, last uint16, random func() uint32) (*Ports, error) {
	p := &Ports{random: random}
	p.ranges.Store(new(ranges))
	if err := p.Add(first, last); err != nil {
		return nil, err
	}
	return p, nil
}

// Add adds the ports first to last, where searches go on. Only one goroutine may call
// it at a time.
func (p *Ports) Add(first, last uint16) error {
	if first == 0 || first > last {
		return fmt.Errorf("ports %d to %d: want a range within 1 to 65535", first, last)
	}
	before := p.ranges.Load()
	added := portRange{uint32(first), uint32(last) - uint32(first) + 1}
	p.ranges.Store(&ranges{append(slices.Clip(before.all), added), before.count + added.count})
	for i := range p.cursor {
		p.cursor[i].Store(before.count + p.random()%added.count)
	}
	return nil
}

// A Search walks once over the ports that lead to one queue. It is a value, so
// that a search costs no memory.
type Search struct {
	spread *Spread
	part   *[4][256]uint32
	cursor *atomic.Uint32
	base   uint32 // hash of everything but the local port
	queue  uint16
	ranges *ranges
	in     int    // the range of the next port to look at
	at     uint32 // its offset in that
	next   uint32 // its offset in all
	left   uint32 // ports not yet looked at
}

// Search starts a search for local ports of connections from local to remote
// whose replies arrive on that queue. A nil spread accepts every port: what is
// left when the device does not tell its RSS.
func (p *Ports) Search(s *Spread, local netip.Addr, remote netip.AddrPort, queue int) Search {
	all := p.ranges.Load()
	f := Search{spread: s, queue: uint16(queue), ranges: all, left: all.count}
	if s != nil {
		f.part = s.ports(remote.Addr())
		// The reply's source is the remote end. Its destination port is the one
		// looked for: port 0 adds nothing to the hash, each candidate adds its part.
		f.base = s.Hash4(remote, netip.AddrPortFrom(local, 0))
		f.cursor = &p.cursor[f.base%cursors]
	} else {
		f.cursor = &p.cursor[place(remote)]
	}
	if f.next = f.cursor.Load(); f.next >= all.count { // of ranges that were added just now
		f.next = 0
	}
	for f.at = f.next; f.at >= all.all[f.in].count; f.in++ {
		f.at -= all.all[f.in].count
	}
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
		in := &f.ranges.all[f.in]
		p := uint16(in.first + f.at)
		f.next++
		if f.at++; f.at == in.count {
			f.at = 0
			if f.in++; f.in == len(f.ranges.all) {
				f.in, f.next = 0, 0
			}
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
