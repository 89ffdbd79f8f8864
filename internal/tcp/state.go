package tcp

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held, unless nobody else knows the
// endpoint yet.

// setState changes the state, and counts what that means for the stack.
func (e *Endpoint) setState(s transport.State) {
	old := e.current()
	e.state.Store(uint32(s))
	if e.p == nil || old == s {
		return
	}
	if e.trace != nil {
		e.trace.NoticeState()
	}
	stats := &e.p.stats
	if s == transport.StateEstablished {
		stats.CurrentEstablished.Increment()
	}
	if !open(old) && open(s) {
		stats.CurrentConnected.Increment()
	}
	if open(old) && !open(s) {
		stats.CurrentConnected.Decrement()
	}
	if old == transport.StateEstablished {
		stats.CurrentEstablished.Decrement()
	}
}

// record begins to record a connection whose addresses are known.
func (e *Endpoint) record(halfOpen bool) {
	if open := e.p.record; open != nil {
		local, remote := netstack.Ends(&e.ID)
		e.trace = open(local, remote, &recorder.Endpoint{State: e.stateNumber, Timeouts: &e.timeouts, HalfOpen: halfOpen})
		e.untraced = halfOpen && e.trace == nil
	}
}

// recordEnd says that nobody will use the connection any more.
func (e *Endpoint) recordEnd() {
	if e.trace != nil {
		e.trace.Close()
	}
}

// takeFailure returns why the connection ended, the first time.
func (e *Endpoint) takeFailure() tcpip.Error {
	err := e.failure
	e.failure = nil
	return err
}

// shutWrite queues our FIN.
func (e *Endpoint) shutWrite() {
	e.finQueued = true
	switch e.current() {
	case transport.StateEstablished:
		e.setState(transport.StateFinWait1)
	case transport.StateCloseWait:
		e.setState(transport.StateLastAck)
	}
	e.output()
}

// reset ends the connection with a reset for the peer.
func (e *Endpoint) reset(err tcpip.Error) {
	if s := e.current(); open(s) || s == transport.StateSynReceived {
		e.sendControl(e.bareSeq(), rst|ack)
		e.p.stats.ResetsSent.Increment()
	}
	e.fail(err)
}

// fail ends the connection and keeps why.
func (e *Endpoint) fail(err tcpip.Error) {
	s := e.current()
	if s == transport.StateClosed || s == transport.StateError {
		return
	}
	if open(s) {
		e.p.stats.EstablishedResets.Increment()
	} else {
		e.p.stats.FailedConnectionAttempts.Increment()
	}
	e.finish(transport.StateError, err)
}

// finish gives back all that the endpoint has outside itself.
func (e *Endpoint) finish(s transport.State, err tcpip.Error) {
	e.failure = err
	if e.current() == transport.StateSynReceived {
		e.recordEnd() // no program knows of it
	}
	e.setState(s)
	e.events |= transport.Ended
	e.stopTimer()
	if e.parent != nil {
		e.parent.forget(e)
		e.parent = nil
	}
	if e.registered {
		e.p.stack.UnregisterTransportEndpoint(*e.protocols, header.TCPProtocolNumber, e.ID, e, e.boundFlags, 0)
		e.registered = false
	}
	e.removeLocked()
	if e.reserved {
		e.p.stack.ReleasePort(e.reservation(e.ID.LocalPort))
		e.reserved = false
	}
	if e.route != nil {
		e.route.Release()
		e.route = nil
	}
	e.out.drop()
	e.flights = flights{}
	e.dropOutOfOrder()
	if e.closed {
		e.in.drop()
	}
}
