package tcp

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file that are not exported need Endpoint.mu held.

func (e *Endpoint) reservation(port uint16) ports.Reservation {
	return ports.Reservation{
		Networks: *e.protocols, Transport: header.TCPProtocolNumber,
		Addr: e.ID.LocalAddress, Port: port, Flags: e.boundFlags,
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
	protocols := protocolsOf(proto)
	if addr.Addr.Len() != 0 {
		if s.CheckLocalAddress(addr.NIC, proto, addr.Addr) == 0 {
			return &tcpip.ErrBadLocalAddress{}
		}
	} else if proto == header.IPv6ProtocolNumber && !e.v6Only && s.CheckNetworkProtocol(header.IPv4ProtocolNumber) {
		protocols = &bothIP
	}
	e.protocols, e.boundFlags = protocols, e.flags
	e.ID.LocalAddress = addr.Addr
	port, err := s.ReservePort(s.SecureRNG(), e.reservation(addr.Port), func(port uint16) (bool, tcpip.Error) {
		id := e.ID
		id.LocalPort = port
		if !e.flags.TupleOnly && e.p.bound(port) {
			return false, nil
		}
		return s.CheckRegisterTransportEndpoint(*protocols, header.TCPProtocolNumber, id, e.boundFlags, 0) == nil, nil
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
	if err := e.p.stack.RegisterTransportEndpoint(*e.protocols, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0); err != nil {
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
	if addr.Port == 0 {
		return &tcpip.ErrConnectionRefused{} // reserved (RFC 6335 section 6): nobody listens there
	}
	epoch := e.p.routes.Load()
	to, err := e.p.findDestination(epoch, addr.NIC, e.ID.LocalAddress, addr.Addr, proto)
	if err != nil {
		return err
	}
	bound, old := e.ID.LocalAddress, e.protocols
	e.ID.LocalAddress, e.ID.RemoteAddress, e.ID.RemotePort = to.route.LocalAddress(), to.route.RemoteAddress(), addr.Port
	switch {
	case e.ID.LocalPort == 0:
		e.protocols = protocolsOf(proto)
		err = e.pickPort()
	case !e.addLocked() && !(e.succeed() && e.addLocked()):
		err = &tcpip.ErrPortInUse{}
	case e.reserved && (bound != e.ID.LocalAddress || len(*old) > 1):
		// The reservation was made for all addresses, or both IP versions.
		err = e.narrow(bound, old, proto)
	}
	if err != nil {
		to.route.Release()
		e.ID.LocalAddress, e.ID.RemoteAddress, e.ID.RemotePort = bound, tcpip.Address{}, 0
		if _, ok := err.(*tcpip.ErrPortInUse); ok {
			return &tcpip.ErrBadLocalAddress{}
		}
		return err
	}
	e.protocols = protocolsOf(proto)
	e.setDestination(to, epoch)
	s.Stats().TCP.ActiveConnectionOpenings.Increment()
	e.record(false)
	e.setState(transport.StateSynSent)
	e.open()
	return nil
}

// narrow changes a reservation that was made for all addresses, or both IP
// versions, to one for the connection's own.
func (e *Endpoint) narrow(bound tcpip.Address, old *[]tcpip.NetworkProtocolNumber, proto tcpip.NetworkProtocolNumber) tcpip.Error {
	s := e.p.stack
	wide := ports.Reservation{Networks: *old, Transport: header.TCPProtocolNumber, Addr: bound, Port: e.ID.LocalPort, Flags: e.boundFlags}
	s.ReleasePort(wide)
	exact := wide
	exact.Networks, exact.Addr = *protocolsOf(proto), e.ID.LocalAddress
	if _, err := s.ReservePort(s.SecureRNG(), exact, nil); err != nil {
		e.reserved = false
		e.removeLocked()
		return err
	}
	return nil
}

// pickPort finds a free local port, and adds the connection with it.
func (e *Endpoint) pickPort() tcpip.Error {
	s := e.p.stack
	self := e.ID.LocalAddress == e.ID.RemoteAddress
	_, err := s.PickEphemeralPort(s.SecureRNG(), func(port uint16) (bool, tcpip.Error) {
		if self && port == e.ID.RemotePort {
			return false, nil
		}
		e.ID.LocalPort = port
		if e.addLocked() || e.succeed() && e.addLocked() {
			return true, nil
		}
		e.ID.LocalPort = 0
		return false, nil
	})
	if err != nil {
		s.Stats().TCP.FailedPortReservations.Increment()
	}
	return err
}

// From gives an endpoint that is about to connect a local address, which is not
// reserved: others may have it, too, to other ends.
func (e *Endpoint) From(local netip.AddrPort) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current() != transport.StateInitial {
		return netstack.Error(&tcpip.ErrAlreadyBound{})
	}
	e.ID.LocalAddress, e.ID.LocalPort = netstack.Address(local.Addr()), local.Port()
	e.setState(transport.StateBound)
	return nil
}

var (
	onlyIPv4 = []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber}
	onlyIPv6 = []tcpip.NetworkProtocolNumber{header.IPv6ProtocolNumber}
	bothIP   = []tcpip.NetworkProtocolNumber{header.IPv6ProtocolNumber, header.IPv4ProtocolNumber}
)

// protocolsOf is one IP version as gVisor wants it. Nobody may change it.
func protocolsOf(proto tcpip.NetworkProtocolNumber) *[]tcpip.NetworkProtocolNumber {
	if proto == header.IPv6ProtocolNumber {
		return &onlyIPv6
	}
	return &onlyIPv4
}

// reuseAfter is how old TIME-WAIT must be before a new connection from here may
// take its place: the clock of the peer's timestamps ticks once a second at least
// (RFC 6191 section 2, RFC 7323 section 5.4).
const reuseAfter = int64(time.Second)

// succeed ends an old connection in TIME-WAIT with the endpoint's addresses, if there is
// one that may be reused, so that this one takes its place. Its sequence numbers begin
// beyond the old ones. mu is held.
func (e *Endpoint) succeed() bool {
	k, ok := netstack.Key(&e.ID)
	if !ok {
		return false
	}
	last, ok := e.p.waits.reuse(&k, e.p.now())
	if ok {
		e.iss = e.p.sequenceBeyond(&e.ID, last)
	}
	return ok
}
