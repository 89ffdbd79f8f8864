package tcp

import (
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"github.com/gotpa/tpa/internal/counter"
	"github.com/gotpa/tpa/internal/transport"
)

// The methods of this file need Endpoint.mu held, but for Input and Acknowledge.

// receiver is the receiving half of a connection.
type receiver struct {
	in buffer // received in order, not read yet; it ends at receiveNext, but for a FIN

	receiveSize int // of the buffer, in bytes

	// These are the peer's sequence numbers.

	irs         uint32 // of its SYN: all others count from here
	receiveNext uint32 // RCV.NXT: what we acknowledge, the first one that has not come
	// receiveEdge is the right edge of the window that the peer was told, RCV.NXT plus
	// RCV.WND when it was: it never moves back (RFC 9293 section 3.8.6).
	receiveEdge  uint32
	receiveShift uint8

	finReceived bool // and all before it
	awaited     bool // there is a posting

	// outOfOrder is the out-of-order queue, sorted; lateFin tells whether a FIN at
	// finAt is among it. outOfOrderBytes counts what it costs, overhead included.
	outOfOrder      []piece
	outOfOrderBytes int
	lateFin         bool
	finAt           uint32
	// blocks are what SACK reports, the latest first (RFC 2018 section 4); again,
	// if not empty, is what arrived twice and goes before them (RFC 2883).
	blocks []span
	again  span

	// tsRecent is RFC 7323's TS.Recent, taken at tsAge; lastAck its Last.ACK.sent, the
	// receiveNext of the last segment that left.
	tsRecent uint32
	tsAge    int64
	lastAck  uint32

	// ackOwed: what was received has not been acknowledged. The poller looks at it
	// without mu. ackListed is the poller's alone: Acknowledge will be called.
	ackOwed   counter.Flag
	ackListed bool
	heard     int64 // when the last segment came
	copied    int   // bytes read since moderation.copiedAt
}

// moderation: the receive buffer grows with what the program reads, up to receiveMax.
type moderation struct {
	moderate   bool
	receiveMax int
	copiedAt   int64
	copiedLast int // in the round trip before copiedAt
}

// posting is where a reader waits for what comes while the receive buffer is empty, and
// how much of it has come.
type posting struct {
	posted []byte
	filled int
}

// A piece is data that came out of order.
type piece struct {
	seq uint32
	b   []byte
}

func (p *piece) end() uint32 { return p.seq + uint32(len(p.b)) }

const (
	// pieceOverhead is what a segment out of order costs besides its bytes: tiny ones
	// must not cost more memory than the window allows.
	pieceOverhead = 256
	// maxPieces bounds the pieces, each with a gap before it: who sends every other
	// byte must not make us move many. A longestPiece is what joins one at most.
	maxPieces      = 1024
	longestPiece   = 64 << 10
	challengeEvery = int64(transport.ChallengeInterval)
	tsStale        = int64(transport.TimestampsStale)
)

// Input handles a segment of an established connection. h is its header, which
// with payload is valid during the call only. It reports whether Acknowledge has
// to be called at the end of the poll.
func (e *Endpoint) Input(h header.TCP, payload []byte) (owes bool) {
	var s segment
	s.parse(h, payload)
	e.mu.Lock()
	if e.trace != nil {
		e.trace.Received(h, len(payload))
	}
	// A SYN that could take the place of a connection that ended comes again, and
	// on the slow path then.
	e.receive(&s)
	if e.ackOwed.Load() && !e.ackListed {
		e.ackListed = true
		owes = true
	}
	e.unlock()
	return owes
}

// Acknowledge sends the acknowledgement that Input reported, unless a reply has
// carried it meanwhile. Only who calls Input calls it.
func (e *Endpoint) Acknowledge() {
	e.ackListed = false
	// Who owes anew since Input, on the slow path, sees to that itself.
	if !e.ackOwed.Load() {
		return
	}
	e.mu.Lock()
	if e.ackOwed.Load() {
		e.sendAck()
	}
	e.unlock()
}

// receive handles a segment. It reports true when it has done nothing but end an
// old connection, because the segment begins a new one, or when the connection has
// ended already.
func (e *Endpoint) receive(s *segment) (again bool) {
	switch state := e.current(); state {
	case transport.StateSynSent:
		e.receiveSynSent(s)
	case transport.StateTimeWait:
		return e.receiveTimeWait(s)
	case transport.StateSynReceived:
		if e.supersedesLocked(s) {
			e.finish(transport.StateClosed, nil)
			return true
		}
		e.receiveSynchronized(s)
	case transport.StateClosed, transport.StateError, transport.StateInitial, transport.StateBound, transport.StateListen, transport.StateConnecting:
		if e.current() == transport.StateClosed && s.length() == 0 {
			// An acknowledgement that others overtook, behind the last one: a reset would
			// take the peer out of TIME-WAIT (RFC 1337).
			return false
		}
		// It ended while the segment was queued: who comes next finds the listener, or
		// answers with a reset (RFC 9293 section 3.10.7.1).
		return s.flags&rst == 0
	default:
		e.receiveSynchronized(s)
	}
	return false
}

// receiveSynSent is RFC 9293 section 3.10.7.3.
func (e *Endpoint) receiveSynSent(s *segment) {
	if s.flags&ack != 0 && s.ack != e.iss+1 {
		if s.flags&rst == 0 {
			e.sendControlAt(s.ack, 0, rst)
		}
		return
	}
	if s.flags&rst != 0 {
		if s.flags&ack != 0 {
			e.fail(&tcpip.ErrConnectionRefused{})
		}
		return
	}
	if s.flags&syn == 0 {
		return
	}
	o := synOptions(s, (*e.protocols)[0])
	e.negotiate(s, &o)
	if s.flags&ack == 0 {
		// Both ends open at once.
		e.setState(transport.StateSynReceived)
		e.sendSyn()
		return
	}
	e.sampleHandshake()
	e.unacknowledged = s.ack
	e.established(s)
	e.events |= transport.Writable
	e.ackOwed.Set(true)
	if len(s.payload) > 0 || s.flags&fin != 0 {
		s.seq++
		s.flags &^= syn
		e.text(s)
	}
	e.sendAck()
}

// established begins the life of a connection.
func (e *Endpoint) established(s *segment) {
	e.backoff, e.attempts = 0, 0
	e.rtoAt = 0
	e.sendWindow = s.window // of a SYN: not scaled
	if s.flags&syn == 0 {
		e.sendWindow <<= e.sendShift
	}
	e.windowSeq, e.windowAck = s.seq, s.ack
	e.maxWindow = max(e.maxWindow, e.sendWindow)
	e.startCongestion()
	e.setState(transport.StateEstablished)
	if e.finQueued { // shut while connecting
		e.setState(transport.StateFinWait1)
	}
	e.restartKeepAlive()
}

// receiveSynchronized handles a segment in any state from SYN-RECEIVED on (RFC
// 9293 section 3.10.7.4).
func (e *Endpoint) receiveSynchronized(s *segment) {
	now := e.p.now()
	if e.current() == transport.StateSynReceived && s.flags&(syn|rst) == syn && s.seq == e.irs {
		if s.flags&ack == 0 || s.ack != e.iss+1 {
			e.sendSyn() // ours was lost
			return
		}
		// Both ends opened at once: this is the answer to our SYN.
		if e.complete(s) {
			e.sendAck()
			e.output()
		}
		return
	}
	if s.flags&(syn|rst) == syn {
		// RFC 5961 section 4, whatever its sequence number and timestamp are: a peer
		// that lost its state and comes back answers with the right reset.
		e.challenge(s, now)
		return
	}
	if e.current() == transport.StateSynReceived && s.flags&(ack|rst) == ack && s.ack != e.iss+1 {
		// RFC 9293 section 3.5.2, group 2, wherever the segment lies, as with Linux.
		e.sendControlAt(s.ack, 0, rst)
		return
	}
	if e.tsOK && s.timestamp && s.flags&rst == 0 && before(s.tsVal, e.tsRecent) && now-e.tsAge < tsStale {
		// RFC 7323 section 5.3: protection against wrapped sequence numbers. A segment
		// without the option passes, as with Linux, against the SHOULD of section 3.2:
		// devices on the path take it off, and the connection would never end.
		e.p.refused.timestamps.Add(1)
		e.outside(s, now)
		return
	}
	if !e.acceptable(s) {
		if s.flags&rst == 0 {
			e.outside(s, now)
		} else {
			e.p.stats.InvalidSegmentsReceived.Increment()
		}
		return
	}
	e.heard = now
	switch {
	case s.flags&rst != 0:
		// RFC 5961 section 3: only the very next sequence number is believed.
		if s.seq == e.receiveNext || e.resetBeforeFIN(s) {
			e.resetReceived()
		} else {
			e.challenge(s, now)
		}
		return
	case s.flags&ack == 0: // RFC 9293 section 3.10.7.4, fifth
		e.p.stats.InvalidSegmentsReceived.Increment()
		return
	}
	if e.current() == transport.StateSynReceived && !e.complete(s) {
		return
	}
	// RFC 5961 section 5: an acknowledgement of what was never sent, or of what is
	// long past, is not that of the peer.
	if after(s.ack, e.sendMax) || before(s.ack, e.unacknowledged) && before(s.ack, e.oldestAck()) {
		e.p.refused.acks.Add(1)
		e.challenge(s, now)
		return
	}
	if e.tsOK && s.timestamp && !after(s.seq, e.lastAck) {
		e.tsRecent, e.tsAge = s.tsVal, now
	}
	e.onAck(s, now)
	if !open(e.current()) || e.current() == transport.StateTimeWait && s.flags&fin == 0 && len(s.payload) == 0 {
		return
	}
	if len(s.payload) > 0 || s.flags&fin != 0 {
		e.text(s)
		if !open(e.current()) {
			return
		}
	}
	e.output()
}

// acceptable is RFC 9293 section 3.4's test.
func (e *Endpoint) acceptable(s *segment) bool {
	n, room := s.length(), e.receiveEdge-e.receiveNext
	switch {
	case n == 0 && room == 0:
		return s.seq == e.receiveNext
	case s.flags&rst != 0:
		return s.seq-e.receiveNext < room || e.resetBeforeFIN(s) // RFC 5961 section 3.2: silence outside
	case n == 0:
		// One behind the window, too: so is the acknowledgement of a peer that has
		// filled it, while something of that is missing.
		return s.seq-e.receiveNext <= room
	case room == 0:
		// Its acknowledgement counts, its data does not.
		if s.seq == e.receiveNext && s.flags&(syn|rst) == 0 {
			s.payload, s.flags = nil, s.flags&^fin
			e.ackOwed.Set(true)
			return true
		}
		return false
	}
	return s.seq-e.receiveNext < room || s.seq+n-1-e.receiveNext < room
}

// resetBeforeFIN tells whether a reset has the sequence number of the peer's FIN, which
// has come: macOS sends such a one for what comes after its program has closed
// (Linux, tcp_reset_check in net/ipv4/tcp_input.c).
func (e *Endpoint) resetBeforeFIN(s *segment) bool {
	if s.seq != e.receiveNext-1 {
		return false
	}
	switch e.current() {
	case transport.StateCloseWait, transport.StateLastAck, transport.StateClosing:
		return true
	}
	return false
}

// challenge acknowledges a segment that is not believed (RFC 5961), as often as Linux
// does: no storm of them may arise (section 7).
func (e *Endpoint) challenge(s *segment, now int64) {
	if e.challenged != 0 && now-e.challenged < challengeEvery {
		return
	}
	e.challenged = now
	e.repeats(s.seq, len(s.payload))
	e.sendAck()
}

// outside acknowledges a segment that is not acceptable. Data and FIN, which the peer
// sends again until they are acknowledged, are answered always.
func (e *Endpoint) outside(s *segment, now int64) {
	if s.length() == 0 || s.flags&syn != 0 {
		e.challenge(s, now)
		return
	}
	e.repeats(s.seq, len(s.payload))
	e.sendAck()
}

// oldestAck is the lowest acknowledgement that the peer can have sent: none of what
// was never sent (RFC 5961 section 5).
func (e *Endpoint) oldestAck() uint32 {
	acked := e.out.begin
	if e.finSent && after(e.unacknowledged, e.finSeq) {
		acked++
	}
	return e.unacknowledged - uint32(min(uint64(e.maxWindow), acked))
}

// repeats notes what of n bytes from seq on has arrived in order before.
func (e *Endpoint) repeats(seq uint32, n int) {
	if skip := int32(e.receiveNext - seq); e.sackOK && skip > 0 && n > 0 {
		e.again = span{seq, seq + uint32(min(n, int(skip)))}
	}
}

func (e *Endpoint) resetReceived() {
	e.p.stats.ResetsReceived.Increment()
	switch e.current() {
	case transport.StateSynReceived:
		e.fail(&tcpip.ErrConnectionRefused{})
	case transport.StateCloseWait:
		// As with Linux: the end has been read, writing finds a broken pipe.
		e.fail(nil)
	case transport.StateClosing, transport.StateLastAck:
		e.finish(transport.StateClosed, nil)
	default:
		e.fail(&tcpip.ErrConnectionReset{})
	}
}

// complete ends the handshake of a connection that the peer began, or both.
func (e *Endpoint) complete(s *segment) bool {
	var told transport.Sink
	if e.parent != nil {
		var ok bool
		if told, ok = e.parent.admit(e); !ok {
			// No room: the peer's next segment, or our SYN sent again, tries anew.
			return false
		}
	}
	e.sampleHandshake()
	e.unacknowledged = s.ack
	e.established(s)
	if e.parent != nil {
		e.parent = nil
		e.p.stats.PassiveConnectionOpenings.Increment()
		if told != nil {
			told.Notify(transport.Readable)
		}
	} else {
		e.events |= transport.Writable
	}
	return true
}

// text takes the data and FIN of an acceptable segment.
func (e *Endpoint) text(s *segment) {
	switch e.current() {
	case transport.StateEstablished, transport.StateFinWait1, transport.StateFinWait2:
	default:
		// The peer has sent its FIN: what lies beyond is ignored (RFC 9293 section
		// 3.10.7.4, seventh and eighth), and answered where some of it came before.
		if before(s.seq, e.receiveNext) {
			e.ackOwed.Set(true)
			e.sendAck()
		}
		return
	}
	seq, b := s.seq, s.payload
	last := s.flags&fin != 0
	if skip := e.receiveNext - seq; int32(skip) > 0 {
		e.repeats(seq, len(b))
		if int(skip) > len(b) {
			// All of it is old, but perhaps for the FIN, which is old too.
			e.sendAck()
			return
		}
		b = b[skip:]
		seq = e.receiveNext
	}
	if room := int(int32(e.receiveEdge - seq)); len(b) > room {
		b, last = b[:max(room, 0)], false
	}
	if e.lateFin && int(int32(e.finAt-seq)) < len(b) {
		b, last = b[:max(int32(e.finAt-seq), 0)], false // nothing lies behind a FIN
	}
	if e.closed && len(b) > 0 {
		// RFC 1122 section 4.2.2.13: nobody will read it, and the peer must know. The
		// number is the one that it expects, whatever of ours is still under way.
		e.sendControlAt(s.ack, 0, rst)
		e.p.stats.ResetsSent.Increment()
		e.fail(&tcpip.ErrConnectionAborted{})
		return
	}
	if seq != e.receiveNext {
		first := len(e.outOfOrder) == 0
		e.keepOutOfOrder(seq, b, last)
		if e.ackOwed.Set(true); first || !e.sackOK {
			e.sendAck() // RFC 5681 section 4.2: at once
		}
		// With SACK, one acknowledgement at the end of the poll tells of all that came
		// in it, as Linux's does of all that GRO joined.
		return
	}
	if len(b) > 0 {
		e.keep(b)
		e.receiveNext += uint32(len(b))
		e.events |= transport.Readable
	}
	e.ackOwed.Set(true)
	if !last && (len(e.outOfOrder) > 0 || e.lateFin) {
		last = e.joinOutOfOrder()
		if len(e.outOfOrder) == 0 || !e.sackOK {
			e.sendAck() // a gap was filled
		}
		if !open(e.current()) {
			return
		}
	}
	if last {
		e.finArrived()
	}
}

// keep puts what came in order where it will be read.
func (e *Endpoint) keep(b []byte) {
	if e.awaited && e.in.len() == 0 {
		n := copy(e.posted[e.filled:], b)
		e.filled += n
		b = b[n:]
	}
	e.in.write(b)
}

// keepOutOfOrder stores what came out of order, as far as there is room for it. What is there
// already stays.
func (e *Endpoint) keepOutOfOrder(seq uint32, b []byte, last bool) {
	end := seq + uint32(len(b))
	if last {
		e.lateFin, e.finAt = true, end
	}
	if len(b) == 0 {
		return
	}
	whole := span{seq, end}
	// The first piece that begins behind seq; the one before may reach beyond.
	i, _ := slices.BinarySearchFunc(e.outOfOrder, seq, func(p piece, seq uint32) int {
		if after(p.seq, seq) {
			return 1
		}
		return -1
	})
	if i > 0 {
		p := &e.outOfOrder[i-1]
		if over := int32(p.end() - seq); over > 0 {
			if e.sackOK {
				e.again = span{seq, seq + uint32(min(int(over), len(b)))}
			}
			if int(over) >= len(b) {
				e.report(whole)
				return
			}
			b, seq = b[over:], seq+uint32(over)
		}
	}
	if e.outOfOrderBytes+len(b)+pieceOverhead > e.receiveSize {
		return
	}
	if i < len(e.outOfOrder) && e.sackOK && e.again.first == e.again.end {
		// RFC 2883 section 4: the first part of it that is there already.
		if p := &e.outOfOrder[i]; before(p.seq, end) {
			e.again = span{p.seq, p.end()}
			if after(e.again.end, end) {
				e.again.end = end
			}
		}
	}
	j := i
	for j < len(e.outOfOrder) && !after(e.outOfOrder[j].end(), end) {
		e.outOfOrderBytes -= len(e.outOfOrder[j].b) + pieceOverhead
		j++
	}
	if j < len(e.outOfOrder) {
		if over := int32(end - e.outOfOrder[j].seq); over > 0 {
			b = b[:len(b)-int(over)]
		}
	}
	switch {
	case len(b) == 0:
		e.outOfOrder = slices.Delete(e.outOfOrder, i, j)
	case i > 0 && e.outOfOrder[i-1].end() == seq && len(e.outOfOrder[i-1].b)+len(b) <= longestPiece:
		// What follows a gap comes in order, mostly.
		e.outOfOrder[i-1].b = append(e.outOfOrder[i-1].b, b...)
		e.outOfOrderBytes += len(b)
		e.outOfOrder = slices.Delete(e.outOfOrder, i, j)
	case i == j && len(e.outOfOrder) >= maxPieces:
		return
	default:
		e.outOfOrder = slices.Replace(e.outOfOrder, i, j, piece{seq, slices.Clone(b)})
		e.outOfOrderBytes += len(b) + pieceOverhead
	}
	e.report(whole)
}

// report notes what SACK has to tell first: the block that holds x.
func (e *Endpoint) report(x span) {
	if !e.sackOK {
		return
	}
	kept := e.blocks[:0]
	for _, b := range e.blocks {
		if !before(b.end, x.first) && !after(b.first, x.end) {
			if before(b.first, x.first) {
				x.first = b.first
			}
			if after(b.end, x.end) {
				x.end = b.end
			}
			continue
		}
		kept = append(kept, b)
	}
	if len(kept) == maxBlocks {
		kept = kept[:maxBlocks-1]
	}
	e.blocks = append(kept, span{})
	copy(e.blocks[1:], e.blocks)
	e.blocks[0] = x
}

// maxBlocks is how many SACK blocks are remembered; four fit into a header, three
// beside timestamps.
const maxBlocks = 6

// joinOutOfOrder moves what is in order now to the receive queue. It reports
// whether the FIN is in order too.
func (e *Endpoint) joinOutOfOrder() (last bool) {
	i := 0
	for ; i < len(e.outOfOrder); i++ {
		p := &e.outOfOrder[i]
		skip := e.receiveNext - p.seq
		if int32(skip) < 0 {
			break
		}
		if int(skip) < len(p.b) {
			b := p.b[skip:]
			if e.lateFin && int(int32(e.finAt-e.receiveNext)) < len(b) {
				b = b[:int32(e.finAt-e.receiveNext)]
			}
			e.keep(b)
			e.receiveNext += uint32(len(b))
			e.events |= transport.Readable
		}
		e.outOfOrderBytes -= len(p.b) + pieceOverhead
		p.b = nil
	}
	if e.outOfOrder = e.outOfOrder[:copy(e.outOfOrder, e.outOfOrder[i:])]; len(e.outOfOrder) == 0 {
		e.outOfOrder = nil
	}
	kept := e.blocks[:0]
	for _, b := range e.blocks {
		if after(b.end, e.receiveNext) {
			kept = append(kept, b)
		}
	}
	e.blocks = kept
	return e.lateFin && e.finAt == e.receiveNext
}

func (e *Endpoint) dropOutOfOrder() {
	e.outOfOrder, e.outOfOrderBytes, e.blocks, e.again, e.lateFin = nil, 0, nil, span{}, false
}

// finArrived handles the peer's FIN, when all before it has arrived.
func (e *Endpoint) finArrived() {
	e.receiveNext++
	if after(e.receiveNext, e.receiveEdge) {
		e.receiveEdge = e.receiveNext // the FIN may lie behind a window that is full
	}
	e.finReceived = true
	e.dropOutOfOrder()
	e.events |= transport.Readable
	e.ackOwed.Set(true)
	switch e.current() {
	case transport.StateEstablished:
		e.setState(transport.StateCloseWait)
	case transport.StateFinWait1:
		e.setState(transport.StateClosing)
		e.sendAck()
	case transport.StateFinWait2:
		e.sendAck()
		e.timeWait()
	}
}

// receiveTimeWait handles a segment to a connection that has ended, whose endpoint the
// program still has. It reports true when a new one may take its place.
func (e *Endpoint) receiveTimeWait(s *segment) (again bool) {
	w, _ := e.timeWaitLocked()
	switch w.judge(s, func() bool { return e.p.isCookie(s, &e.ID) }) {
	case waitOver:
		e.finish(transport.StateClosed, nil)
		return true
	case waitChallenge:
		e.outside(s, e.p.now())
	case waitAnew:
		e.sendAck()
		e.timeWait()
	}
	return false
}

// consumed accounts for n bytes read by the program, and tells the peer when the
// window has opened far.
func (e *Endpoint) consumed(n int) {
	if n > 0 && e.trace != nil {
		e.trace.Read(n)
	}
	if e.copied += n; e.copied >= moderateEvery {
		e.moderateReceive()
	}
	if n == 0 || e.finReceived || !open(e.current()) {
		return
	}
	left := int(e.receiveEdge - e.receiveNext)
	room := min(e.room(), 0xffff<<e.receiveShift, e.ringShareLocked())
	// As Linux: only when what the peer knows is at most half, and doubles.
	if half := e.receiveSize / 2; left <= half && room >= 2*left && room-left >= min(half, e.mss) {
		e.sendAck()
	}
}

// room is how many bytes more than RCV.NXT the program can be sent.
func (e *Endpoint) room() int {
	return max(e.receiveSize-e.in.len()-e.outOfOrderBytes, 0)
}

// advertise returns the window field of a segment, and moves the right edge.
func (e *Endpoint) advertise() uint16 {
	left := e.receiveEdge - e.receiveNext
	if int32(left) < 0 {
		left = 0
	}
	room := uint32(min(e.room(), 0xffff<<e.receiveShift, e.ringShareLocked()))
	// Silly window avoidance, receiver's side (RFC 9293 section 3.8.6.2.2).
	step := uint32(min(e.receiveSize/2, e.mss))
	if room < left+step || int32(room-left) < 0 {
		room = left
	}
	w := min(room>>e.receiveShift, 0xffff)
	if edge := e.receiveNext + w<<e.receiveShift; after(edge, e.receiveEdge) {
		e.receiveEdge = edge
	}
	return uint16(w)
}

// moderateEvery is after how many bytes read the receive buffer is looked at: it
// matters to bulk transfers, which pass 32 KB many times per round trip.
const moderateEvery = 32 << 10

// moderateReceive gives a program a buffer of twice what it reads in a round trip,
// so that what it reads may double in the next; and of more while that grows, since the
// window is told half a round trip late (Linux, tcp_rcv_space_adjust).
func (e *Endpoint) moderateReceive() {
	if !e.moderate {
		return
	}
	now := e.p.now()
	if time.Duration(now-e.copiedAt) < max(e.srtt, time.Millisecond) {
		return
	}
	want := 2 * e.copied
	if grown := e.copied - e.copiedLast; grown > 0 && e.copiedLast > 0 {
		want += min(want*grown/e.copiedLast, want)
	}
	if want > e.receiveSize {
		e.receiveSize = max(min(want, e.receiveMax), e.receiveSize)
	}
	e.copied, e.copiedLast, e.copiedAt = 0, e.copied, now
}

func block(s span) header.SACKBlock {
	return header.SACKBlock{Start: seqnum.Value(s.first), End: seqnum.Value(s.end)}
}
