// Package recorder is a flight recorder for connections: the latest segments in
// and out, reads and writes, states, timeouts and recoveries of each, always on,
// in memory of a fixed size. When a connection gets into trouble, what was
// recorded is copied to a small archive, where it outlives the connection. All of
// it lies in a mapped file, so that it outlives a crash of the program as well.
//
// # Recording
//
// What happens to a connection is kept in rows: a segment in, what the program read
// and wrote, a segment out. What is out of that order, or 4 ms later, begins another
// row. A row is one line of the processor's cache, so that a request and its answer
// touch one line besides the Trace itself. A record is some plain stores, without a
// locked instruction, a system call or an allocation.
//
// A connection's rows have one writer at a time. Our own TCP records with the
// endpoint's lock held. Of gVisor's TCP different parts of a shard see different
// events, and a lock of the trace keeps them apart (Shared). A reader may meet
// a row while it is being written, and then sees a part of that one row wrong; it
// never disturbs the writer.
//
// What happens rarely has a ring of its own, with a lock: a change of TCP's state, a
// retransmission timer that ran out, the start and the end of a recovery from
// loss. They are noticed with the segments that they cause: a timeout and the
// start of a recovery with the segment that is sent again, the end of a recovery
// with the acknowledgement of all that had been sent when it began. States are
// announced by our own TCP; those of gVisor's are noticed with the next segment
// once a FIN or a reset has passed, and within a second where none follows.
//
// There are slots for a fixed number of connections. A connection gets the slot
// that was closed longest ago; if all are open it is not recorded, and that is
// counted. Handshakes that peers begin have at most a quarter of the slots, and the
// slot of one that failed is the first to be used again: unknown hosts cannot drive
// connections out.
package recorder

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/clock"
)

const (
	// DefaultConns is how many connections are recorded at once: 1.7 MB.
	DefaultConns = 1024
	// MaxConns bounds the file to 107 MB.
	MaxConns = 65536

	// rows is how many rows a connection has, a power of two. What recording costs is
	// cache and TLB misses more than instructions: see BenchmarkRequest and
	// test/overhead.
	rows = 16
	// rareRecords is how many rare events are kept, a power of two.
	rareRecords = 16
	// halfOpenShare is the part of the slots that handshakes may have.
	halfOpenShare = 4
	// archived is how many captures are kept. The oldest makes room.
	archived = 64
	// captureDelay is how long after the trouble a capture is taken, so that it
	// shows what came of it.
	captureDelay = 300 * time.Millisecond
	// captureEvery is the shortest time between two captures of one connection.
	captureEvery = 10 * time.Second
)

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
	failed []*Trace // handshakes that came to nothing
	open   map[*Trace]struct{}
	stored int
	ended  bool

	allowed       atomic.Int32 // how many may be recorded at once
	missed, taken atomic.Uint64
	halfOpen      atomic.Int32 // handshakes with a slot
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
	r.allowed.Store(int32(o.Conns))
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
	for _, t := range append(r.closed, r.failed...) {
		t.slot.Store(nil)
	}
	// The range stays mapped, because a hook may have loaded its slot just before,
	// and reads as zeros; its pages are given back.
	if r.path == "" {
		return discard(r.memory, false)
	}
	err := os.Remove(r.path)
	discard(r.memory, true)
	return err
}

// Allow changes how many connections are recorded at once, 0 to Options.Conns; none
// stops recording with 0. Connections that are being recorded keep on. Any goroutine
// may call it.
func (r *Recorder) Allow(conns int) { r.allowed.Store(int32(min(max(conns, 0), len(r.slots)))) }

// Conns is the greatest number that Allow takes.
func (r *Recorder) Conns() int { return len(r.slots) }

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

// An Endpoint is what TCP knows about a connection.
type Endpoint struct {
	// State returns a transport.State. It may be called by anyone.
	State func() uint32
	// Timeouts counts retransmission timers that ran out.
	Timeouts *tcpip.StatCounter
	// HalfOpen: a peer began the handshake, and need not be real. The connection is
	// one of many until its state is ESTABLISHED.
	HalfOpen bool
}

// An Opener starts to record a connection of one shard and returns its trace, nil if
// there is no slot: Recorder.Open.
type Opener func(local, remote netip.AddrPort, ep *Endpoint) *Trace

// Opener returns that of a shard, by its number, nil where r is nil. c is its clock.
func (r *Recorder) Opener(c *clock.Clock, shard int) Opener {
	if r == nil {
		return nil
	}
	return func(local, remote netip.AddrPort, ep *Endpoint) *Trace { return r.Open(c, shard, local, remote, ep) }
}

// Open starts to record a connection and returns its trace, nil if there is no
// slot. ep may be nil: then states and timeouts are not noticed.
func (r *Recorder) Open(c *clock.Clock, shard int, local, remote netip.AddrPort, ep *Endpoint) *Trace {
	halfOpen := ep != nil && ep.HalfOpen
	allowed := int(r.allowed.Load())
	if allowed == 0 {
		return nil
	}
	if halfOpen && int(r.halfOpen.Load()) >= max(1, allowed/halfOpenShare) {
		return nil // it has another chance when it is established
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var s *slot
	switch {
	case len(r.open) >= allowed:
		if !halfOpen {
			r.missed.Add(1)
		}
		return nil
	case r.unused < len(r.slots):
		s = &r.slots[r.unused]
		r.unused++
	case len(r.failed) > 0:
		s = reuse(&r.failed)
	case len(r.closed) > 0:
		s = reuse(&r.closed)
	default:
		if !halfOpen {
			r.missed.Add(1)
		}
		return nil
	}
	r.nextID++
	now := c.Nanos()
	*s = slot{
		id: r.nextID, opened: now, local: local.Addr().As16(), remote: remote.Addr().As16(),
		localPort: local.Port(), remotePort: remote.Port(), shard: uint16(shard), v6: !remote.Addr().Unmap().Is4(),
	}
	t := &Trace{recorder: r, clock: c, id: r.nextID, step: sent} // the first event begins a row
	t.slot.Store(s)
	r.open[t] = struct{}{}
	if ep != nil {
		t.endpoint.Store(ep)
		t.expired = ep.Timeouts.Value()
		if halfOpen {
			t.halfOpen.Store(true)
			r.halfOpen.Add(1)
		}
		t.noticeState(t.now(), 0, 0)
	}
	return t
}

// reuse takes the slot of the first of some traces.
func reuse(traces *[]*Trace) *slot {
	old := (*traces)[0]
	(*traces)[0] = nil
	*traces = (*traces)[1:]
	old.endpoint.Store(nil)
	return old.slot.Swap(nil)
}
