package accel

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/gotpa/tpa/internal/ports"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/bifurcation"
)

const (
	// outboundPorts is how many local ports each shard gets for connections of its own,
	// when the first one is dialed: few, since holding one takes the kernel several
	// microseconds. Whenever they are taken it gets twice as many as the last time, up to
	// mostOutbound.
	outboundPorts, mostOutbound = 64, 1024
	// leastOutbound is what a process does with that may not hold as many.
	leastOutbound = 16
)

// A lease is a port, or a block of them, that is held in the kernel and claimed
// on the device.
type lease struct {
	sharing *sharing
	hold    *hold // nil once the port has been given back
	claim   *bifurcation.Claim
	first   uint16
	count   int
	// kept are flows that others had at the port before.
	kept []link.Flow
	// ended: no new connection comes; flows are those that were left of it.
	ended bool
	flows []link.Flow
}

// listen takes a port for a listener, and fills in the number where addr leaves
// that open. The error is that of package net for a port in use.
func (s *sharing) listen(network string, addr *net.TCPAddr) (*lease, error) {
	ip := listenAddr(network, addr)
	hold, err := holdPort(network, netip.AddrPortFrom(ip, uint16(addr.Port)), s)
	if err != nil {
		return nil, err
	}
	addr.Port = int(hold.First())
	if ip.IsValid() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() {
		if err := s.expect(ip); err != nil {
			hold.release(s)
			return nil, err
		}
	}
	kept, err := s.flowsOfOthers(hold.First())
	if err != nil {
		s.log.Warn("connections that others have at this port may be reset", "port", addr.Port, "err", err)
	}
	return s.lease(hold, bifurcation.Ports{Addr: ip, Kept: kept})
}

// flowsOfOthers returns the connections at a port that the kernel has, and those
// that other servers on the device have left after they gave the port back.
func (s *sharing) flowsOfOthers(port uint16) ([]link.Flow, error) {
	connections, err := ports.Connections(port)
	var flows []link.Flow
	for _, c := range connections {
		flows = append(flows, link.Flow(c))
	}
	others, oerr := s.steering.Others(port)
	return append(flows, others...), errors.Join(err, oerr)
}

// listenAddr is the address to listen on, the zero Addr for all of both IP
// versions, that of an IP version for all of it.
func listenAddr(network string, addr *net.TCPAddr) netip.Addr {
	ip := addr.AddrPort().Addr().Unmap()
	switch {
	case ip.IsValid() && !ip.IsUnspecified():
		return ip
	case network == "tcp4":
		return netip.IPv4Unspecified()
	case network == "tcp6":
		return netip.IPv6Unspecified()
	}
	return netip.Addr{}
}

// lease claims held ports on the device.
func (s *sharing) lease(held *hold, want bifurcation.Ports) (*lease, error) {
	want.First, want.Count = held.First(), held.Count()
	claim, err := s.steering.Claim(want)
	if err != nil {
		held.release(s)
		return nil, err
	}
	l := &lease{sharing: s, hold: held, claim: claim, first: want.First, count: want.Count, kept: want.Kept}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		claim.Release()
		held.release(s)
		return nil, errClosed
	}
	s.leases[l] = struct{}{}
	return l, nil
}

// dial makes sure that there are local ports for connections. laddr may ask for one
// port, which gets a lease of its own.
func (s *sharing) dial(network string, laddr *net.TCPAddr) (*lease, error) {
	if laddr != nil && laddr.Port != 0 && !s.isOutbound(laddr.Port) {
		return s.listen(network, &net.TCPAddr{IP: laddr.IP, Port: laddr.Port, Zone: laddr.Zone})
	}
	if s.blocks() > 0 {
		return nil, nil
	}
	return nil, s.addBlock(0)
}

// blocks is how many blocks of ports there are for connections.
func (s *sharing) blocks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.outbound)
}

// addBlock makes a block of ports ours, where there are had of them: another goroutine
// may have been faster.
func (s *sharing) addBlock(had int) error {
	s.growing.Lock()
	defer s.growing.Unlock()
	if s.blocks() > had {
		return nil
	}
	shards := 1
	for shards < len(s.rt.shards) {
		shards *= 2
	}
	reserve := ports.ReserveBlock
	if had > 0 {
		reserve = ports.ReserveMore
	}
	n := min(min(outboundPorts<<min(had, 16), mostOutbound)*shards, 16384)
	block, err := reserve(n)
	for err != nil && n > leastOutbound*shards {
		n /= 2
		block, err = reserve(n)
	}
	if err != nil {
		return err
	}
	l, err := s.lease(&hold{Reservation: block, users: map[*sharing]bool{s: true}}, bifurcation.Ports{})
	if err != nil {
		return err
	}
	if had == 0 {
		s.wholeBlocks = s.rt.spreadNow.Load() != nil
	}
	each := l.count / shards
	for i, sh := range s.rt.shards {
		first, last := l.first+uint16(i*each), l.first+uint16((i+1)*each-1)
		if s.wholeBlocks {
			first, last = l.first, l.first+uint16(l.count-1)
		}
		switch {
		case had > 0:
			err = sh.AddPortRange(first, last)
		case s.wholeBlocks:
			err = sh.SharePortRange(first, last)
		default:
			err = sh.SetPortRange(first, last)
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbound = append(s.outbound, l)
	return nil
}

// isOutbound tells whether a port is one of those that shards take for their
// connections, and so held already.
func (s *sharing) isOutbound(port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.outbound, func(l *lease) bool {
		return port >= int(l.first) && port < int(l.first)+l.count
	})
}

// release gives ports back at once, with any connections at them.
func (l *lease) release() {
	s := l.sharing
	s.mu.Lock()
	delete(s.leases, l)
	s.mu.Unlock()
	l.claim.Release()
	if l.hold != nil {
		l.hold.release(s)
		l.hold = nil
	}
}

// end gives the port to whoever wants it next, while connections that were made
// at it go on here.
func (l *lease) end() {
	s := l.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended || s.closed {
		return
	}
	l.ended = true
	l.flows = s.flows(l.first)
	if len(l.flows) > 0 {
		if err := l.claim.Drain(l.flows); err != nil {
			// The filter cannot tell flows apart: the port stays ours with the flows.
			s.log.Debug("a port stays held while it has connections", "port", l.first, "err", err)
			return
		}
	} else {
		delete(s.leases, l)
		l.claim.Release()
	}
	l.hold.release(s)
	l.hold = nil
}

// flows returns the connections at a local port.
func (s *sharing) flows(port uint16) []link.Flow {
	var flows []link.Flow
	for _, sh := range s.rt.shards {
		flows = append(flows, sh.Flows(port)...)
	}
	return flows
}

// tend lets go of what connections have ended since the last call.
func (s *sharing) tend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for l := range s.leases {
		if len(l.kept) > 0 {
			l.tendKept()
		}
		if !l.ended {
			continue
		}
		now := s.flows(l.first)
		if len(now) == 0 {
			delete(s.leases, l)
			l.claim.Release()
			if l.hold != nil {
				l.hold.release(s)
				l.hold = nil
			}
			continue
		}
		if gone := without(l.flows, now); len(gone) > 0 && l.hold == nil {
			if err := s.steering.Except(gone); err != nil {
				s.log.Warn("cannot give back connections that ended", "port", l.first, "err", err)
			}
			l.flows = now
		}
	}
}

// tendKept ends the exceptions for connections that others have no more.
func (l *lease) tendKept() {
	now, err := l.sharing.flowsOfOthers(l.first)
	if err != nil {
		return
	}
	if gone := without(l.kept, now); len(gone) > 0 {
		if err := l.sharing.steering.Except(gone); err != nil {
			return
		}
		l.kept = without(l.kept, gone)
	}
}

// without returns those of a that are not in b.
func without(a, b []link.Flow) []link.Flow {
	in := make(map[link.Flow]bool, len(b))
	for _, f := range b {
		in[f] = true
	}
	var rest []link.Flow
	for _, f := range a {
		if !in[f] {
			rest = append(rest, f)
		}
	}
	return rest
}
