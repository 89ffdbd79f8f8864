package accel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/ports"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// A listener's port passes from one process to the next without a moment in which
// nobody has it. The elder offers it on a Unix socket in the abstract namespace, which
// belongs to the network namespace as ports do. They speak in messages:
//
//	elder   the socket that holds the port in the kernel, as a descriptor
//	younger ready: it listens, but claims nothing yet
//	elder   flows: its connections. From now on it keeps segments of no connection
//	younger claimed: its filter has the port, but for those flows
//	elder   drained: its own filter has nothing but those flows
//	elder   segment, as often as there is one: what it kept, and what still comes
//	elder   ended, now and then: flows that are about to be no more
//	younger forgotten: they are its own. Then the elder lets go of them: a peer may
//	        begin the next connection from the same port at once
//
// The elder's listener ends when its last handshake is through and accepted. A younger
// one that fails before it has claimed leaves everything as it was.
const (
	msgPort = iota + 1
	msgReady
	msgFlows
	msgClaimed
	msgDrained
	msgSegment
	msgEnded
	msgForgotten
)

// Bounds of a hand-over.
const (
	// handOverTimeout is how long either side waits for the other: a busy machine may
	// take seconds to start a process and to load a filter.
	handOverTimeout = 30 * time.Second
	// forgetTimeout is how long the elder waits for the younger to forget flows.
	forgetTimeout = 2 * time.Second
	// handshakeTimeout is how long handshakes have that the elder began.
	handshakeTimeout = 10 * time.Second
	// underWay is how long a frame may take from the younger one's filter (XDP), where it
	// was before that had the port, to the elder's behind it. On a busy machine the kernel
	// may do something else in between, for as long as a time slice of everybody else.
	underWay = time.Second
	// handOverSegments is how many segments wait for the younger one; more are lost.
	handOverSegments = 4096
	maxMessage       = 4 << 20 // bytes: as many flows as a filter has exceptions
	flowBytes        = 36
)

// handOverName is where a port of an interface is offered.
func handOverName(device, network string, at netip.AddrPort) string {
	return fmt.Sprintf("@tpa/handover/%s/%s/%v/%d", device, network, at.Addr(), at.Port())
}

// messages are a channel between two processes. One goroutine receives, any may send.
type messages struct {
	*net.UnixConn
	mu sync.Mutex // held while a message is sent

	// The elder's. telling is held from msgEnded to msgForgotten, which forgotten brings;
	// it is closed when the younger one is gone.
	telling   sync.Mutex
	forgotten chan struct{}
}

func (m *messages) send(kind byte, body, rights []byte) error {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	b = append(b, body...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.SetWriteDeadline(time.Now().Add(handOverTimeout))
	n, _, err := m.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = m.Write(b[n:])
	}
	return err
}

func (m *messages) receive() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(m, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxMessage {
		return 0, nil, fmt.Errorf("hand-over: a message of %d bytes: want at most %d", n, maxMessage)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(m, body)
	return head[0], body, err
}

// want receives a message of a kind.
func (m *messages) want(kind byte) ([]byte, error) {
	m.SetReadDeadline(time.Now().Add(handOverTimeout))
	got, body, err := m.receive()
	if err == nil && got != kind {
		err = fmt.Errorf("hand-over: got message %d, want %d", got, kind)
	}
	return body, err
}

func appendFlows(b []byte, flows []link.Flow) []byte {
	for _, f := range flows {
		for _, end := range []netip.AddrPort{f.Local, f.Remote} {
			a := end.Addr().As16()
			b = binary.BigEndian.AppendUint16(append(b, a[:]...), end.Port())
		}
	}
	return b
}

func parseFlows(b []byte) []link.Flow {
	end := func(b []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
	}
	var flows []link.Flow
	for ; len(b) >= flowBytes; b = b[flowBytes:] {
		flows = append(flows, link.Flow{Local: end(b), Remote: end(b[flowBytes/2:])})
	}
	return flows
}

// A predecessor is the process that a port comes from.
type predecessor struct {
	*messages
	done chan struct{} // nil until receiveFrom
}

// askForPort takes a port from the process that offers it, nil where nobody does.
func (s *sharing) askForPort(network string, at netip.AddrPort) (*predecessor, *ports.Reservation) {
	if !s.rt.config.HandOver || at.Port() == 0 {
		return nil, nil
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: handOverName(s.follower.State().Name, network, at)})
	if err != nil {
		return nil, nil // the usual case
	}
	p := &predecessor{messages: &messages{UnixConn: c}}
	fd, err := p.descriptor()
	if err != nil {
		s.log.Warn("another process offers the port and does not hand it over", "port", at.Port(), "err", err)
		c.Close()
		return nil, nil
	}
	return p, ports.Adopt(fd, at.Port())
}

// descriptor receives what the first message of the elder brings.
func (p *predecessor) descriptor() (fd int, err error) {
	if err := ownProcess(p.UnixConn); err != nil {
		return -1, err
	}
	p.SetReadDeadline(time.Now().Add(handOverTimeout))
	var head [5]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := p.ReadMsgUnix(head[:], oob)
	if err != nil {
		return -1, err
	}
	if all, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(all) == 1 && n == len(head) && head[0] == msgPort {
		if fds, err := syscall.ParseUnixRights(&all[0]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("hand-over: nothing came with the first message")
}

// flows says that we listen, and receives the connections that the predecessor keeps.
func (p *predecessor) flows() ([]link.Flow, error) {
	if err := p.send(msgReady, nil, nil); err != nil {
		return nil, err
	}
	body, err := p.want(msgFlows)
	return parseFlows(body), err
}

// claimed says that the port is ours. From then on what the predecessor still has of it
// comes to the lease, until close.
func (p *predecessor) claimed(l *lease) {
	var before []byte
	if _, behind := l.sharing.rt.device.(*packetDevice); !behind {
		before = []byte{1} // our filter stands before the predecessor's
	}
	_ = p.send(msgClaimed, before, nil) // an error shows when we receive, too
	p.SetReadDeadline(time.Time{})
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		defer p.Close()
		for {
			kind, body, err := p.receive()
			switch {
			case err != nil:
				l.tended()
				l.forgetKept(nil) // it has ended
				return
			case kind == msgDrained:
				l.tended()
			case kind == msgSegment:
				l.sharing.rt.shards[0].DeliverPacket(body)
			case kind == msgEnded && len(body) > 0:
				l.forgetKept(parseFlows(body))
				_ = p.send(msgForgotten, nil, nil) // an error shows when we receive, too
			}
		}
	}()
}

// close ends it. Nobody may hold sharing.mu.
func (p *predecessor) close() {
	if p == nil {
		return
	}
	p.Close()
	if p.done != nil {
		<-p.done
	}
}

// An offer lets another process have the port of a listener.
type offer struct {
	l     *listener
	name  string
	local netip.AddrPort
	done  chan struct{}
	// closed is closed by close.
	closed    chan struct{}
	closeOnce sync.Once

	mu sync.Mutex
	// mu guards the following fields.
	socket *net.UnixListener
	conn   *messages // with a younger process
}

// offer begins to offer the listener's port, where the configuration says so.
func (l *listener) offer(network string, laddr *net.TCPAddr) {
	if l.lease == nil || !l.rt.config.HandOver {
		return
	}
	if _, ok := l.lease.sharing.steering.Filter().(link.FlowFilter); !ok {
		return // its filter could not tell the connections of two processes apart
	}
	at := netip.AddrPortFrom(listenAddr(network, laddr), l.lease.first)
	o := &offer{
		l: l, name: handOverName(l.lease.sharing.follower.State().Name, network, at), local: at,
		done: make(chan struct{}), closed: make(chan struct{}),
	}
	l.offered = o
	go o.run()
}

// run offers the port until it is handed over or the listener closes.
func (o *offer) run() {
	defer close(o.done)
	for o.open() {
		c, err := o.socket.AcceptUnix()
		if err != nil {
			return // closed
		}
		if ownProcess(c) != nil {
			c.Close()
			continue
		}
		if o.handOver(&messages{UnixConn: c}) {
			return
		}
		c.Close()
	}
}

// open listens for the next process. The one before may have the name for a moment.
func (o *offer) open() bool {
	deadline := time.Now().Add(handOverTimeout)
	for {
		o.mu.Lock()
		if o.socket != nil {
			o.mu.Unlock()
			return true
		}
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: o.name})
		o.socket = socket
		o.mu.Unlock()
		if err == nil {
			return true
		}
		if time.Now().After(deadline) {
			o.l.rt.log.Warn("the port cannot be handed over to the next process", "port", o.local.Port(), "reason", err)
			return false
		}
		select {
		case <-o.closed:
			return false
		case <-time.After(time.Millisecond):
		}
	}
}

// withdraw makes the name free.
func (o *offer) withdraw() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.socket != nil {
		o.socket.Close()
		o.socket = nil
	}
}

// handOver hands the port over, and reports whether that is done.
func (o *offer) handOver(m *messages) (done bool) {
	l, s := o.l, o.l.lease.sharing
	o.mu.Lock()
	o.conn = m
	o.mu.Unlock()
	if err := m.send(msgPort, nil, syscall.UnixRights(l.lease.hold.Descriptor())); err != nil {
		return false
	}
	if _, err := m.want(msgReady); err != nil {
		return false
	}
	segments := make(chan []byte, handOverSegments)
	if !s.passOn(o.local, func(packet []byte) {
		select {
		case segments <- append([]byte(nil), packet...):
		default: // TCP sends it again
		}
	}) {
		l.rt.log.Warn("the port cannot be handed over: want TPA_TCP=tpa", "port", o.local.Port())
		return false
	}
	flows := append(s.flows(l.lease.first), l.lease.keptNow()...)
	err := m.send(msgFlows, appendFlows(nil, flows), nil)
	var before []byte
	if err == nil {
		before, err = m.want(msgClaimed)
	}
	if err != nil {
		l.rt.log.Warn("the port stays here: the process that asked for it did not take it", "port", o.local.Port(), "err", err)
		s.passOn(o.local, nil)
		for len(segments) > 0 {
			s.rt.shards[0].DeliverPacket(<-segments)
		}
		return false
	}
	o.withdraw()
	l.lease.hold.give()
	l.handedOver.Store(true)
	l.rt.log.Info("the port was handed over", "port", o.local.Port(), "connections", len(flows))
	wait := time.Duration(0)
	if len(before) > 0 {
		wait = underWay
	}
	l.rt.watchers.Go(func() { o.finish(m, segments, wait) })
	return true
}

// finish ends the lease when no frame is under way any more that comes here by it, closes
// the listener when the handshakes are through that have begun, and passes on what still
// comes until the runtime ends.
func (o *offer) finish(m *messages, segments <-chan []byte, wait time.Duration) {
	defer m.Close()
	m.SetReadDeadline(time.Time{})
	m.forgotten = make(chan struct{})
	go m.listen()
	l := o.l
	stopped, drain, deadline := l.rt.stopped, time.After(wait), time.Now().Add(handshakeTimeout)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case p := <-segments:
			_ = m.send(msgSegment, p, nil) // an error says that it has ended: nobody has the port then
		case <-look.C:
			if transport.Pending(l.Listener) == 0 || time.Now().After(deadline) {
				look.Stop()
				l.Close()
			}
		case <-drain:
			l.lease.handOver(m)
			_ = m.send(msgDrained, nil, nil) // who is gone by now needs none
			drain = nil
			if stopped == nil {
				o.leave(m, segments)
				return
			}
		case <-stopped:
			if stopped = nil; drain == nil {
				o.leave(m, segments)
				return
			}
		}
	}
}

// leave has the younger one take the connections that end with the runtime.
func (o *offer) leave(m *messages, segments <-chan []byte) {
	m.ended(o.l.lease.sharing.flows(o.l.lease.first))
	for len(segments) > 0 {
		_ = m.send(msgSegment, <-segments, nil)
	}
}

// listen receives what the younger one says after it has the port.
func (m *messages) listen() {
	defer close(m.forgotten)
	for {
		if kind, _, err := m.receive(); err != nil {
			return
		} else if kind == msgForgotten {
			select {
			case m.forgotten <- struct{}{}:
			case <-time.After(forgetTimeout): // nobody waits any more
			}
		}
	}
}

// close ends the offer, but for what was handed over already. Nobody who runs it may
// call it.
func (o *offer) close() {
	if o == nil {
		return
	}
	o.closeOnce.Do(func() { close(o.closed) })
	o.withdraw()
	if o.l.handedOver.Load() {
		return
	}
	o.mu.Lock()
	if o.conn != nil {
		o.conn.Close()
	}
	o.mu.Unlock()
	<-o.done
}

// ended tells the next process which connections end, and returns when they are that
// one's. Nobody may hold sharing.mu.
func (m *messages) ended(flows []link.Flow) {
	if m == nil || len(flows) == 0 {
		return
	}
	m.telling.Lock()
	defer m.telling.Unlock()
	if m.send(msgEnded, appendFlows(nil, flows), nil) != nil {
		return // it is gone, and has nothing
	}
	select {
	case <-m.forgotten:
	case <-time.After(forgetTimeout):
	}
}
