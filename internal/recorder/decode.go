package recorder

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
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
	// Events are in the order of time. Those that happened in one poll have the
	// same time; they are in the order in, rare events, read, write, out.
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
	if s := tcp.EndpointState(n); s >= tcp.StateEstablished && s <= tcp.StateError {
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
	add := func(end uint32, records int, get func(uint32) *record) {
		start := uint32(0)
		if end > uint32(records) {
			start = end - uint32(records)
		}
		for i := start; i != end; i++ {
			r := get(i % uint32(records))
			e := Event{
				Time: at(r.time), Kind: Kind(r.rest >> 56), Size: int(uint32(r.rest)),
				Seq: uint32(r.seqAck >> 32), Ack: uint32(r.seqAck), Flags: uint8(r.rest >> 48), Window: uint16(r.rest >> 32),
			}
			if e.Kind == State {
				e.State, e.Size = stateName(e.Size), 0
			}
			c.Events = append(c.Events, e)
		}
	}
	// Within one time, the order in which things cause each other.
	lane := func(l int) { add(s.pos[l], laneRecords, func(i uint32) *record { return &s.records[i][l] }) }
	lane(laneIn)
	add(s.rare, rareRecords, func(i uint32) *record { return &s.rares[i] })
	lane(laneRead)
	lane(laneWrite)
	lane(laneOut)
	slices.SortStableFunc(c.Events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return c
}
