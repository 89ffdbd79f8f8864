package tcp

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file that are not exported need Endpoint.mu held.

func (e *Endpoint) reservation(port uint16) ports.Reservation {
	return ports.Reservation{
		Networks: e.protocols, Transport: header.TCPProtocolNumber,
		Addr: e.ID.LocalAddress, Port: port, Flags: e.boundFlags, Dest: e.destination,
	}
}

// Bind implements transport.Endpoint.
func (e *Endpoint) Bind(local netip.AddrPort, shared bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flags.TupleOnly = e.flags.TupleOnly || shared
	return netstack.Error(e.bind(netstack.FullAddress(local)))
}

func (e *Endpoint) bind(addr tcpip.FullAddress) tcpip.Error {
	if e.current() != transport.StateInitial {
		return &tcpip.ErrAlreadyBound{}
	}
	e.BindAddr = addr.Addr
	addr, proto, err := e.AddrNetProtoLocked(addr, e.v6Only, true)
	if err != nil {
		return err
	}
	s := e.p.stack
	protocols := []tcpip.NetworkProtocolNumber{proto}
	if addr.Addr.Len() != 0 {
		if s.CheckLocalAddress(addr.NIC, proto, addr.Addr) == 0 {
			return &tcpip.ErrBadLocalAddress{}
		}
	} else if proto == header.IPv6ProtocolNumber && !e.v6Only && s.CheckNetworkProtocol(header.IPv4ProtocolNumber) {
		protocols = append(protocols, header.IPv4ProtocolNumber)
	}
	e.protocols, e.boundFlags = protocols, e.flags
	e.ID.LocalAddress = addr.Addr
	port, err := s.ReservePort(s.SecureRNG(), e.reservation(addr.Port), func(port uint16) (bool, tcpip.Error) {
		id := e.ID
		id.LocalPort = port
		return s.CheckRegisterTransportEndpoint(protocols, header.TCPProtocolNumber, id, e.boundFlags, 0) == nil, nil
	})
	if err != nil {
		s.Stats().TCP.FailedPortReservations.Increment()
		e.ID.LocalAddress = tcpip.Address{}
		return err
	}
	e.reserved = true
	e.ID.LocalPort = port
	e.setState(transport.StateBound)
	return nil
}

// Listen implements transport.Endpoint.
func (e *Endpoint) Listen(backlog int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return netstack.Error(e.startListening(backlog))
}

func (e *Endpoint) startListening(backlog int) tcpip.Error {
	switch e.current() {
	case transport.StateListen:
		e.listen.backlog = backlog
		return nil
	case transport.StateInitial:
		if err := e.bind(tcpip.FullAddress{}); err != nil {
			return err
		}
	case transport.StateBound:
	default:
		return &tcpip.ErrInvalidEndpointState{}
	}
	e.listen = &listener{backlog: backlog, synQueue: make(map[*Endpoint]struct{})}
	e.setState(transport.StateListen)
	if err := e.p.stack.RegisterTransportEndpoint(e.protocols, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0); err != nil {
		e.setState(transport.StateBound)
		return err
	}
	e.registered = true
	return nil
}

// Connect implements transport.Endpoint.
func (e *Endpoint) Connect(remote netip.AddrPort) error {
	e.mu.Lock()
	defer e.unlock()
	return netstack.Error(e.connect(netstack.FullAddress(remote)))
}

func (e *Endpoint) connect(addr tcpip.FullAddress) tcpip.Error {
	addr, proto, err := e.AddrNetProtoLocked(addr, e.v6Only, false)
	if err != nil {
		return err
	}
	before := e.current()
	switch {
	case before == transport.StateInitial || before == transport.StateBound:
	case open(before):
		return &tcpip.ErrAlreadyConnected{}
	case connecting(before):
		return &tcpip.ErrAlreadyConnecting{}
	case before == transport.StateError:
		if err := e.takeFailure(); err != nil {
			return err
		}
		return &tcpip.ErrConnectionAborted{}
	default:
		return &tcpip.ErrInvalidEndpointState{}
	}
	s := e.p.stack
	if a := addr.Addr; header.IsV4MulticastAddress(a) || header.IsV6MulticastAddress(a) || a == header.IPv4Broadcast || s.IsSubnetBroadcast(0, proto, a) {
		return &tcpip.ErrNetworkUnreachable{} // RFC 9293 section 3.9.2.3, as Linux says it
	}
	epoch := e.p.routes.Load()
	source := e.ID.LocalAddress
	if source.Len() == 0 {
		source = e.p.out.Source(addr.Addr)
	}
	route, err := s.FindRoute(addr.NIC, source, addr.Addr, proto, false)
	if err != nil {
		return err
	}
	bound, old := e.ID.LocalAddress, e.protocols
	e.ID.LocalAddress, e.ID.RemoteAddress, e.ID.RemotePort = route.LocalAddress(), route.RemoteAddress(), addr.Port
	if e.reserved {
		// The reservation stays as it was made, for both IP versions if so.
		register := func() tcpip.Error {
			return s.RegisterTransportEndpoint([]tcpip.NetworkProtocolNumber{proto}, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0)
		}
		if err = register(); err != nil && e.succeed(proto, e.ID) {
			err = register()
		}
		if err == nil && (bound != e.ID.LocalAddress || len(old) > 1) {
			err = e.narrow(bound, old, proto)
		}
		if err == nil {
			e.protocols = []tcpip.NetworkProtocolNumber{proto}
		}
	} else {
		e.protocols, e.boundFlags, e.destination = []tcpip.NetworkProtocolNumber{proto}, e.flags, addr
		err = e.pickPort()
	}
	if err != nil {
		route.Release()
		e.ID.LocalAddress, e.ID.RemoteAddress, e.ID.RemotePort = bound, tcpip.Address{}, 0
		if _, ok := err.(*tcpip.ErrPortInUse); ok {
			return &tcpip.ErrBadLocalAddress{}
		}
		return err
	}
	e.registered = true
	e.setRoute(route, epoch)
	s.Stats().TCP.ActiveConnectionOpenings.Increment()
	e.record(false)
	e.setState(transport.StateSynSent)
	e.open()
	return nil
}

// narrow changes a reservation that was made for all addresses, or both IP
// versions, to one for the connection's own.
func (e *Endpoint) narrow(bound tcpip.Address, old []tcpip.NetworkProtocolNumber, proto tcpip.NetworkProtocolNumber) tcpip.Error {
	s := e.p.stack
	wide := ports.Reservation{Networks: old, Transport: header.TCPProtocolNumber, Addr: bound, Port: e.ID.LocalPort, Flags: e.boundFlags}
	s.ReleasePort(wide)
	exact := wide
	exact.Networks, exact.Addr = []tcpip.NetworkProtocolNumber{proto}, e.ID.LocalAddress
	if _, err := s.ReservePort(s.SecureRNG(), exact, nil); err != nil {
		e.reserved = false
		s.UnregisterTransportEndpoint(exact.Networks, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0)
		return err
	}
	return nil
}

// pickPort finds a free local port and registers the connection with it.
func (e *Endpoint) pickPort() tcpip.Error {
	s := e.p.stack
	self := e.ID.LocalAddress == e.ID.RemoteAddress
	_, err := s.PickEphemeralPort(s.SecureRNG(), func(port uint16) (bool, tcpip.Error) {
		if self && port == e.ID.RemotePort {
			return false, nil
		}
		e.ID.LocalPort = port
		reserve := func() bool {
			_, err := s.ReservePort(s.SecureRNG(), e.reservation(port), nil)
			return err == nil
		}
		if !reserve() && !(e.succeed(e.protocols[0], e.ID) && reserve()) {
			e.ID.LocalPort = 0
			return false, nil
		}
		if err := s.RegisterTransportEndpoint(e.protocols, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0); err != nil {
			s.ReleasePort(e.reservation(port))
			e.ID.LocalPort = 0
			if _, ok := err.(*tcpip.ErrPortInUse); ok {
				return false, nil
			}
			return false, err
		}
		e.reserved = true
		return true, nil
	})
	if err != nil {
		s.Stats().TCP.FailedPortReservations.Increment()
	}
	return err
}

// reuseAfter is how old TIME-WAIT must be before a new connection from here may
// take its place: the clock of the peer's timestamps ticks once a second at least
// (RFC 6191 section 2, RFC 7323 section 5.4).
const reuseAfter = int64(time.Second)

// Reusable tells whether a new connection from here to the same peer may take the
// place of this one: it is in TIME-WAIT, the program is done with it, and its
// timestamps tell old segments from new ones.
func (e *Endpoint) Reusable() bool {
	if e.current() != transport.StateTimeWait {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reusable()
}

func (e *Endpoint) reusable() bool {
	return e.current() == transport.StateTimeWait && e.closed && e.tsOK && e.p.now()-e.heard > reuseAfter
}

// succeed ends an old connection with id in TIME-WAIT, if there is one that may be
// reused, so that e takes its place. Its sequence numbers begin beyond the old
// ones. e's mu is held; the old connection never waits for another one's.
func (e *Endpoint) succeed(proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	old, ok := e.p.stack.FindTransportEndpoint(proto, header.TCPProtocolNumber, id, 0).(*Endpoint)
	if !ok || old == e || old.current() != transport.StateTimeWait || !old.mu.TryLock() {
		return false
	}
	ok = old.ID == id && old.reusable()
	if ok {
		e.iss = e.p.sequenceBeyond(&id, old.sendMax+old.maxWindow)
		old.finish(transport.StateClosed, nil)
	}
	old.unlock()
	return ok
}
