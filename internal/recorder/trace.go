package recorder

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/gotpa/tpa/internal/clock"
)

// TCP flags that the recorder looks at.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// A Trace records one connection.
//
// It is the owner of the connection's packets (tcpip.PacketOwner), so that who
// sends one finds it without a look-up.
type Trace struct {
	// What every record looks at lies in the first cache line.

	clock *clock.Clock
	// slot is nil once another connection has it.
	slot atomic.Pointer[slot]
	// recovering is 0, or known and the sequence number whose acknowledgement ends
	// the recovery from loss.
	recovering atomic.Uint64
	// ending is set by the first FIN or reset: from there on the state changes.
	ending atomic.Bool
	// valid says that end is the highest sequence number sent. Both belong to the
	// writer of the lane of segments out, like expired.
	valid bool
	end   uint32
	// expired is what Timeouts was at the last retransmission.
	expired uint64

	recorder *Recorder
	id       uint64
	// endpoint keeps the connection's endpoint alive: it is nil once that has
	// ended.
	endpoint atomic.Pointer[Endpoint]
	// first is 0, or known and the sequence number of the first byte that the
	// program wrote.
	first atomic.Uint64
	// lastTrouble is when it was last captured, in nanoseconds.
	lastTrouble atomic.Int64

	// mu guards state and the lane of rare events.
	mu    sync.Mutex
	state tcp.EndpointState
}

// known marks a Trace.recovering or Trace.first that holds a sequence number.
const known = 1 << 32

var _ tcpip.PacketOwner = (*Trace)(nil)

// KUID implements tcpip.PacketOwner. Nobody asks.
func (t *Trace) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner. Nobody asks.
func (t *Trace) KGID() uint32 { return 0 }

// ID is the connection's number, from 1.
func (t *Trace) ID() uint64 { return t.id }

func (s *slot) add(lane int, r record) {
	n := s.pos[lane]
	s.records[n%laneRecords][lane] = r
	s.pos[lane] = n + 1
}

func pack(k Kind, flags uint8, window uint16, size int) uint64 {
	return uint64(k)<<56 | uint64(flags)<<48 | uint64(window)<<32 | uint64(uint32(size))
}

// kind changes the kind of a record.
func (r *record) kind(k Kind) { r.rest = r.rest&^(0xff<<56) | uint64(k)<<56 }

// segment makes a record of a TCP header with size bytes behind it.
func (t *Trace) segment(k Kind, header []byte, size int) record {
	_ = header[19]
	return record{
		time:   t.clock.Nanos(),
		seqAck: binary.BigEndian.Uint64(header[4:]),
		rest:   pack(k, header[13], binary.BigEndian.Uint16(header[14:]), size),
	}
}

// rare adds a record to the lane of rare events.
func (t *Trace) rare(r record) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
func (t *Trace) NoticeState() { t.noticeState(t.clock.Nanos()) }

// TailProbe records that a tail loss probe is about to leave.
func (t *Trace) TailProbe() { t.rare(record{time: t.clock.Nanos(), rest: pack(TailProbe, 0, 0, 0)}) }

// noticeState records the state of TCP where it has changed, at some time, and
// returns it: 0 when it is not known.
func (t *Trace) noticeState(at int64) tcp.EndpointState {
	ep := t.endpoint.Load()
	if ep == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := tcp.EndpointState(ep.State()); now != t.state {
		t.state = now
		t.rareLocked(record{time: at, rest: pack(State, 0, 0, int(now))})
	}
	return t.state
}

// Received records a segment: its TCP header, at least 20 bytes, and the number
// of bytes behind it. The poller calls it.
func (t *Trace) Received(header []byte, size int) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	r := t.segment(In, header, size)
	s.add(laneIn, r)
	flags := header[13]
	if point := t.recovering.Load(); point != 0 && flags&flagACK != 0 && int32(uint32(r.seqAck)-uint32(point)) >= 0 {
		t.recovering.Store(0)
		t.rare(record{time: r.time, seqAck: uint64(uint32(point)), rest: pack(Recovered, 0, 0, 0)})
	}
	if flags&(flagFIN|flagRST) != 0 || t.ending.Load() {
		t.ending.Store(true)
		t.noticeState(r.time)
		if flags&flagRST != 0 {
			t.trouble(ResetIn)
		}
	}
}

// Sent records a segment that is sent, or held back. The holder of the endpoint's
// transmit lock calls it.
func (t *Trace) Sent(header []byte, size int, held bool) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	r := t.segment(Out, header, size)
	flags := header[13]
	span := uint32(size)
	if flags&(flagSYN|flagFIN) != 0 {
		span++
	}
	switch ahead := int32(uint32(r.seqAck>>32) + span - t.end); {
	case held:
		r.kind(Held)
	case !t.valid:
		// Nothing was sent before: recording began with the connection.
		t.first.Store(known | r.seqAck>>32)
		t.end, t.valid = t.end+uint32(ahead), true
	case ahead > 0:
		t.end += uint32(ahead)
	case span > 0:
		r.kind(Retransmit)
		t.retransmit(r.time)
	case ahead < 0 && t.recovering.Load() == 0 && flags&flagRST == 0:
		r.kind(Probe)
	}
	s.add(laneOut, r)
	if flags&(flagFIN|flagRST) != 0 || t.ending.Load() {
		t.ending.Store(true)
		t.noticeState(r.time)
		if flags&flagRST != 0 {
			t.trouble(ResetOut)
		}
	}
}

// retransmit notes why a segment is sent again: the timer ran out, else a recovery
// begins or goes on.
func (t *Trace) retransmit(at int64) {
	why := Recovery
	if ep := t.endpoint.Load(); ep != nil {
		if n := ep.Timeouts.Value(); n != t.expired {
			why = Timeout
			t.rare(record{time: at, rest: pack(Timer, 0, 0, int(n))})
			t.expired = n
		}
	}
	point := uint64(known | uint64(t.end))
	if t.recovering.CompareAndSwap(0, point) {
		t.rare(record{time: at, seqAck: uint64(t.end), rest: pack(Loss, 0, 0, 0)})
	} else if why == Recovery {
		return // it goes on
	}
	t.trouble(why)
}

// Read records that the program read bytes. The reader calls it, with the lock of
// the connection's reading side.
func (t *Trace) Read(size int) {
	if s := t.slot.Load(); s != nil {
		s.add(laneRead, record{time: t.clock.Nanos(), rest: pack(Read, 0, 0, size)})
	}
}

// Write records that the program wrote bytes. The writer calls it, with the lock
// of the connection's writing side.
func (t *Trace) Write(size int) {
	if s := t.slot.Load(); s != nil {
		s.add(laneWrite, record{time: t.clock.Nanos(), rest: pack(Write, 0, 0, size)})
	}
}

// SendQueue returns how many of the bytes that the program wrote the peer has not
// acknowledged, sent or not. It may be called by anyone.
func (t *Trace) SendQueue(written uint64) int {
	s, first := t.slot.Load(), t.first.Load()
	if s == nil || first == 0 {
		return int(min(written, math.MaxInt32)) // nothing has left
	}
	acked := uint32(first)
	if n := s.pos[laneIn]; n > 0 {
		if last := s.records[(n-1)%laneRecords][laneIn]; uint8(last.rest>>48)&flagACK != 0 {
			acked = uint32(last.seqAck)
		}
	}
	// More than 2 GB cannot wait, so that the difference tells how much. It is
	// negative for the FIN, and for what was written since written was read.
	return int(max(0, int32(uint32(written)-(acked-uint32(first)))))
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
	r.closed = append(r.closed, t)
	now := t.clock.Nanos()
	if s := t.slot.Load(); s != nil {
		s.closed = now
	}
	t.ending.Store(true)
	t.noticeState(now)
}

// trouble asks for a capture. It does not wait: with many in trouble at once, the
// first are captured.
func (t *Trace) trouble(why Reason) {
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
