package tcp

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/transport"
)

// Cookies returns what the cookies of p are made with.
func (p *Protocol) Cookies() *syncookie.Cookies { return p.cookies }

// ShareCookies makes p's cookies those of another Protocol. It must be called
// before there is traffic.
func (p *Protocol) ShareCookies(c *syncookie.Cookies) { p.cookies = c }

// knows tells whether a segment acknowledges a cookie, and the peer's MSS.
func (p *Protocol) knows(s *segment, id *stack.TransportEndpointID) (mss uint16, ok bool) {
	local, remote := netstack.Ends(id)
	return p.cookies.Key.Check(local, remote, s.seq-1, p.cookies.Minute(), s.ack-1)
}

// isCookie tells whether a segment acknowledges a cookie.
func (p *Protocol) isCookie(s *segment, id *stack.TransportEndpointID) bool {
	_, ok := p.knows(s, id)
	return ok
}

// supersedesLocked tells whether a segment to a connection in SYN-RECEIVED acknowledges
// a cookie. A SYN to it was answered without its knowledge then, by the filter of the
// device, and the listener has to see to it.
func (e *Endpoint) supersedesLocked(s *segment) bool {
	return s.flags&(syn|rst|ack) == ack && e.parent != nil && s.ack != e.iss+1 && e.p.isCookie(s, &e.ID)
}

// sendCookie answers a SYN with a cookie.
func (e *Endpoint) sendCookie(s *segment, a *arrival, o *header.TCPSynOptions) {
	r, err := e.p.stack.FindRoute(0, a.id.LocalAddress, a.id.RemoteAddress, a.proto, false)
	if err != nil {
		return
	}
	defer r.Release()
	c := e.p.cookies
	local, remote := netstack.Ends(&a.id)
	var b [header.TCPHeaderMaximumSize]byte
	n := header.TCPMinimumSize
	n += header.EncodeMSSOption(uint32(announcedMSS(r, e.p.out.Route(a.id.LocalAddress, a.id.RemoteAddress, r.NextHop()))), b[n:])
	if o.TS {
		shift, sack := min(o.WS, header.MaxWndScale), o.SACKPermitted && e.p.options().sack
		if sack {
			n += header.EncodeSACKPermittedOption(b[n:])
		} else {
			n += header.EncodeNOP(b[n:])
			n += header.EncodeNOP(b[n:])
		}
		n += header.EncodeTSOption(syncookie.Stamp(uint32(c.Now()/int64(time.Millisecond)), shift, sack), o.TSVal, b[n:])
		if shift >= 0 {
			n += header.EncodeNOP(b[n:])
			n += header.EncodeWSOption(syncookie.WindowShift, b[n:])
		}
	}
	header.TCP(b[:]).Encode(&header.TCPFields{
		SrcPort: a.id.LocalPort, DstPort: a.id.RemotePort,
		SeqNum: c.Key.Make(local, remote, s.seq, c.Minute(), o.MSS), AckNum: s.seq + 1,
		DataOffset: uint8(n), Flags: syn | ack, WindowSize: 0xffff,
	})
	e.p.sendSlow(r, b[:n], nil, uint32(e.p.hash('h', &a.id, 0)))
}

// acceptCookie makes a connection of an acknowledgement that has a cookie.
func (e *Endpoint) acceptCookie(s *segment, a *arrival) bool {
	mss, ok := e.p.knows(s, &a.id)
	if !ok {
		return false
	}
	iss, irs := s.ack-1, s.seq-1
	stats := &e.p.stats
	e.mu.Lock()
	full := e.current() != transport.StateListen || e.listen.waiting() >= e.listen.backlog
	e.mu.Unlock()
	if full {
		stats.ListenOverflowAckDrop.Increment()
		return true // the peer will ask again, with its first data
	}
	child := e.child(s, a)
	if child == nil {
		return true
	}
	stats.ListenOverflowSynCookieRcvd.Increment()
	child.mu.Lock()
	defer child.unlock()
	o := header.TCPSynOptions{MSS: mss, WS: -1}
	if s.timestamp { // only where the answer had one
		o.TS, o.TSVal = true, s.tsVal
		o.WS, o.SACKPermitted = syncookie.Told(s.tsEcr)
	}
	child.synReceived(&segment{seq: irs, window: s.window}, &o)
	if o.TS {
		child.tsOffset = s.tsEcr - uint32(e.p.now()/int64(time.Millisecond)) // ours go on from there
	}
	if o.WS >= 0 {
		child.receiveShift = syncookie.WindowShift
	}
	child.iss, child.unacknowledged, child.sendNext, child.sendMax = iss, iss, iss+1, iss+1
	if !child.addLocked() {
		child.finish(transport.StateClosed, nil)
		return true
	}
	child.parent = e
	child.hash = uint32(e.p.hash('h', &child.ID, 0)) | 1
	child.receive(s)
	if child.current() == transport.StateSynReceived { // the listener went, or filled up, just now
		child.finish(transport.StateClosed, nil)
		return true
	}
	if child.ackOwed.Load() {
		child.sendAck()
	}
	return true
}
