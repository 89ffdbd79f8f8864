package recorder

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/prefetch"
	"github.com/gotpa/tpa/internal/transport"
)

// TCP flags that the recorder looks at.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// A Trace records one connection. Received, Sent, Read and Write must not be called
// by two at once.
type Trace struct {
	// What every record looks at lies in the first cache line: see TestSizes.

	clock *clock.Clock
	// slot is nil once another connection has it.
	slot atomic.Pointer[slot]
	// row is the latest one, at and number are its time and number, step is what was
	// recorded in it last.
	row    *row
	at     int64
	number uint32
	// end is the highest sequence number sent, if it is valid.
	end uint32
	// ending is set by the first FIN or reset: from there on the state changes.
	ending atomic.Bool
	step   step
	valid  bool
	// probing: what is sent next is a tail loss probe, and no sign of trouble yet.
	probing bool
	// recovering is 0, or known and the sequence number whose acknowledgement ends
	// the recovery from loss.
	recovering uint64

	// expired is what Timeouts was at the last retransmission.
	expired uint64

	recorder *Recorder
	id       uint64
	// endpoint keeps the connection's endpoint alive: it is nil once that has
	// ended.
	endpoint atomic.Pointer[Endpoint]
	// halfOpen: the peer began the handshake and has not finished it.
	halfOpen atomic.Bool
	// lastTrouble is when it was last captured, in nanoseconds.
	lastTrouble atomic.Int64

	// rareMu guards state and the rare events.
	rareMu sync.Mutex
	state  transport.State

	_ [8]byte // so that the memory of a trace begins with a cache line
}

// A step is an event's place in a row.
type step uint8

const (
	received step = iota + 1
	read
	wrote
	sent
)

// known marks a Trace.recovering that holds a sequence number.
const known = 1 << 32

// ID is the connection's number, from 1.
func (t *Trace) ID() uint64 { return t.id }

// now is the time in the resolution of row.since, so that events compare.
func (t *Trace) now() int64 { return t.clock.Nanos() &^ (1<<sinceUnit - 1) }

// fits tells whether an event of which place is the place belongs to the latest row,
// and how long after the row's time it is.
func (t *Trace) fits(place step, now int64) (since uint16, ok bool) {
	n := uint64(now-t.at) >> sinceUnit
	return uint16(n), place > t.step && n <= math.MaxUint16
}

// Prefetch has the processor fetch what the next record needs: with transport.Near the
// trace itself, with transport.Far, some time later, the row to come. It must not be
// called beside Received and its like.
func (t *Trace) Prefetch(d transport.Distance) {
	if d == transport.Near {
		prefetch.Start(t, prefetch.Line)
	} else if s := t.slot.Load(); s != nil {
		prefetch.Of(&s.rows[(t.number+1)%rows])
	}
}

// begin begins a row.
func (t *Trace) begin(s *slot, now int64) {
	t.number++
	r := &s.rows[t.number%rows]
	*r = row{} // alone: a row made elsewhere and copied here stalls the processor
	r.time, r.number = now, t.number
	t.at, t.row = now, r
}

// set makes a record of a TCP header with size bytes behind it.
func (g *segment) set(k Kind, header []byte, size int) {
	_ = header[19]
	g.seq, g.ack = binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	g.window, g.size = binary.BigEndian.Uint16(header[14:]), uint16(min(size, math.MaxUint16))
	g.flags, g.kind = header[13], k
}

// optionsOf finds what is recorded of a SYN's options.
func optionsOf(h []byte) (mss uint16, shift uint8) {
	end := min(int(h[12]>>4)*4, len(h))
	if end < header.TCPMinimumSize {
		return 0, 0
	}
	o := header.ParseSynOptions(h[header.TCPMinimumSize:end], h[13]&flagACK != 0)
	if o.WS >= 0 {
		shift = hasScale | uint8(o.WS)&scaleShift
	}
	if o.SACKPermitted {
		shift |= hasSACK
	}
	if o.TS {
		shift |= hasTimestamps
	}
	return o.MSS, shift
}

// rare adds a rare event.
func (t *Trace) rare(r record) {
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	t.rareLocked(r)
}

func (t *Trace) rareLocked(r record) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	s.rares[s.rare%rareRecords] = r
	s.rare++
}

// NoticeState records the state of TCP where it has changed. A TCP that calls it
// at each change has states recorded at once.
func (t *Trace) NoticeState() { t.noticeState(t.now(), t.number, t.step) }

// TailProbe records that a tail loss probe is about to leave. It is called where
// Sent will be.
func (t *Trace) TailProbe() {
	t.probing = true
	t.rare(record{time: t.now(), kind: TailProbe, number: t.number, step: t.step})
}

// noticeState records the state of TCP where it has changed, at some time and place,
// and returns it: 0 when it is not known.
func (t *Trace) noticeState(at int64, number uint32, after step) transport.State {
	ep := t.endpoint.Load()
	if ep == nil {
		return 0
	}
	t.rareMu.Lock()
	defer t.rareMu.Unlock()
	if now := transport.State(ep.State()); now != t.state {
		t.state = now
		switch now {
		case transport.StateInitial, transport.StateBound, transport.StateConnecting:
			return now // not yet a connection
		case transport.StateEstablished:
			t.through()
		}
		t.rareLocked(record{time: at, kind: State, n: uint32(now), number: number, step: after})
	}
	return t.state
}

// through says that the handshake is: the connection is no longer one of many.
func (t *Trace) through() {
	if t.halfOpen.CompareAndSwap(true, false) {
		t.recorder.halfOpen.Add(-1)
	}
}

// Received records a segment: its TCP header, at least 20 bytes, and the number
// of bytes behind it.
func (t *Trace) Received(header []byte, size int) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	t.begin(s, t.now())
	t.step = received
	r := t.row
	r.in.set(In, header, size)
	flags := header[13]
	if point := t.recovering; point != 0 && flags&flagACK != 0 && int32(r.in.ack-uint32(point)) >= 0 {
		t.recovering = 0
		t.rare(record{time: r.time, kind: Recovered, until: uint32(point), number: r.number, step: received})
	}
	if flags&(flagFIN|flagRST|flagSYN) != 0 || t.ending.Load() {
		t.edge(r, r.time, received, header, ResetIn)
	}
}

// edge looks closer at a segment near the beginning or the end of the connection. A
// state that it brings stands behind step after.
func (t *Trace) edge(r *row, at int64, after step, header []byte, reset Reason) {
	flags := header[13]
	if flags&flagSYN != 0 {
		direction := 0
		if after != received {
			direction = 1
		}
		r.mss[direction], r.shift[direction] = optionsOf(header)
	}
	if flags&(flagFIN|flagRST) == 0 && !t.ending.Load() {
		return
	}
	t.ending.Store(true)
	t.noticeState(at, r.number, after)
	if flags&flagRST == 0 {
		return
	}
	// The peer's reset before any payload is a health check, most often: there are many,
	// and nothing in them to look at.
	if s := t.slot.Load(); reset == ResetOut || s != nil && s.carried() {
		t.trouble(reset)
	}
}

// carried tells whether any of the segments recorded last had payload.
func (s *slot) carried() bool {
	for i := range s.rows {
		if r := &s.rows[i]; r.in.size > 0 || r.out.size > 0 {
			return true
		}
	}
	return false
}

// Sent records a segment that is sent, or held back.
func (t *Trace) Sent(header []byte, size int, held bool) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	now := t.now()
	since, ok := t.fits(sent, now)
	if !ok {
		t.begin(s, now)
		since = 0
	}
	t.step = sent
	r := t.row
	r.since[sent-read] = since
	flags, kind := header[13], Out
	seq := binary.BigEndian.Uint32(header[4:])
	span := uint32(size)
	if flags&(flagSYN|flagFIN) != 0 {
		span++
	}
	switch ahead := int32(seq + span - t.end); {
	case held:
		kind = Held
	case !t.valid:
		// Nothing was sent before: recording began with the connection.
		t.end, t.valid = t.end+uint32(ahead), true
	case ahead > 0:
		t.end += uint32(ahead)
	case span > 0:
		kind = Retransmit
	case ahead < 0 && t.recovering == 0 && flags&flagRST == 0:
		kind = Probe
	}
	r.out.set(kind, header, size)
	if kind == Retransmit && !t.probing {
		t.retransmit(r.sentAt())
	}
	t.probing = false
	if flags&(flagFIN|flagRST|flagSYN) != 0 || t.ending.Load() {
		t.edge(r, r.sentAt(), wrote, header, ResetOut)
	}
}

// sentAt is when the row's segment out was, as it will be read.
func (r *row) sentAt() int64 { return r.time + int64(r.since[sent-read])<<sinceUnit }

// retransmit notes why a segment is sent again: the timer ran out, else a recovery
// begins or goes on.
func (t *Trace) retransmit(at int64) {
	why := Recovery
	if ep := t.endpoint.Load(); ep != nil {
		if n := ep.Timeouts.Value(); n != t.expired {
			why = Timeout
			t.rare(record{time: at, kind: Timer, n: uint32(n), number: t.number, step: wrote})
			t.expired = n
		}
	}
	point := uint64(known | uint64(t.end))
	if t.recovering == 0 {
		t.recovering = point
		t.rare(record{time: at, kind: Loss, until: t.end, number: t.number, step: wrote})
	} else if why == Recovery {
		return // it goes on
	}
	t.trouble(why)
}

// Read records that the program read bytes. What it reads in one go is one record.
func (t *Trace) Read(size int) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	now := t.now()
	since, ok := t.fits(read+1, now)
	if !ok {
		t.begin(s, now)
		since = 0
	}
	t.step = read
	t.row.since[0] = since
	t.row.read += uint32(size)
}

// Write records that the program wrote bytes. What it writes in one go is one record.
func (t *Trace) Write(size int) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	now := t.now()
	since, ok := t.fits(wrote+1, now)
	if !ok {
		t.begin(s, now)
		since = 0
	}
	t.step = wrote
	t.row.since[wrote-read] = since
	t.row.write += uint32(size)
}

// Close says that the program closed the connection. What is still sent for it
// is recorded until its slot is needed.
func (t *Trace) Close() {
	r := t.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.open[t]; !ok {
		return
	}
	delete(r.open, t)
	if t.halfOpen.Load() {
		r.failed = append(r.failed, t)
		t.through()
	} else {
		r.closed = append(r.closed, t)
	}
	now := t.now()
	if s := t.slot.Load(); s != nil {
		s.closed = now
	}
	t.ending.Store(true)
	t.noticeState(now, 0, 0)
}

// trouble asks for a capture. It does not wait: with many in trouble at once, the
// first are captured.
func (t *Trace) trouble(why Reason) {
	if t.halfOpen.Load() {
		return // handshakes of scans and floods fail all the time, and are not ours to explain
	}
	now := t.clock.Nanos()
	last := t.lastTrouble.Load()
	if last != 0 && now-last < int64(captureEvery) || !t.lastTrouble.CompareAndSwap(last, now) {
		return
	}
	select {
	case t.recorder.captures <- capture{t, why, time.Now().Add(captureDelay)}:
	default:
	}
}
