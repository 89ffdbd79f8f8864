package tcp

import (
	"syscall"

	"github.com/gotpa/tpa/internal/transport"
)

// listener is what an endpoint that listens has besides. It is guarded by the
// endpoint's mu, which may be taken with that of a pending connection held, not
// the other way around.
type listener struct {
	backlog int
	// synQueue has the connections in their handshake, acceptQueue those that are
	// through and wait for Accept.
	synQueue    map[*Endpoint]struct{}
	acceptQueue []*Endpoint // from accepted on
	accepted    int
}

// waiting is how many connections wait for Accept.
func (l *listener) waiting() int { return len(l.acceptQueue) - l.accepted }

// next takes the first of those that wait. There must be one.
func (l *listener) next() *Endpoint {
	child := l.acceptQueue[l.accepted]
	l.acceptQueue[l.accepted] = nil
	if l.accepted++; l.accepted > len(l.acceptQueue)/2 {
		// Half of the list is free: moving the rest costs each connection one step.
		n := copy(l.acceptQueue, l.acceptQueue[l.accepted:])
		clear(l.acceptQueue[n:])
		l.acceptQueue, l.accepted = l.acceptQueue[:n], 0
	}
	return child
}

// Accept implements transport.Endpoint.
func (e *Endpoint) Accept() (transport.Endpoint, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current() != transport.StateListen {
		return nil, syscall.EINVAL
	}
	l := e.listen
	if l.waiting() == 0 {
		return nil, transport.ErrWouldBlock
	}
	return l.next(), nil
}

// closeListenerLocked ends an endpoint that listens, with mu held, which it lets go.
// Connections that nobody accepted are reset.
func (e *Endpoint) closeListenerLocked() {
	l := e.listen
	orphans := l.acceptQueue[l.accepted:]
	for child := range l.synQueue {
		orphans = append(orphans, child)
	}
	l.acceptQueue, l.synQueue, l.accepted = nil, nil, 0
	e.finish(transport.StateClosed, nil)
	e.unlock()
	for _, child := range orphans {
		child.Abort()
	}
}

// forget removes a connection that failed before it was accepted.
func (e *Endpoint) forget(child *Endpoint) {
	e.mu.Lock()
	delete(e.listen.synQueue, child)
	e.mu.Unlock()
}

// admit moves a connection whose handshake is through to those that wait for
// Accept, and returns who is to be told, or reports false when there is no room.
// The caller holds the child's mu.
func (e *Endpoint) admit(child *Endpoint) (told transport.Sink, ok bool) {
	e.mu.Lock()
	l := e.listen
	if e.current() != transport.StateListen || l.waiting() >= l.backlog {
		e.mu.Unlock()
		stats := &e.p.stats
		stats.ListenOverflowAckDrop.Increment()
		return nil, false
	}
	delete(l.synQueue, child)
	l.acceptQueue = append(l.acceptQueue, child)
	told = e.sink
	e.mu.Unlock()
	return told, true
}

// listening is the state of a listener.
const listening = transport.StateListen

// arrived handles a segment that is not one of an established connection.
func (e *Endpoint) arrived(s *segment, a *arrival) {
	if e.current() == listening {
		if account := e.p.account; account == nil || account.Admit(e, s.flags) {
			e.atListener(s, a)
		}
		return
	}
	e.mu.Lock()
	e.p.stats.ValidSegmentsReceived.Increment()
	if e.trace != nil {
		e.trace.Received(a.header, len(s.payload))
	}
	again := e.receive(s)
	if again {
		a.beyond = e.sendMax + e.maxWindow
	}
	if e.ackOwed.Load() {
		e.sendAck()
	}
	e.unlock()
	if !again {
		return
	}
	e.p.anew(s, a)
}

// anew handles a segment whose connection has ended just now. A new one may begin where
// an old one waited (RFC 9293 section 3.6.1): the SYN belongs to the listener. No lock
// must be held.
func (p *Protocol) anew(s *segment, a *arrival) {
	if l := p.listener(a.proto, a.id); l != nil {
		l.arrived(s, a)
		return
	}
	p.refuse(s, a.id, a.proto)
}

// atListener handles a segment to a listener (RFC 9293 section 3.10.7.2).
func (e *Endpoint) atListener(s *segment, a *arrival) {
	e.p.stats.ValidSegmentsReceived.Increment()
	switch {
	case s.flags&rst != 0:
	case s.flags&ack != 0:
		if s.flags&syn != 0 || !e.acceptCookie(s, a) {
			e.p.refuse(s, a.id, a.proto)
		}
	case s.flags&syn != 0 && s.flags&fin == 0:
		e.answerSYN(s, a)
	default:
		e.p.stats.InvalidSegmentsReceived.Increment()
	}
}

// answerSYN answers a SYN.
func (e *Endpoint) answerSYN(s *segment, a *arrival) {
	stats := &e.p.stats
	o := synOptions(s, a.proto)
	e.mu.Lock()
	l := e.listen
	if e.current() != transport.StateListen {
		e.mu.Unlock()
		return
	}
	if l.waiting() >= l.backlog {
		e.mu.Unlock()
		stats.ListenOverflowSynDrop.Increment()
		return
	}
	cookie := len(l.synQueue) >= l.backlog
	e.mu.Unlock()
	if cookie || e.p.options().alwaysCookies {
		stats.ListenOverflowSynCookieSent.Increment()
		e.sendCookie(s, a, &o)
		return
	}
	child := e.child(s, a)
	if child == nil {
		return
	}
	child.mu.Lock()
	child.synReceived(s, &o)
	if !child.addLocked() {
		child.finish(transport.StateClosed, nil)
		child.unlock()
		return
	}
	e.mu.Lock()
	// The port may have been handed over just now.
	listening := e.current() == transport.StateListen && e.p.passage(&a.id) == nil
	if listening {
		l.synQueue[child] = struct{}{}
		child.parent = e
	}
	e.mu.Unlock()
	if listening {
		if a.beyond != 0 {
			child.iss = e.p.sequenceBeyond(&a.id, a.beyond)
		}
		child.open()
	} else {
		child.finish(transport.StateClosed, nil)
	}
	child.unlock()
}

// child makes the endpoint of a connection to the listener, nil when there is no
// way back.
func (e *Endpoint) child(s *segment, a *arrival) *Endpoint {
	epoch := e.p.routes.Load()
	to, err := e.p.findDestination(epoch, 0, a.id.LocalAddress, a.id.RemoteAddress, a.proto)
	if err != nil {
		e.p.stats.FailedConnectionAttempts.Increment()
		return nil
	}
	c := newEndpoint(e.p, a.proto)
	c.ID = a.id
	c.protocols = protocolsOf(a.proto)
	c.record(true)
	if c.trace != nil {
		c.trace.Received(a.header, len(s.payload))
	}
	c.setDestination(to, epoch)
	c.nagle, c.v6Only = e.nagle, e.v6Only
	c.receiveSize, c.sendSize = e.Buffers()
	return c
}
