package accel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

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

// offerTime is how long a process that wants a port of another one's waits for its offer.
const offerTime = time.Second

// A lease is a port, or a block of them, that is held in the kernel and claimed
// on the device.
type lease struct {
	sharing *sharing
	hold    *hold // nil once the port has been given back
	claim   *bifurcation.Claim
	first   uint16
	count   int
	addr    netip.Addr // that was asked for
	// kept are flows that others had at the port before.
	kept []link.Flow
	// from is the process that had the port, to the one that has it now; nil without.
	from  *predecessor
	to    *messages
	dials bool // connections begin at the ports, instead of arriving there
	// untended: their process has not told its filter about the kept flows yet.
	untended bool
	// ended: no new connection comes; flows are those that were left of it.
	ended bool
	flows []link.Flow
}

// reserve takes a port, and fills in the number where addr leaves that open. The error
// is that of package net for a port in use. claimPort claims it on the device.
func (s *sharing) reserve(network string, addr *net.TCPAddr) (*lease, error) {
	ip := listenAddr(network, addr)
	at := netip.AddrPortFrom(ip, uint16(addr.Port))
	from, passed := s.askForPort(network, at)
	hold, err := holdPort(network, at, passed, s)
	// Who has just got the port from another process may not offer it yet.
	for began := time.Now(); s.rt.config.HandOver && errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < offerTime; {
		time.Sleep(10 * time.Millisecond)
		if from, passed = s.askForPort(network, at); from != nil {
			hold, err = holdPort(network, at, passed, s)
		}
	}
	if err != nil {
		from.close()
		return nil, err
	}
	addr.Port = int(hold.First())
	if ip.IsValid() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() {
		if err := s.expect(ip); err != nil {
			from.close()
			hold.release(s)
			return nil, err
		}
	}
	return &lease{sharing: s, hold: hold, addr: ip, from: from, first: hold.First(), count: hold.Count()}, nil
}

// claimPort claims a port that was reserved. On error, nothing is left of the lease.
func (l *lease) claimPort() error {
	s := l.sharing
	kept, err := s.flowsOfOthers(l.first)
	if err != nil {
		s.log.Warn("connections that others have at this port may be reset", "port", l.first, "err", err)
	}
	if l.from == nil {
		return l.claimWith(kept)
	}
	theirs, err := l.from.flows()
	if err != nil {
		l.from.close()
		l.hold.release(s)
		return fmt.Errorf("the process that offered the port does not hand it over: %w", err)
	}
	if err := l.claimWith(append(without(kept, theirs), theirs...)); err != nil {
		l.from.close()
		return err
	}
	s.mu.Lock()
	s.predecessors = append(s.predecessors, l.from)
	s.mu.Unlock()
	l.from.claimed(l)
	return nil
}

// tended says that the predecessor's filter has the kept flows, which can be looked
// after from now on.
func (l *lease) tended() {
	l.sharing.mu.Lock()
	defer l.sharing.mu.Unlock()
	l.untended = false
}

// claimWith claims the ports but for flows that others keep.
func (l *lease) claimWith(kept []link.Flow) error {
	s := l.sharing
	if f, ok := s.steering.Filter().(link.DialFilter); ok {
		if err := f.Dials(l.first, l.count, l.dials); err != nil {
			l.hold.release(s)
			return err
		}
	}
	claim, err := s.steering.Claim(bifurcation.Ports{Addr: l.addr, First: l.first, Count: l.count, Kept: kept})
	if err != nil {
		l.hold.release(s)
		return err
	}
	l.claim, l.kept = claim, kept
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		claim.Release()
		l.hold.release(s)
		return errClosed
	}
	l.untended = l.from != nil
	s.leases[l] = struct{}{}
	return nil
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

// dial makes sure that there are local ports for connections. laddr may ask for one
// port, which gets a lease of its own.
func (s *sharing) dial(network string, laddr *net.TCPAddr) (*lease, error) {
	if laddr != nil && laddr.Port != 0 && !s.isOutbound(laddr.Port) {
		l, err := s.reserve(network, &net.TCPAddr{IP: laddr.IP, Port: laddr.Port, Zone: laddr.Zone})
		if err != nil {
			return nil, err
		}
		l.dials = true
		return l, l.claimPort()
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
	held := &hold{Reservation: block, users: map[*sharing]bool{s: true}}
	l := &lease{sharing: s, hold: held, first: held.First(), count: held.Count(), dials: true}
	if err := l.claimWith(nil); err != nil {
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
	l.from.close()
	if l.claim != nil {
		l.claim.Release()
	}
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
	leases := slices.Collect(maps.Keys(s.leases))
	s.mu.Unlock()
	for _, l := range leases {
		l.tendKept()
		l.tendFlows()
	}
}

// tendFlows lets go of connections of a lease that has ended. The next process, if there
// is one, takes them first.
func (l *lease) tendFlows() {
	s := l.sharing
	s.mu.Lock()
	ended, had, to := l.ended, l.flows, l.to
	s.mu.Unlock()
	if !ended {
		return
	}
	now := s.flows(l.first)
	gone := without(had, now)
	if len(gone) == 0 && len(now) > 0 {
		return
	}
	to.ended(gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.leases[l]; !ok {
		return
	}
	if len(now) == 0 {
		delete(s.leases, l)
		l.claim.Release()
		if l.hold != nil {
			l.hold.release(s)
			l.hold = nil
		}
		return
	}
	if l.hold != nil {
		return // the filter cannot tell flows apart
	}
	if err := s.steering.Except(gone); err != nil {
		s.log.Warn("cannot give back connections that ended", "port", l.first, "err", err)
	}
	l.flows = now
}

// tendKept ends the exceptions for connections that others have no more.
func (l *lease) tendKept() {
	l.sharing.mu.Lock()
	tended := len(l.kept) > 0 && !l.untended
	l.sharing.mu.Unlock()
	if !tended {
		return
	}
	had := l.keptNow()
	now, err := l.sharing.flowsOfOthers(l.first)
	if err != nil {
		return // a predecessor tells
	}
	if gone := without(had, now); len(gone) > 0 {
		l.forgetKept(gone)
	}
}

// forgetKept ends the exceptions for these flows, nil for all: the kernel's, if there are
// some, are found again. The next process, if there is one, takes them first. Nobody may
// hold sharing.mu.
func (l *lease) forgetKept(gone []link.Flow) {
	s := l.sharing
	if gone == nil {
		gone = l.keptNow()
		if now, err := ports.Connections(l.first); err == nil {
			kernel := make([]link.Flow, len(now))
			for i, c := range now {
				kernel[i] = link.Flow(c)
			}
			gone = without(gone, kernel)
		}
	}
	if len(gone) == 0 {
		return
	}
	s.mu.Lock()
	to := l.to
	s.mu.Unlock()
	to.ended(gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.steering.Except(gone) != nil {
		return
	}
	l.kept = without(l.kept, gone)
}

// keptNow are the connections that others have at the port.
func (l *lease) keptNow() []link.Flow {
	l.sharing.mu.Lock()
	defer l.sharing.mu.Unlock()
	return slices.Clone(l.kept)
}

// handOver ends the lease for another process, which is told when connections end.
func (l *lease) handOver(to *messages) {
	l.sharing.mu.Lock()
	l.to = to
	l.sharing.mu.Unlock()
	l.end()
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
