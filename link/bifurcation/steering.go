// Package bifurcation decides which TCP flows of a device are ours, where the
// kernel has the rest of the traffic of the same device.
//
// A Steering keeps account of what was claimed: the port of a listener, a block
// of local ports for outbound connections, each at one local address or at all.
// It breaks claims down to ports of single addresses, and follows as addresses
// come and go. The device's filter makes that true:
//
//   - that of link/xdp and link/packet: programs in the kernel tell frames apart,
//     on any interface;
//   - Rules: rte_flow rules of a DPDK device in isolated mode;
//   - Whole: the device is ours alone, there is nothing to do.
//
// Claims cost no more than a bit each in the filter, or a rule each, however many
// connections there are. None of this is on the way of a packet; all functions
// may be called by anyone.
package bifurcation

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"sync"

	"github.com/gotpa/tpa/link"
)

// Ports are what a claim asks for.
type Ports struct {
	// Addr is a local address. The unspecified address of an IP version stands for
	// all local addresses of that version, the zero Addr for those of both.
	Addr netip.Addr
	// First and Count are a range of ports within 1 to 65535.
	First uint16
	Count int
	// Kept are flows at these ports that the kernel or another process has already
	// and keeps, where the filter can tell flows apart.
	Kept []link.Flow
}

func (p Ports) matches(a netip.Addr) bool {
	switch {
	case !p.Addr.IsValid():
		return true
	case p.Addr.IsUnspecified():
		return p.Addr.Is4() == a.Is4()
	}
	return p.Addr.Unmap().WithZone("") == a
}

// A Steering keeps account of claims. Make one with New.
type Steering struct {
	filter  link.Filter
	counted *counted // under filter

	// mu guards the following fields, and is held while the filter is changed.
	mu     sync.Mutex
	addrs  []netip.Addr
	claims map[*Claim]struct{}
	// claimed has the number of claims on each port of each address, draining the
	// ports of which only some flows are left.
	claimed  map[netip.AddrPort]int
	draining map[netip.AddrPort]bool
	closed   bool
}

// New returns a Steering without addresses and claims.
func New(f link.Filter) *Steering {
	filter, counted := count(f)
	return &Steering{
		filter: filter, counted: counted, claims: make(map[*Claim]struct{}),
		claimed: make(map[netip.AddrPort]int), draining: make(map[netip.AddrPort]bool),
	}
}

// Filter returns the filter.
func (s *Steering) Filter() link.Filter { return s.counted.Filter }

// Stats are what there is now, and counters since the filter was made.
type Stats struct {
	// Claims is the number of claims, Ports that of claimed ports, each counted for
	// each address, Rules that of rules on the device: 0 where a filter has none.
	Claims, Ports, Rules int
	// Frames counts what the filter saw by what it made of them; nil where nobody
	// counts.
	Frames     []link.FrameCount
	Operations Operations
}

// Stats returns the counters.
func (s *Steering) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	filter := s.filter.Stats()
	return Stats{
		Claims: len(s.claims), Ports: len(s.claimed), Rules: filter.Rules,
		Frames: filter.Frames, Operations: s.counted.operations(),
	}
}

// A Claimed tells about a claim. Kept are the flows that it was made with.
type Claimed struct {
	Ports
	// Draining: only some flows are left of it.
	Draining bool
}

// Claims returns the claims, sorted by port and address.
func (s *Steering) Claims() []Claimed {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Claimed, 0, len(s.claims))
	for c := range s.claims {
		all = append(all, Claimed{c.ports, c.draining})
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := &all[i], &all[j]
		return cmp.Or(cmp.Compare(a.First, b.First), a.Addr.Compare(b.Addr)) < 0
	})
	return all
}

// SetAddrs names the local addresses. Claims on all addresses extend to new ones,
// and no claim holds at an address that is gone. On error, the address in question
// has none of its ports claimed; a later call tries again.
func (s *Steering) SetAddrs(addrs []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	want := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); !slices.Contains(want, a) {
			want = append(want, a)
		}
	}
	var errs []error
	for _, a := range s.addrs {
		if !slices.Contains(want, a) {
			errs = append(errs, s.dropLocked(a))
		}
	}
	had := s.addrs
	s.addrs = nil
	for _, a := range want {
		if slices.Contains(had, a) {
			s.addrs = append(s.addrs, a)
			continue
		}
		if err := s.adoptLocked(a); err != nil {
			errs = append(errs, err)
			continue
		}
		s.addrs = append(s.addrs, a)
	}
	return errors.Join(errs...)
}

// dropLocked releases everything at an address.
func (s *Steering) dropLocked(a netip.Addr) error {
	var ports []uint16
	for ap := range s.claimed {
		if ap.Addr() == a {
			ports = append(ports, ap.Port())
			delete(s.claimed, ap)
			delete(s.draining, ap)
		}
	}
	var errs []error
	for first, n := range runs(ports) {
		errs = append(errs, s.filter.Release(a, first, n))
	}
	return errors.Join(errs...)
}

// adoptLocked claims what the claims ask for at a new address.
func (s *Steering) adoptLocked(a netip.Addr) error {
	for c := range s.claims {
		if !c.ports.matches(a) || c.draining {
			continue
		}
		if err := s.claimLocked(a, &c.ports); err != nil {
			return errors.Join(err, s.dropLocked(a))
		}
	}
	return nil
}

// A Claim is a claim that was granted.
type Claim struct {
	steering *Steering
	ports    Ports
	draining bool
	released bool
}

// Claim makes ports ours. A claim on an address that is not local takes effect
// when it becomes so. Claims may overlap: a port is ours until the last of them is
// released. On error, nothing has changed.
func (s *Steering) Claim(p Ports) (*Claim, error) {
	if p.First == 0 || p.Count < 1 || int(p.First)+p.Count > 65536 {
		return nil, fmt.Errorf("claim %d ports from %d: want 1 to 65535", p.Count, p.First)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	for i, a := range s.addrs {
		if !p.matches(a) {
			continue
		}
		if err := s.claimLocked(a, &p); err != nil {
			for _, a := range s.addrs[:i] {
				if p.matches(a) {
					err = errors.Join(err, s.releaseLocked(a, &p))
				}
			}
			return nil, err
		}
	}
	c := &Claim{steering: s, ports: p}
	s.claims[c] = struct{}{}
	return c, nil
}

// claimLocked makes the ports of one address ours that are not.
func (s *Steering) claimLocked(a netip.Addr, p *Ports) error {
	var fresh []uint16
	for port := range p.all() {
		ap := netip.AddrPortFrom(a, port)
		if s.claimed[ap] == 0 || s.draining[ap] {
			fresh = append(fresh, port)
		}
	}
	var done []uint16
	for first, n := range runs(fresh) {
		if err := s.claimRunLocked(a, first, n, p.Kept); err != nil {
			for first, n := range runs(done) {
				err = errors.Join(err, s.filter.Release(a, first, n))
			}
			return fmt.Errorf("claim ports %d to %d of %v: %w", first, int(first)+n-1, a, err)
		}
		for i := range n {
			done = append(done, first+uint16(i))
		}
	}
	for port := range p.all() {
		ap := netip.AddrPortFrom(a, port)
		s.claimed[ap]++
		delete(s.draining, ap)
	}
	return nil
}

func (s *Steering) claimRunLocked(a netip.Addr, first uint16, n int, kept []link.Flow) error {
	sharer, ok := s.filter.(link.FlowFilter)
	if !ok || len(kept) == 0 {
		return s.filter.Claim(a, first, n)
	}
	for i := range n {
		port := first + uint16(i)
		if err := sharer.ClaimExcept(a, port, flowsAt(kept, a, port)); err != nil {
			if i > 0 {
				err = errors.Join(err, s.filter.Release(a, first, i))
			}
			return err
		}
	}
	return nil
}

// releaseLocked gives the ports of one address back that nobody else claims.
func (s *Steering) releaseLocked(a netip.Addr, p *Ports) error {
	var last []uint16
	for port := range p.all() {
		ap := netip.AddrPortFrom(a, port)
		switch n := s.claimed[ap]; n {
		case 0: // the address came after an error, or not at all
		case 1:
			delete(s.claimed, ap)
			delete(s.draining, ap)
			last = append(last, port)
		default:
			s.claimed[ap] = n - 1
		}
	}
	var errs []error
	for first, n := range runs(last) {
		errs = append(errs, s.filter.Release(a, first, n))
	}
	return errors.Join(errs...)
}

// Release ends the claim. Releasing twice is harmless.
func (c *Claim) Release() error {
	s := c.steering
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.released {
		return nil
	}
	c.released = true
	delete(s.claims, c)
	if s.closed {
		return nil
	}
	var errs []error
	for _, a := range s.addrs {
		if c.ports.matches(a) {
			errs = append(errs, s.releaseLocked(a, &c.ports))
		}
	}
	return errors.Join(errs...)
}

// Drain gives the ports of the claim back to the kernel, and to whoever listens
// there next, except for the given flows, which stay ours until Except or Release.
// Ports that others claim, too, stay as they are. An error wraps
// errors.ErrUnsupported where the filter cannot tell flows apart.
func (c *Claim) Drain(flows []link.Flow) error {
	s := c.steering
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || c.released {
		return errClosed
	}
	sharer, ok := s.filter.(link.FlowFilter)
	if !ok {
		return fmt.Errorf("drain ports: %v cannot tell flows apart: %w", s.filter, errors.ErrUnsupported)
	}
	var errs []error
	for _, a := range s.addrs {
		if !c.ports.matches(a) {
			continue
		}
		for port := range c.ports.all() {
			ap := netip.AddrPortFrom(a, port)
			if s.claimed[ap] != 1 {
				continue
			}
			if err := sharer.Drain(a, port, flowsAt(flows, a, port)); err != nil {
				errs = append(errs, err)
				continue
			}
			s.draining[ap] = true
		}
	}
	c.draining = true
	return errors.Join(errs...)
}

// Except ends exceptions: flows that the kernel kept, or that were left of a
// drained port, go where their port goes. Unknown flows do no harm.
func (s *Steering) Except(flows []link.Flow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sharer, ok := s.filter.(link.FlowFilter); ok && !s.closed {
		return sharer.Except(flows)
	}
	return nil
}

// Others returns the flows at a port that other processes on the same device have
// left, after they gave the port back.
func (s *Steering) Others(port uint16) ([]link.Flow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sharer, ok := s.filter.(link.FlowFilter); ok && !s.closed {
		return sharer.Others(port)
	}
	return nil, nil
}

// Close releases everything.
func (s *Steering) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for _, a := range s.addrs {
		errs = append(errs, s.dropLocked(a))
	}
	return errors.Join(errs...)
}

var errClosed = fmt.Errorf("bifurcation: %w", net.ErrClosed)

// all yields the ports of a range.
func (p *Ports) all() func(func(uint16) bool) {
	return func(yield func(uint16) bool) {
		for i := range p.Count {
			if !yield(p.First + uint16(i)) {
				return
			}
		}
	}
}

// runs yields ports as ranges: the first port and the number of each.
func runs(ports []uint16) func(func(uint16, int) bool) {
	slices.Sort(ports)
	return func(yield func(uint16, int) bool) {
		for len(ports) > 0 {
			n := 1
			for n < len(ports) && int(ports[n]) == int(ports[0])+n {
				n++
			}
			if !yield(ports[0], n) {
				return
			}
			ports = ports[n:]
		}
	}
}

// flowsAt returns the flows at a port of an address.
func flowsAt(flows []link.Flow, a netip.Addr, port uint16) []link.Flow {
	var at []link.Flow
	for _, f := range flows {
		if f.Local == netip.AddrPortFrom(a, port) {
			at = append(at, f)
		}
	}
	return at
}
