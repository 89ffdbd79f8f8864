package recorder

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

// A Recording is what a recorder's file holds.
type Recording struct {
	Program string
	PID     int
	Started time.Time
	// Panic is what a poller panicked with, at Panicked on shard PanicShard; zero
	// where none did.
	Panic      string
	Panicked   time.Time
	PanicShard int
	// Conns are those with a slot, and then those in the archive, each in the
	// order in which they were opened.
	Conns []Conn
}

// A Conn is a connection as recorded.
type Conn struct {
	ID            uint64
	Shard         int
	Local, Remote netip.AddrPort
	Opened        time.Time
	// Closed is when the program closed it, zero while it is open.
	Closed time.Time
	// Captured and Reason are those of a capture, zero otherwise.
	Captured time.Time
	Reason   Reason
	// Events are in the order in which they happened. What happened in one poll has
	// one time.
	Events []Event
}

// An Event is one record.
type Event struct {
	Time time.Time
	Kind Kind
	// Size is the number of bytes: of payload, read, or written; of a Timer, how
	// many there were so far.
	Size int
	// State is the new state of a State.
	State string
	// The following fields are those of segments; Loss and Recovered have in Ack
	// what has to be acknowledged. Window is as on the wire, not scaled.
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	// Options are those of a SYN.
	Options SynOptions
}

// SynOptions are a SYN's. Those of other segments are not recorded.
type SynOptions struct {
	// MSS is 0 where there is none, WindowScale -1.
	MSS           uint16
	WindowScale   int
	SACKPermitted bool
	// Timestamps says that the option is there; what it holds is not recorded.
	Timestamps bool
}

// ErrFormat says that a file is no recording that this version reads.
var ErrFormat = errors.New("not a recording, or one of another version")

// Decode reads a recorder's file: of a running program, by Snapshot, or one that
// a crash left.
func Decode(data []byte) (*Recording, error) {
	if len(data) < headerSize || !bytes.Equal(data[:8], magic[:]) {
		return nil, ErrFormat
	}
	// A copy, because allocated memory is aligned.
	data = slices.Clone(data)
	h := headerOf(data)
	if h.conns < 1 || h.conns > MaxConns || h.archived != archived || len(data) != fileSize(int(h.conns)) {
		return nil, fmt.Errorf("%w: %d bytes for %d connections", ErrFormat, len(data), h.conns)
	}
	for at := headerSize; at < len(data); at += slotSize {
		sane(data[at : at+slotSize])
	}
	header, slots, store := layOut(data, int(h.conns))
	r := &Recording{Program: text(header.program[:]), PID: int(header.pid), Started: time.Unix(0, header.started)}
	if header.panicked != 0 {
		r.Panic, r.Panicked = text(header.panicText[:]), time.Unix(0, header.origin+header.panicked)
		r.PanicShard = int(header.panicShard)
	}
	for _, part := range [][]slot{slots, store} {
		first := len(r.Conns)
		for i := range part {
			if part[i].id != 0 {
				r.Conns = append(r.Conns, decodeSlot(&part[i], header.origin))
			}
		}
		slices.SortStableFunc(r.Conns[first:], func(a, b Conn) int { return cmp.Compare(a.ID, b.ID) })
	}
	return r, nil
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// stateName is TCP's name of a state; what no state is has none.
func stateName(n int) string {
	if s := transport.State(n); s >= transport.StateEstablished && s <= transport.StateError {
		return s.String()
	}
	return fmt.Sprintf("state %d", n)
}

func decodeSlot(s *slot, origin int64) Conn {
	at := func(t int64) time.Time {
		if t == 0 {
			return time.Time{}
		}
		return time.Unix(0, origin+t)
	}
	c := Conn{ID: s.id, Shard: int(s.shard), Opened: at(s.opened), Closed: at(s.closed), Captured: at(s.taken), Reason: s.reason}
	c.Local, c.Remote = s.addrs()
	var places []place // of c.Events
	for _, r := range s.inOrder() {
		add := func(s step, e Event) {
			t := r.time
			if s > received {
				t += int64(r.since[s-read]) << sinceUnit
			}
			e.Time = at(t)
			c.Events, places = append(c.Events, e), append(places, place{r.number, s})
		}
		if r.in.kind != 0 {
			add(received, r.in.event(r.mss[0], r.shift[0]))
		}
		if r.read != 0 {
			add(read, Event{Kind: Read, Size: int(r.read)})
		}
		if r.write != 0 {
			add(wrote, Event{Kind: Write, Size: int(r.write)})
		}
		if r.out.kind != 0 {
			add(sent, r.out.event(r.mss[1], r.shift[1]))
		}
	}
	for i := s.rare - min(s.rare, rareRecords); i != s.rare; i++ {
		r := &s.rares[i%rareRecords]
		e := Event{Time: at(r.time), Kind: r.kind, Size: int(r.n), Ack: r.until}
		if e.Kind == State {
			e.State, e.Size = stateName(e.Size), 0
		}
		p, n := place{r.number, r.step}, len(c.Events)
		for n > 0 && (p.number != 0 && p.before(places[n-1]) || p.number == 0 && e.precedes(&c.Events[n-1])) {
			n--
		}
		if p.number == 0 && n > 0 {
			p = places[n-1]
		}
		c.Events, places = slices.Insert(c.Events, n, e), slices.Insert(places, n, p)
	}
	return c
}

// precedes tells whether a rare event of which only the time is known goes before
// another event: at one time it stands behind segments in and rare ones.
func (e *Event) precedes(o *Event) bool {
	switch o.Kind {
	case Read, Write, Out, Held, Retransmit, Probe:
		return !e.Time.After(o.Time)
	}
	return e.Time.Before(o.Time)
}

// A place is one among the rows of a connection.
type place struct {
	number uint32
	step   step
}

func (p place) before(o place) bool {
	if p.number != o.number {
		return int32(p.number-o.number) < 0
	}
	return p.step < o.step
}

// inOrder returns the rows in the order in which they were written.
func (s *slot) inOrder() []*row {
	all := make([]*row, 0, rows)
	for i := range s.rows {
		if s.rows[i].number != 0 {
			all = append(all, &s.rows[i])
		}
	}
	slices.SortFunc(all, func(a, b *row) int { return int(int32(a.number - b.number)) })
	return all
}

func (g *segment) event(mss uint16, shift uint8) Event {
	e := Event{Kind: g.kind, Size: int(g.size), Seq: g.seq, Ack: g.ack, Flags: g.flags, Window: g.window}
	if g.flags&flagSYN == 0 {
		return e
	}
	e.Options = SynOptions{MSS: mss, WindowScale: -1, SACKPermitted: shift&hasSACK != 0, Timestamps: shift&hasTimestamps != 0}
	if shift&hasScale != 0 {
		e.Options.WindowScale = int(shift & scaleShift)
	}
	return e
}
