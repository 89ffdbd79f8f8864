// Package recorder is a flight recorder for connections: the latest segments in
// and out, reads and writes of each, always on, in memory of a fixed size. When a
// connection gets into trouble, what was recorded is copied to a small archive,
// where it outlives the connection. All of it lies in a mapped file, so that it
// outlives a crash of the program as well.
//
// # Recording
//
// A connection's records are kept in four lanes: segments in, segments out,
// reads, writes. Each lane has one writer at a time: the poller, the holder of
// the transmit lock, the holder of the connection's read lock, of its write
// lock. So a record is three plain stores and a position, without a locked
// instruction, a system call or an allocation. A reader may meet a lane while
// its newest record is being written, and then sees a part of that one record
// wrong; it never disturbs the writer.
//
// There are slots for a fixed number of connections. A connection gets the slot
// that was closed longest ago; if all are open it is not recorded, and that is
// counted.
package recorder

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/clock"
)

const (
	// DefaultConns is how many connections are recorded at once: 7 MB.
	DefaultConns = 1024
	// MaxConns bounds the file to 450 MB.
	MaxConns = 65536

	laneIn, laneOut, laneRead, laneWrite = 0, 1, 2, 3
	lanes                                = 4
	// laneRecords is how many records a lane keeps, a power of two: the last 64
	// segments of each direction tell most stories, and 6 KB per connection stay
	// in the second-level cache.
	laneRecords = 64
	// archived is how many captures are kept. The oldest makes room.
	archived = 64
	// captureDelay is how long after the trouble a capture is taken, so that it
	// shows what came of it.
	captureDelay = 300 * time.Millisecond
	// captureEvery is the shortest time between two captures of one connection.
	captureEvery = 10 * time.Second
)

// Kind is what a record is about.
type Kind uint8

// Kinds of records.
const (
	In         Kind = iota + 1 // a segment received
	Out                        // a segment sent
	Held                       // an acknowledgement held back, to travel with data
	Retransmit                 // a segment sent again
	Read                       // bytes that the program read
	Write                      // bytes that the program wrote
)

var kindNames = [...]string{"", "in", "out", "held", "again", "read", "write"}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// Reason is why a capture was taken.
type Reason uint8

// Reasons for captures.
const (
	Timeout   Reason = iota + 1 // the retransmission timer ran out
	Recovery                    // segments were sent again without that
	ResetIn                     // the peer reset the connection
	ResetOut                    // we did
	Stall                       // the peer's window stayed shut
	onRequest                   // somebody asked
)

var reasonNames = [...]string{"", "timeout", "recovery", "reset by peer", "reset by us", "stall", "asked for"}

// String returns the reason's name.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", r)
}

// TCP flags that the recorder looks at.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
)

// The layout of the file: a header, the slots of connections, the archive. All
// numbers are in the machine's byte order.
type (
	fileHeader struct {
		magic           [8]byte
		conns, archived uint32
		pid, shards     uint32
		origin, started int64 // UnixNano of time 0, and of the start
		program         [64]byte
		_               [24]byte
	}
	slot struct {
		id                    uint64 // 0: never used
		opened, closed, taken int64  // times; 0: not yet
		local, remote         [16]byte
		localPort, remotePort uint16
		shard                 uint16
		reason                Reason // of a capture
		v6                    bool
		pos                   [lanes]uint32 // records written so far
		_                     [36]byte
		records               [lanes][laneRecords]record
	}
	record struct {
		time   int64  // nanoseconds
		seqAck uint64 // sequence number in the high half
		rest   uint64 // kind, flags, window, length: 8, 8, 16 and 32 bits
	}
)

var magic = [8]byte{'t', 'p', 'a', 'r', 'e', 'c', '0', '1'}

// Options describe a recorder.
type Options struct {
	// Conns is the number of connections recorded at once, 1 to MaxConns.
	Conns int
	// Path is the file; empty for memory that dies with the process.
	Path string
	// Program names the process in the file.
	Program string
	// Logger is told of captures.
	Logger *slog.Logger
}

// A Recorder records the connections of a runtime.
type Recorder struct {
	path   string
	log    *slog.Logger
	clock  *clock.Clock
	memory []byte
	header *fileHeader
	slots  []slot
	store  []slot

	captures chan capture
	stop     chan struct{}
	done     chan struct{}

	// mu guards the following fields.
	mu     sync.Mutex
	nextID uint64
	unused int      // slots from here on were never used
	closed []*Trace // in the order in which they were closed
	open   map[*Trace]struct{}
	stored int
	ended  bool

	missed, taken atomic.Uint64
}

type capture struct {
	trace  *Trace
	reason Reason
	due    time.Time
}

// New makes a recorder, and its file where it has one.
func New(o Options) (*Recorder, error) {
	if o.Conns < 1 || o.Conns > MaxConns {
		return nil, fmt.Errorf("recorder of %d connections: want 1 to %d", o.Conns, MaxConns)
	}
	memory, err := mapMemory(o.Path, fileSize(o.Conns))
	if err != nil {
		return nil, err
	}
	r := &Recorder{
		path: o.Path, log: o.Logger, clock: clock.New(), memory: memory,
		captures: make(chan capture, archived), stop: make(chan struct{}), done: make(chan struct{}),
		open: make(map[*Trace]struct{}),
	}
	r.header, r.slots, r.store = layOut(memory, o.Conns)
	now := time.Now().UnixNano()
	*r.header = fileHeader{
		magic: magic, conns: uint32(o.Conns), archived: archived, pid: uint32(os.Getpid()),
		origin: now - r.clock.Nanos(), started: now,
	}
	copy(r.header.program[:], o.Program)
	go r.capture()
	return r, nil
}

// Close ends recording and removes the file. Closing twice is harmless. Traces must not be used any more,
// except that late hooks on them do nothing.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	r.ended = true
	r.mu.Unlock()
	close(r.stop)
	<-r.done
	r.mu.Lock()
	for t := range r.open {
		t.slot.Store(nil)
	}
	for _, t := range r.closed {
		t.slot.Store(nil)
	}
	// The memory stays mapped: a hook may have loaded its slot just before. It is
	// a few megabytes of a runtime that ends, as a rule with its process.
	if r.path == "" {
		return nil
	}
	return os.Remove(r.path)
}

// Stats are counters since the recorder was made.
type Stats struct {
	// Recorded is the number of open connections that are recorded, Missed counts
	// those that found no slot.
	Recorded int
	Missed   uint64
	// Captures counts captures taken.
	Captures uint64
}

// Stats returns the counters.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{Recorded: len(r.open), Missed: r.missed.Load(), Captures: r.taken.Load()}
}

// Snapshot returns a copy of the file, for Decode.
func (r *Recorder) Snapshot() []byte { return append([]byte(nil), r.memory...) }

// Open starts to record a connection and returns its trace, nil if there is no
// slot. timeouts is TCP's count of the connection's retransmission timeouts; it
// may be nil.
func (r *Recorder) Open(c *clock.Clock, shard int, local, remote netip.AddrPort, timeouts *tcpip.StatCounter) *Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s *slot
	switch {
	case r.unused < len(r.slots):
		s = &r.slots[r.unused]
		r.unused++
	case len(r.closed) > 0:
		old := r.closed[0]
		r.closed = r.closed[1:]
		s = old.slot.Swap(nil)
	default:
		r.missed.Add(1)
		return nil
	}
	r.nextID++
	*s = slot{
		id: r.nextID, opened: c.Nanos(), local: local.Addr().As16(), remote: remote.Addr().As16(),
		localPort: local.Port(), remotePort: remote.Port(), shard: uint16(shard), v6: !remote.Addr().Unmap().Is4(),
	}
	t := &Trace{recorder: r, clock: c, id: r.nextID}
	t.timeouts.Store(timeouts)
	t.slot.Store(s)
	r.open[t] = struct{}{}
	return t
}

// capture takes captures when they are due.
func (r *Recorder) capture() {
	defer close(r.done)
	stalls := time.NewTicker(time.Second)
	defer stalls.Stop()
	for {
		select {
		case c := <-r.captures:
			select {
			case <-time.After(time.Until(c.due)):
			case <-r.stop:
				return
			}
			r.take(c)
		case <-stalls.C:
			r.findStalls()
		case <-r.stop:
			return
		}
	}
}

// take copies a slot to the archive.
func (r *Recorder) take(c capture) {
	r.mu.Lock()
	s := c.trace.slot.Load()
	if s == nil { // its slot has gone to another connection
		r.mu.Unlock()
		return
	}
	to := &r.store[r.stored%archived]
	r.stored++
	*to = *s
	to.reason, to.taken = c.reason, r.clock.Nanos()
	local, remote := to.addrs()
	r.mu.Unlock()
	r.taken.Add(1)
	r.log.Info("connection in trouble, recording kept", "reason", c.reason, "id", to.id, "local", local, "remote", remote)
}

// findStalls captures connections whose peer keeps its window shut.
func (r *Recorder) findStalls() {
	now := r.clock.Nanos()
	r.mu.Lock()
	var stalled []*Trace
	for t := range r.open {
		s := t.slot.Load()
		if n := s.pos[laneIn]; n > 0 {
			last := &s.records[laneIn][(n-1)%laneRecords]
			if uint16(last.rest>>32) == 0 && now-last.time > int64(time.Second) {
				stalled = append(stalled, t)
			}
		}
	}
	r.mu.Unlock()
	for _, t := range stalled {
		t.trouble(Stall)
	}
}

func (s *slot) addrs() (local, remote netip.AddrPort) {
	addr := func(b [16]byte) netip.Addr {
		if s.v6 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrPortFrom(addr(s.local), s.localPort), netip.AddrPortFrom(addr(s.remote), s.remotePort)
}

// A Trace records one connection.
//
// It is the owner of the connection's packets (tcpip.PacketOwner), so that who
// sends one finds it without a look-up.
type Trace struct {
	recorder *Recorder
	clock    *clock.Clock
	id       uint64
	// timeouts lies in the endpoint and would keep it alive: it is nil once the
	// connection is closed.
	timeouts atomic.Pointer[tcpip.StatCounter]
	// slot is nil once another connection has it.
	slot atomic.Pointer[slot]
	// lastTrouble is when it was last captured, in nanoseconds.
	lastTrouble atomic.Int64

	// The following fields belong to the writer of the lane of segments out.

	// end is the highest sequence number sent; valid says that there is one.
	end   uint32
	valid bool
	// expired is what timeouts was at the last retransmission.
	expired uint64
}

var _ tcpip.PacketOwner = (*Trace)(nil)

// KUID implements tcpip.PacketOwner. Nobody asks.
func (t *Trace) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner. Nobody asks.
func (t *Trace) KGID() uint32 { return 0 }

// ID is the connection's number, from 1.
func (t *Trace) ID() uint64 { return t.id }

func (s *slot) add(lane int, r record) {
	n := s.pos[lane]
	s.records[lane][n%laneRecords] = r
	s.pos[lane] = n + 1
}

func pack(k Kind, flags uint8, window uint16, size int) uint64 {
	return uint64(k)<<56 | uint64(flags)<<48 | uint64(window)<<32 | uint64(uint32(size))
}

// segment makes a record of a TCP header with size bytes behind it.
func (t *Trace) segment(k Kind, tcp []byte, size int) record {
	_ = tcp[19]
	return record{
		time:   t.clock.Nanos(),
		seqAck: binary.BigEndian.Uint64(tcp[4:]),
		rest:   pack(k, tcp[13], binary.BigEndian.Uint16(tcp[14:]), size),
	}
}

// Received records a segment: its TCP header, at least 20 bytes, and the number
// of bytes behind it. The poller calls it.
func (t *Trace) Received(tcp []byte, size int) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	s.add(laneIn, t.segment(In, tcp, size))
	if tcp[13]&flagRST != 0 {
		t.trouble(ResetIn)
	}
}

// Sent records a segment that is sent, or held back. The holder of the endpoint's
// transmit lock calls it.
func (t *Trace) Sent(tcp []byte, size int, held bool) {
	s := t.slot.Load()
	if s == nil {
		return
	}
	r := t.segment(Out, tcp, size)
	flags := tcp[13]
	span := uint32(size)
	if flags&(flagSYN|flagFIN) != 0 {
		span++
	}
	switch end := uint32(r.seqAck>>32) + span; {
	case held:
		r.rest = r.rest&^(0xff<<56) | uint64(Held)<<56
	case span > 0 && t.valid && int32(end-t.end) <= 0:
		r.rest = r.rest&^(0xff<<56) | uint64(Retransmit)<<56
		reason := Recovery
		if c := t.timeouts.Load(); c != nil {
			if n := c.Value(); n != t.expired {
				t.expired, reason = n, Timeout
			}
		}
		t.trouble(reason)
	case !t.valid || int32(end-t.end) > 0:
		t.end, t.valid = end, true
	}
	s.add(laneOut, r)
	if flags&flagRST != 0 {
		t.trouble(ResetOut)
	}
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
	t.timeouts.Store(nil)
	r.closed = append(r.closed, t)
	if s := t.slot.Load(); s != nil {
		s.closed = t.clock.Nanos()
	}
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

// mapMemory maps a new file, or anonymous memory.
func mapMemory(path string, size int) ([]byte, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if path == "" {
		return unix.Mmap(-1, 0, size, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err = f.Truncate(int64(size)); err == nil {
		var b []byte
		if b, err = unix.Mmap(int(f.Fd()), 0, size, prot, unix.MAP_SHARED); err == nil {
			return b, nil
		}
	}
	os.Remove(path)
	return nil, fmt.Errorf("recorder: %s: %w", path, err)
}
