package tcp

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held.

// sender is the sending half of a connection. The send buffer's first byte has
// sequence number unacknowledged, but while our SYN is in flight.
type sender struct {
	out buffer // written by the program, not acknowledged yet; it begins at unacknowledged

	sendSize int // of the buffer, in bytes

	// These are our sequence numbers, but for windowSeq.

	iss            uint32 // of our SYN: all others count from here
	unacknowledged uint32 // SND.UNA: the first one that the peer has not acknowledged
	sendNext       uint32 // SND.NXT: the next one to send; goes back to SND.UNA after a time-out
	sendMax        uint32 // the greatest SND.NXT: the first one never sent
	windowSeq      uint32 // SND.WL1: the peer's number of the segment that told the window
	windowAck      uint32 // SND.WL2: what that segment acknowledged

	// Windows are in bytes, counted from unacknowledged.

	sendWindow uint32 // SND.WND
	maxWindow  uint32 // the greatest SND.WND
	sendShift  uint8

	// mss is the payload of a full segment, options taken off; peerMSS what the
	// peer said.
	mss, peerMSS int
	mtu          int // of the path, without IP header; 0: that of the route

	// finQueued: our FIN follows the buffer; finSent: it was sent, at finSeq.
	finQueued, finSent bool
	finSeq             uint32 // behind the last byte

	nagle        bool // SetNoDelay(false)
	sackOK, tsOK bool
	tsOffset     uint32

	sentAt int64 // when data left last
	// override: a small segment is better than none.
	override bool
	// stalled: the device had no room, Protocol.Retry will go on.
	stalled bool
	// blocked: the program waits for room.
	blocked bool
	// tuned: the send buffer grows with what is acknowledged; acked bytes were since
	// ackedAt.
	tuned   bool
	acked   int
	ackedAt int64
	hash    uint32

	recovery
}

// maxSend is the most payload that leaves with one header, in bytes: IP's 64 KB
// without the greatest headers.
const maxSend = 65535 - 60 - 60

// setDestination takes over a destination, found when the routes were at epoch, with the reference
// to its route.
func (e *Endpoint) setDestination(d *destination, epoch uint64) {
	if e.route != nil {
		e.route.Release()
	}
	e.route, e.routeEpoch = d.route, epoch
	e.destination, e.path = d, d.path
}

// routed makes sure of the route, which may have changed.
func (e *Endpoint) routed() bool {
	epoch := e.p.routes.Load()
	if epoch == e.routeEpoch {
		return e.route != nil
	}
	if e.route == nil {
		return false
	}
	w, err := e.p.findDestination(epoch, 0, e.ID.LocalAddress, e.ID.RemoteAddress, e.route.NetProto())
	if err != nil {
		// Perhaps it comes back: retransmission will ask again.
		e.soft = err
		return false
	}
	e.setDestination(w, epoch)
	if e.mss > 0 {
		e.updateMSS()
	}
	return true
}

// routeMSS is the payload that fits a packet of the route, without options.
func routeMSS(r *stack.Route, known netif.Route) int {
	mtu := int(r.MTU())
	if known.MTU > 0 {
		ip := header.IPv4MinimumSize
		if r.NetProto() == header.IPv6ProtocolNumber {
			ip = header.IPv6MinimumSize
		}
		mtu = min(mtu, known.MTU-ip)
	}
	return mtu - header.TCPMinimumSize
}

// announcedMSS is the MSS for SYNs of the route.
func announcedMSS(r *stack.Route, known netif.Route) int {
	mss := routeMSS(r, known)
	if known.MSS > 0 {
		mss = min(mss, known.MSS)
	}
	return mss
}

// open sends the first SYN, or SYN and ACK, of a connection.
func (e *Endpoint) open() {
	if e.iss == 0 {
		e.iss = e.p.initialSequence(&e.ID)
	}
	e.hash = uint32(e.p.hash('h', &e.ID, 0)) | 1
	e.unacknowledged, e.sendNext, e.sendMax = e.iss, e.iss+1, e.iss+1
	if e.current() == transport.StateSynSent {
		e.tsOK = true
		e.receiveShift = shiftFor(e.receiveMax)
	}
	e.tsOffset = uint32(e.p.hash('t', &e.ID, 0))
	e.openedAt = e.p.now()
	e.owedAt = e.openedAt
	e.rto = time.Second
	e.sendSyn()
}

// shiftFor is the window scale with which a window of n bytes fits its field.
func shiftFor(n int) uint8 {
	shift := uint8(0)
	for shift < header.MaxWndScale && n>>shift > 0xffff {
		shift++
	}
	return shift
}

// synReceived takes over a SYN to a listener.
func (e *Endpoint) synReceived(s *segment, o *header.TCPSynOptions) {
	e.setState(transport.StateSynReceived)
	e.tsOK = o.TS
	e.receiveShift = shiftFor(e.receiveMax)
	e.negotiate(s, o)
}

// negotiate takes over the peer's SYN and what it can do.
func (e *Endpoint) negotiate(s *segment, o *header.TCPSynOptions) {
	e.irs = s.seq
	e.receiveNext = s.seq + 1
	e.receiveEdge = e.receiveNext + uint32(min(e.room(), 0xffff))
	e.lastAck = e.receiveNext
	e.heard = e.p.now()
	if o.WS < 0 {
		e.sendShift, e.receiveShift = 0, 0
	} else {
		e.sendShift = uint8(min(o.WS, header.MaxWndScale))
	}
	e.sackOK = e.sackOK && o.SACKPermitted
	if e.tsOK = e.tsOK && o.TS; e.tsOK {
		e.tsRecent, e.tsAge = o.TSVal, e.heard
	}
	e.peerMSS = int(o.MSS)
	e.sendWindow = s.window
	e.maxWindow = max(e.maxWindow, s.window)
	e.updateMSS()
}

// updateMSS computes the payload of a full segment (RFC 6691).
func (e *Endpoint) updateMSS() {
	mss := header.TCPDefaultMSS
	if e.route != nil {
		mss = routeMSS(e.route, e.destination.Route)
		if e.mtu > 0 {
			mss = min(mss, e.mtu-header.TCPMinimumSize)
		}
	}
	if e.peerMSS > 0 {
		mss = min(mss, e.peerMSS)
	}
	if e.tsOK {
		mss -= timestampLen
	}
	e.mss = max(mss, minMSS)
}

const (
	timestampLen = 12
	// timestampOption is how the option begins: no-op, no-op, timestamps.
	timestampOption = 0x0101080a
	// minMSS keeps a hostile peer or router from making us send headers with a few
	// bytes each: Linux has 48 as well (TCP_MIN_SND_MSS).
	minMSS = 48
)

// tooBig handles news that the path takes packets only of size bytes behind the IP
// header.
func (e *Endpoint) tooBig(size int) {
	if e.route == nil || !open(e.current()) {
		return // a SYN is never too big
	}
	if e.route.NetProto() == header.IPv6ProtocolNumber {
		size = max(size, transport.MinMTU6-header.IPv6MinimumSize)
	} else {
		size = max(size, transport.MinMTU4-header.IPv4MinimumSize)
	}
	if e.mtu > 0 && size >= e.mtu {
		return
	}
	e.hole = nil // the path says it
	old := e.mss
	e.mtu = size
	e.updateMSS()
	if e.mss < old && before(e.unacknowledged, e.sendNext) && open(e.current()) {
		// What is in flight was lost, not for congestion.
		e.sendNext = e.unacknowledged
		e.flights.clear()
		e.inRecovery = false
		e.timing = false
		e.output()
	}
}

// sendSyn sends our SYN, with the ACK if the peer's has come.
func (e *Endpoint) sendSyn() {
	flags, wnd := syn, min(e.room(), 0xffff)
	if e.current() == transport.StateSynReceived {
		flags |= ack
	}
	b := e.header(e.iss, flags, uint16(wnd))
	mss := header.TCPDefaultMSS
	if e.route != nil {
		mss = announcedMSS(e.route, e.destination.Route)
	}
	o := b[header.TCPMinimumSize:cap(b)]
	n := header.EncodeMSSOption(uint32(mss), o)
	if e.sackOK {
		n += header.EncodeSACKPermittedOption(o[n:])
		if !e.tsOK {
			n += header.EncodeNOP(o[n:])
			n += header.EncodeNOP(o[n:])
		}
	}
	if e.tsOK {
		if !e.sackOK {
			n += header.EncodeNOP(o[n:])
			n += header.EncodeNOP(o[n:])
		}
		n += header.EncodeTSOption(e.timestamp(), e.tsRecent, o[n:])
	}
	if flags&ack == 0 || e.sendShift > 0 || e.receiveShift > 0 {
		n += header.EncodeNOP(o[n:])
		n += header.EncodeWSOption(int(e.receiveShift), o[n:])
	}
	b = b[:header.TCPMinimumSize+n]
	header.TCP(b).SetDataOffset(uint8(len(b)))
	if e.p.departing != nil {
		if k, ok := netstack.Key(&e.ID); ok {
			e.p.departing(k)
		}
	}
	e.emit(b, 0, 0)
	e.ackOwed.Set(false)
	e.rtoAt = e.p.now() + int64(e.rto)
	e.schedule()
}

// timestamp is our clock in milliseconds, from a start of each connection's own
// (RFC 7323 section 5.4).
func (e *Endpoint) timestamp() uint32 { return timestampAt(e.p.now(), e.tsOffset) }

func timestampAt(at int64, offset uint32) uint32 {
	return uint32(at/int64(time.Millisecond)) + offset
}

// header begins a header in the endpoint's own space.
func (e *Endpoint) header(seq uint32, flags header.TCPFlags, window uint16) []byte {
	b := e.scratch[:header.TCPMinimumSize]
	binary.BigEndian.PutUint16(b[0:], e.ID.LocalPort)
	binary.BigEndian.PutUint16(b[2:], e.ID.RemotePort)
	binary.BigEndian.PutUint32(b[4:], seq)
	next := e.receiveNext
	if flags&ack == 0 {
		next = 0
	}
	binary.BigEndian.PutUint32(b[8:], next)
	b[12] = header.TCPMinimumSize / 4 << 4
	b[13] = byte(flags)
	binary.BigEndian.PutUint16(b[14:], window)
	b[16], b[17], b[18], b[19] = 0, 0, 0, 0
	return b
}

// withOptions adds timestamps and SACK blocks, of duplicates first, to a header of a segment with n
// bytes of data. Blocks that would make a full segment too long are left out:
// what came out of order was acknowledged by itself, with them.
func (e *Endpoint) withOptions(b []byte, n int) []byte {
	if e.tsOK {
		n := len(b)
		b = b[:n+timestampLen]
		binary.BigEndian.PutUint32(b[n:], timestampOption)
		binary.BigEndian.PutUint32(b[n+4:], e.timestamp())
		binary.BigEndian.PutUint32(b[n+8:], e.tsRecent)
	}
	twice := e.again.first != e.again.end
	if (len(e.blocks) > 0 || twice) && n <= e.mss-(header.TCPHeaderMaximumSize-header.TCPMinimumSize) {
		room := (header.TCPHeaderMaximumSize - len(b) - 4) / 8
		at := len(b)
		b = append(b, header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionSACK, 0)
		add := func(x span) {
			b = binary.BigEndian.AppendUint32(b, x.first)
			b = binary.BigEndian.AppendUint32(b, x.end)
		}
		if twice {
			add(e.again)
			e.again = span{} // said once
			room--
		}
		for _, x := range e.blocks[:min(room, len(e.blocks))] {
			add(x)
		}
		b[at+3] = byte(len(b) - at - 2)
	}
	b[12] = byte(len(b) / 4 << 4)
	return b
}

// sendAck acknowledges what was received.
func (e *Endpoint) sendAck() { e.sendControl(e.bareSeq(), ack) }

// bareSeq is the sequence number of segments without data. After a time-out,
// SND.NXT lies before what the peer has: a segment from there would be taken for
// an old one and its acknowledgement ignored, and two peers whose timers ran out
// at once would stand still. So it would beyond the peer's window.
func (e *Endpoint) bareSeq() uint32 {
	if end := e.unacknowledged + uint32(e.sendWindow); after(e.sendMax, end) && e.current() != transport.StateSynReceived {
		return end
	}
	return e.sendMax
}

// sendControl sends a segment without data. A reset waits for room in the device:
// nobody will send it again.
func (e *Endpoint) sendControl(seq uint32, flags header.TCPFlags) {
	if flags&rst != 0 {
		e.emitSlow(e.withOptions(e.header(seq, flags, 0), 0), nil)
		return
	}
	e.emit(e.withOptions(e.header(seq, flags, e.advertise()), 0), 0, 0)
}

// sendControlAt sends a bare segment with an acknowledgement number of its own.
func (e *Endpoint) sendControlAt(seq, next uint32, flags header.TCPFlags) {
	b := e.header(seq, flags, 0)
	binary.BigEndian.PutUint32(b[8:], next)
	e.emitSlow(b, nil)
}

// sendData sends n bytes from sequence number seq on, with more than one segment's
// worth cut up below, and our FIN behind them if last is set. It returns how many
// bytes left, and whether the FIN did.
func (e *Endpoint) sendData(seq uint32, n int, last bool) (int, bool) {
	flags := ack
	at := e.out.begin + uint64(seq-e.unacknowledged)
	if n > 0 && at+uint64(n) == e.out.end {
		flags |= psh
	}
	if last {
		flags |= fin
	}
	sent, all := e.emit(e.withOptions(e.header(seq, flags, e.advertise()), n), at, n)
	return sent, last && all
}

// emit sends a segment on the fast path, or the slow one. It returns how many
// bytes left and whether all did; if not, Retry goes on.
func (e *Endpoint) emit(b []byte, at uint64, n int) (int, bool) {
	owed := e.ackOwed.Load()
	e.ackOwed.Set(false)
	e.lastAck = e.receiveNext
	if !e.routed() {
		return n, true // lost, as in a network
	}
	if e.route.Loop() == stack.PacketOut {
		sent, result := e.p.out.SendTCP(&e.path, b, &e.out, at, n, e.mss)
		if e.trace != nil && (result == netif.Sent || sent > 0) {
			e.trace.Sent(b, sent, false)
		}
		switch result {
		case netif.Sent:
			return sent, true
		case netif.Full:
			if sent == 0 {
				e.ackOwed.Set(owed || n == 0)
			}
			e.p.stallLocked(e)
			return sent, false
		}
	}
	for left := n; ; {
		k := min(left, e.mss)
		payload := make([]byte, k)
		e.out.CopyAt(payload, at)
		flags := b[13]
		if k < left {
			b[13] &^= byte(fin | psh)
		}
		e.emitSlow(b, payload)
		b[13] = flags
		binary.BigEndian.PutUint32(b[4:], binary.BigEndian.Uint32(b[4:])+uint32(k))
		at += uint64(k)
		if left -= k; left == 0 {
			return n, true
		}
	}
}

// emitSlow sends a segment through gVisor's IP layer.
func (e *Endpoint) emitSlow(b, payload []byte) {
	if !e.routed() {
		return
	}
	if e.trace != nil {
		e.trace.Sent(header.TCP(b), len(payload), false)
	}
	err := e.p.sendSlow(e.route, b, payload, e.hash)
	switch err.(type) {
	case nil:
	case *tcpip.ErrMessageTooLong:
		// The device's MTU shrank below the route's.
	default:
		e.soft = err
	}
}

// output sends what the windows allow (RFC 9293 section 3.8.6.2.1, RFC 5681).
func (e *Endpoint) output() {
	if s := e.current(); !open(s) || s == transport.StateTimeWait {
		return
	}
	if e.inRecovery && e.sackOK {
		e.repair()
		e.schedule()
		return
	}
	if e.unacknowledged == e.sendMax && e.window > e.initialWindow() && e.p.now()-e.sentAt > int64(e.rto) {
		// RFC 5681 section 4.1: what the window was before a pause says little.
		e.window = e.initialWindow()
	}
	for !e.stalled {
		flight := e.sendNext - e.unacknowledged
		left := e.out.len() - int(flight) // may be -1: our FIN is in flight
		window := min(uint32(e.window+e.extra()), e.sendWindow)
		room := int(int32(window - flight))
		finDue := e.finQueued && (!e.finSent || before(e.sendNext, e.finSeq+1))
		if left <= 0 && !(finDue && left == 0) {
			break
		}
		if e.hole != nil && e.largerSize(room) {
			continue
		}
		n := min(left, room, maxSend/e.mss*e.mss)
		if n < 0 {
			n = 0
		}
		if n < left {
			// Not to the end: full segments only, unless nothing is in flight, which
			// would call for more.
			if n >= e.mss {
				n -= n % e.mss
			} else if flight > 0 || n == 0 || n < int(e.maxWindow/2) && !e.override {
				break // the persist timer overrides it
			}
		} else if n > 0 && n < e.mss && flight > 0 && !e.finQueued && e.nagle {
			break // Nagle
		}
		last := finDue && n == left && (n > 0 || room > 0 || e.sendWindow == 0 && flight == 0)
		if n == 0 && !last {
			break
		}
		if !e.transmit(n, last) {
			break
		}
	}
	if e.sendNext == e.unacknowledged && e.out.len() > 0 && e.persistAt == 0 && !e.stalled {
		now := e.p.now()
		e.persistAt = now + e.timeout()
		if e.backoff == 0 {
			e.owedAt = now
		}
	}
	e.schedule()
}

// transmit sends n bytes, and perhaps our FIN, from sendNext on. It reports false
// when the device had no room for all.
func (e *Endpoint) transmit(n int, last bool) bool {
	seq, now := e.sendNext, e.p.now()
	sent, finished := e.sendData(seq, n, last)
	if e.rtoAt == 0 {
		e.rtoAt = now + e.timeout()
		if e.attempts == 0 {
			e.owedAt = now
		}
	}
	if sent == 0 && !finished {
		return false
	}
	var state flightState
	if again := before(seq, e.sendMax); again {
		state = resent
		e.countRetransmit(sent)
	} else if !e.timing {
		e.timing, e.timedSeq, e.timedAt = true, seq, now
	}
	e.sentAt = now
	e.sendNext += uint32(sent)
	if finished {
		e.finSent, e.finSeq = true, e.sendNext
		e.sendNext++
	}
	if after(e.sendNext, e.sendMax) {
		e.sendMax = e.sendNext
	}
	if e.sackOK {
		e.flights.sent(e.sendNext, state, now)
		e.awaitTail(now)
	}
	e.persistAt = 0
	return sent == n && finished == last
}

// longPath is a round trip from which on slow start is so slow that buffers must not
// hold it up.
const longPath = 10 * time.Millisecond

// moderateSend gives a sender a buffer of twice what is acknowledged in the shortest
// round trip, and on a long path of four times that in slow start, where the next round trip sends
// twice as much (Linux, tcp_sndbuf_expand). Round trips that are long because much waits
// do not count: a larger buffer would only make them longer.
func (e *Endpoint) moderateSend(n int, now int64) {
	e.acked += n
	passed := now - e.ackedAt
	if passed < max(e.rack.least, int64(time.Millisecond)) {
		return
	}
	want := 2 * float64(e.acked) * float64(e.rack.least) / float64(passed)
	if e.window < e.threshold && e.rack.least > int64(longPath) {
		want *= 2 // on a short path it would only make writes wait
	}
	if most := e.p.options().send.Max; want > float64(e.sendSize) && e.sendSize < most {
		e.sendSize = int(min(want, float64(most)))
	}
	e.acked, e.ackedAt = 0, now
}

// countRetransmit counts a segment of n bytes that left again.
func (e *Endpoint) countRetransmit(n int) {
	if u := e.undo; u != nil {
		u.left += n
		if u.armed && !u.stamped {
			u.stamped, u.stamp = true, e.timestamp()
		}
	}
	e.p.stats.Retransmits.Increment()
	e.retransmits++
}
