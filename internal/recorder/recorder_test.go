package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/transport"
)

const (
	ack = 16
	psh = 8
)

// head makes a header.
func head(seq, acked uint32, flags byte, window uint16) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], acked)
	h[12], h[13] = 5<<4, flags
	binary.BigEndian.PutUint16(h[14:], window)
	return h
}

var (
	local  = netip.MustParseAddrPort("10.0.0.2:80")
	remote = netip.MustParseAddrPort("10.0.0.1:4000")
)

// endpoint returns one that is established and has had no timeout.
func endpoint() *Endpoint {
	return &Endpoint{State: func() uint32 { return uint32(transport.StateEstablished) }, Timeouts: new(tcpip.StatCounter)}
}

func newRecorder(t *testing.T, conns int, path string) *Recorder {
	t.Helper()
	r, err := New(Options{Conns: conns, Path: path, Program: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func decode(t *testing.T, data []byte) *Recording {
	t.Helper()
	rec, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

// TestRecording checks that what went in comes out, of a file that the process
// has not closed, as after a crash.
func TestRecording(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.rec")
	r := newRecorder(t, 4, path)
	before := time.Now()
	trace := r.Open(clock.New(), 3, local, remote, nil)
	trace.Received(head(1000, 500, ack|psh, 512), 64)
	trace.Read(64)
	trace.Write(10)
	trace.Sent(head(500, 1064, ack, 65535), 0, true)
	trace.Sent(head(500, 1064, ack|psh, 65535), 10, false)
	v6 := netip.MustParseAddrPort("[fd00::1]:4000")
	r.Open(clock.New(), 0, netip.MustParseAddrPort("[fd00::2]:80"), v6, nil).Close()

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := decode(t, data)
	if rec.Program != "test" || rec.PID != os.Getpid() || len(rec.Conns) != 2 {
		t.Fatalf("got %q, process %d, %d connections; want test, %d, 2", rec.Program, rec.PID, len(rec.Conns), os.Getpid())
	}
	c := rec.Conns[0]
	if c.ID != 1 || c.Shard != 3 || c.Local != local || c.Remote != remote || !c.Closed.IsZero() || !c.Captured.IsZero() {
		t.Errorf("first connection: got %+v", c)
	}
	if d := c.Opened.Sub(before); d < -100*time.Millisecond || d > 10*time.Second {
		t.Errorf("opened %v after it was", d)
	}
	if c := rec.Conns[1]; c.Remote != v6 || c.Closed.IsZero() {
		t.Errorf("second connection: got %v, closed %v; want %v, closed", c.Remote, c.Closed, v6)
	}
	var got []Event
	for _, e := range c.Events {
		e.Time = time.Time{}
		got = append(got, e)
	}
	want := []Event{
		{Kind: In, Size: 64, Seq: 1000, Ack: 500, Flags: ack | psh, Window: 512},
		{Kind: Read, Size: 64},
		{Kind: Write, Size: 10},
		{Kind: Held, Seq: 500, Ack: 1064, Flags: ack, Window: 65535},
		{Kind: Out, Size: 10, Seq: 500, Ack: 1064, Flags: ack | psh, Window: 65535},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	r.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: got %v, want no file", err)
	}
	trace.Read(1) // does nothing
}

// TestRing checks that the latest are kept, and in which order what happens at one
// time comes out.
func TestRing(t *testing.T) {
	r := newRecorder(t, 1, "")
	c := clock.New()
	c.Refresh() // what follows is in one poll
	trace := r.Open(c, 0, local, remote, nil)
	in := func(n int) { trace.Received(head(1, 1, ack, 100), n) }
	out := func(n int) { trace.Sent(head(uint32(n), 1, ack, 100), 1, false) }
	for i := range 3*rows + 5 {
		in(i)
	}
	events := decode(t, r.Snapshot()).Conns[0].Events
	if len(events) != rows || events[0].Size != 2*rows+5 || events[rows-1].Size != 3*rows+4 {
		t.Errorf("got %d events from %d to %d", len(events), events[0].Size, events[len(events)-1].Size)
	}
	in(1) // 1st row
	trace.Read(1)
	trace.Read(2) // joined
	trace.Write(4)
	trace.Read(5) // 2nd
	trace.Write(6)
	out(7)
	out(8)         // 3rd
	trace.Write(9) // 4th
	in(10)         // 5th
	out(11)
	trace.Write(12) // 6th
	time.Sleep(5 * time.Millisecond)
	c.Refresh()
	out(13) // 7th, because it is late
	out(14) // 8th
	var got []string
	for _, e := range decode(t, r.Snapshot()).Conns[0].Events {
		got = append(got, fmt.Sprint(e.Kind, " ", max(uint32(e.Size), e.Seq)))
	}
	want := []string{
		"in 1", "read 3", "write 4", "read 5", "write 6", "out 7", "out 8", "write 9", "in 10", "out 11", "write 12", "out 13", "out 14",
	}
	if got = got[len(got)-len(want):]; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestTimes checks that what is in one row has its own times.
func TestTimes(t *testing.T) {
	r := newRecorder(t, 1, "")
	c := clock.New()
	trace := r.Open(c, 0, local, remote, nil)
	origin := r.header.origin
	var want []int64
	for i, event := range []func(){
		func() { trace.Received(head(1, 1, ack, 100), 1) }, func() { trace.Read(1) }, func() { trace.Write(1) },
		func() { trace.Sent(head(1, 1, ack, 100), 1, false) }, func() { trace.Write(2) },
	} {
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		want = append(want, origin+c.Refresh())
		event()
	}
	for i, e := range decode(t, r.Snapshot()).Conns[0].Events {
		if d := want[i] - e.Time.UnixNano(); d < 0 || d >= 1<<sinceUnit {
			t.Errorf("%v %d: its time is %d ns early, want 0 to 63", e.Kind, i, d)
		}
	}
}

// TestSYN checks what is kept of a handshake.
func TestSYN(t *testing.T) {
	r := newRecorder(t, 1, "")
	trace := r.Open(clock.New(), 0, local, remote, nil)
	with := func(h []byte, options ...byte) []byte {
		h = append(h, options...)
		h[12] = byte(len(h)/4) << 4
		return h
	}
	trace.Received(with(head(1000, 0, flagSYN, 65535), 2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7), 0)
	trace.Sent(with(head(500, 1001, flagSYN|ack, 65535), 2, 4, 35, 0), 0, false)
	trace.Received(with(head(1001, 501, ack, 512), 2, 4, 5, 180), 0)
	var got []SynOptions
	for _, e := range decode(t, r.Snapshot()).Conns[0].Events {
		got = append(got, e.Options)
	}
	want := []SynOptions{{MSS: 1460, WindowScale: 7, SACKPermitted: true, Timestamps: true}, {MSS: 8960, WindowScale: -1}, {}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestHalfOpen checks that handshakes that never end leave most slots to
// connections, and those of closed connections alone.
func TestHalfOpen(t *testing.T) {
	r := newRecorder(t, 8, "")
	state := uint32(transport.StateSynReceived)
	halfOpen := func() *Trace {
		ep := endpoint()
		ep.State, ep.HalfOpen = func() uint32 { return state }, true
		return r.Open(clock.New(), 0, local, remote, ep)
	}
	first := r.Open(clock.New(), 0, local, remote, nil)
	first.Close()
	for range 100 {
		a, b, c := halfOpen(), halfOpen(), halfOpen()
		if a == nil || b == nil || c != nil {
			t.Fatal("of 8 slots two are for handshakes, not fewer and not more")
		}
		a.Received(head(1, 1, flagRST, 0), 0) // no trouble of ours
		a.Close()
		b.Close()
	}
	if s := r.Stats(); s != (Stats{}) || len(r.captures) != 0 {
		t.Errorf("got %+v and %d captures, want none", s, len(r.captures))
	}
	if first.slot.Load() == nil {
		t.Error("handshakes took the slot of a connection")
	}
	// Those that succeed make room for others.
	for range 3 {
		state = uint32(transport.StateSynReceived)
		trace := halfOpen()
		if trace == nil {
			t.Fatal("a handshake is not recorded, though the others are through")
		}
		state = uint32(transport.StateEstablished)
		trace.NoticeState()
		trace.Received(head(1, 1, ack, 0), 10)
		trace.Received(head(11, 1, flagRST, 0), 0)
	}
	eventually(t, "captures of established connections", func() bool { return r.Stats().Captures == 3 })
}

// TestSlots checks that the slot of the connection closed first is used again,
// and that its old trace then records nothing.
func TestSlots(t *testing.T) {
	r := newRecorder(t, 2, "")
	c := clock.New()
	a, b := r.Open(c, 0, local, remote, nil), r.Open(c, 0, local, remote, nil)
	if r.Open(c, 0, local, remote, nil) != nil {
		t.Error("a third connection got one of two slots")
	}
	b.Close()
	a.Close()
	b.Close()
	b.Write(1) // still recorded
	third := r.Open(c, 0, local, remote, nil)
	b.Write(2) // no longer
	a.Write(3)
	third.Write(4)
	sizes := make(map[uint64][]int)
	for _, c := range decode(t, r.Snapshot()).Conns {
		for _, e := range c.Events {
			sizes[c.ID] = append(sizes[c.ID], e.Size)
		}
	}
	if len(sizes) != 2 || !slices.Equal(sizes[a.ID()], []int{3}) || !slices.Equal(sizes[third.ID()], []int{4}) {
		t.Errorf("got %v, want 3 for %d and 4 for %d", sizes, a.ID(), third.ID())
	}
	if s := r.Stats(); s != (Stats{Recorded: 1, Missed: 1}) {
		t.Errorf("got %+v, want 1 recorded and 1 missed", s)
	}
}

func TestCaptures(t *testing.T) {
	data := func(seq uint32) []byte { return head(seq, 1, ack, 100) }
	for _, tt := range []struct {
		name string
		do   func(*Trace)
		want Reason
	}{
		{"reset by the peer", func(t *Trace) { t.Received(data(1), 10); t.Received(head(11, 0, flagRST, 0), 0) }, ResetIn},
		{"a health check", func(t *Trace) { t.Received(data(1), 0); t.Received(head(1, 0, flagRST, 0), 0) }, 0},
		{"reset by us", func(t *Trace) { t.Sent(head(1, 0, flagRST, 0), 0, false) }, ResetOut},
		{"sent again", func(t *Trace) { t.Sent(data(1), 10, false); t.Sent(data(1), 10, false) }, Recovery},
		{"sent again after a timeout", func(t *Trace) {
			t.Sent(data(1), 10, false)
			t.endpoint.Load().Timeouts.Increment()
			t.Sent(data(1), 10, false)
		}, Timeout},
		{"sent again across the wrap", func(t *Trace) {
			t.Sent(data(0xfffffffa), 10, false)
			t.Sent(data(0xfffffffa), 10, false)
		}, Recovery},
		{"window shut", func(t *Trace) { t.Received(head(1, 1, ack, 0), 0) }, Stall},
		{"our window shut", func(t *Trace) { t.Sent(head(1, 1, ack, 0), 0, false) }, Unread},
		{"no trouble", func(t *Trace) {
			t.Sent(data(1), 10, false)
			t.Sent(data(11), 0, false)
			t.Sent(data(11), 0, false)
			t.Sent(data(11), 10, false)
			t.Sent(data(20), 0, false) // a probe
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t, 1, "")
			trace := r.Open(clock.New(), 0, local, remote, endpoint())
			tt.do(trace)
			if tt.want == 0 {
				if got := len(r.captures); got != 0 || trace.lastTrouble.Load() != 0 {
					t.Errorf("got a capture")
				}
				return
			}
			// The aftermath belongs to it; a second trouble at once does not make
			// another.
			trace.Write(99)
			tt.do(trace)
			eventually(t, "a capture", func() bool { return r.Stats().Captures == 1 })
			conns := decode(t, r.Snapshot()).Conns
			last := conns[len(conns)-1]
			if len(conns) != 2 || last.Reason != tt.want || last.Captured.IsZero() {
				t.Fatalf("got %d connections, the last captured for %v; want 2, %v", len(conns), last.Reason, tt.want)
			}
			if !slices.ContainsFunc(last.Events, func(e Event) bool { return e.Kind == Write && e.Size == 99 }) {
				t.Error("the capture lacks what came after")
			}
		})
	}
}

// TestRare checks states, timeouts and recoveries, and where they stand among the
// segments.
func TestRare(t *testing.T) {
	r := newRecorder(t, 1, "")
	var state atomic.Uint32
	state.Store(uint32(transport.StateEstablished))
	ep := endpoint()
	ep.State = state.Load
	trace := r.Open(clock.New(), 0, local, remote, ep)
	pause := func() { time.Sleep(time.Microsecond) } // the clock of the test asks the system
	data := func(seq uint32) { pause(); trace.Sent(head(seq, 1, ack, 100), 10, false) }
	acked := func(n uint32) { pause(); trace.Received(head(1, n, ack, 100), 0) }
	data(1)
	data(11)
	ep.Timeouts.Increment()
	data(1)
	data(11) // in the same recovery
	acked(11)
	acked(21)
	data(21)
	data(21)
	acked(31)
	pause()
	trace.Sent(head(30, 1, ack, 100), 0, false)
	pause()
	state.Store(uint32(transport.StateFinWait1))
	trace.Sent(head(31, 1, ack|flagFIN, 100), 0, false)
	pause()
	trace.Close()
	state.Store(uint32(transport.StateTimeWait))
	acked(32)
	state.Store(uint32(transport.StateClosed))
	var got []string
	eventually(t, "the last state is noticed", func() bool {
		got = nil
		for _, e := range decode(t, r.Snapshot()).Conns[0].Events {
			s := e.Kind.String() + " " + e.State
			if e.Kind == Loss || e.Kind == Recovered {
				s += fmt.Sprint(e.Ack)
			}
			got = append(got, strings.TrimSpace(s))
		}
		return got[len(got)-1] == "state CLOSED"
	})
	want := []string{
		"state ESTABLISHED", "out", "out", "timeout", "loss 21", "again", "again", "in", "in", "recovered 21",
		"out", "loss 31", "again", "in", "recovered 31", "probe",
		"state FIN-WAIT1", "out", "in", "state TIME-WAIT", "state CLOSED",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if trace.endpoint.Load() != nil {
		t.Error("the trace keeps the endpoint of a connection that has ended")
	}
}

// TestClosedStates checks the order of states of a TCP that announces none, one of
// which is noticed when the program closes.
func TestClosedStates(t *testing.T) {
	r := newRecorder(t, 1, "")
	var state atomic.Uint32
	state.Store(uint32(transport.StateEstablished))
	ep := endpoint()
	ep.State = state.Load
	c := clock.New()
	c.Refresh() // all in one poll
	trace := r.Open(c, 0, local, remote, ep)
	trace.Received(head(1, 1, ack|flagFIN, 100), 0)
	trace.Sent(head(1, 2, ack, 100), 0, true)
	state.Store(uint32(transport.StateCloseWait))
	trace.Close()
	r.mu.Lock() // nobody looks for states meanwhile
	state.Store(uint32(transport.StateLastAck))
	trace.Sent(head(1, 2, ack|flagFIN, 100), 0, false)
	r.mu.Unlock()
	var got []string
	for _, e := range decode(t, r.Snapshot()).Conns[0].Events {
		got = append(got, strings.TrimSpace(e.Kind.String()+" "+e.State))
	}
	if want := []string{"in", "state ESTABLISHED", "state CLOSE-WAIT", "held", "state LAST-ACK", "out"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestPanicked checks what a poller's panic leaves behind: the connections that
// were in its last burst.
func TestPanicked(t *testing.T) {
	r := newRecorder(t, 4, "")
	c := clock.New()
	open := func(shard int) *Trace { return r.Open(c, shard, local, remote, nil) }
	idle, busy, other := open(1), open(1), open(0)
	receive := func(t *Trace) { t.Received(head(1, 1, ack, 100), 10) }
	c.Refresh()
	receive(idle)
	time.Sleep(time.Microsecond)
	c.Refresh()
	receive(busy)
	time.Sleep(time.Microsecond)
	c.Refresh()
	receive(other)
	r.Panicked(1, "index out of range")
	rec := decode(t, r.Snapshot())
	if rec.Panic != "index out of range" || rec.PanicShard != 1 || time.Since(rec.Panicked).Abs() > time.Minute {
		t.Errorf("got %q on shard %d at %v", rec.Panic, rec.PanicShard, rec.Panicked)
	}
	if n := len(rec.Conns); n != 4 || rec.Conns[3].ID != busy.ID() || rec.Conns[3].Reason != Panic {
		t.Errorf("got %d connections, the last %+v; want 4, the last a capture of %d", n, rec.Conns[n-1], busy.ID())
	}
}

// TestArchive checks that captures take no more than their room.
func TestArchive(t *testing.T) {
	r := newRecorder(t, 1, "")
	trace := r.Open(clock.New(), 0, local, remote, nil)
	for range archived + 3 {
		r.take(capture{trace: trace, reason: Recovery})
	}
	if got, want := len(decode(t, r.Snapshot()).Conns), archived+1; got != want {
		t.Errorf("got %d connections, want %d", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := newRecorder(t, 2, "").Snapshot()
	for name, data := range map[string][]byte{
		"empty":       nil,
		"short":       good[:100],
		"truncated":   good[:len(good)-1],
		"other magic": append([]byte("tparec99"), good[8:]...),
		"other":       make([]byte, len(good)),
	} {
		if _, err := Decode(data); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want %v", name, err, ErrFormat)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("a recorder of no connections: got no error")
	}
}

func FuzzDecode(f *testing.F) {
	r, err := New(Options{Conns: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	r.Open(clock.New(), 0, local, remote, nil).Read(1)
	f.Add(r.Snapshot()[:headerSize+2*slotSize])
	f.Fuzz(func(t *testing.T, data []byte) {
		// The file's size is checked first: give every input the right one.
		whole := make([]byte, fileSize(1))
		copy(whole, data)
		Decode(data)
		Decode(whole)
	})
}

// BenchmarkRequest is what one request and its reply cost, on so many connections
// in turn, and how many cache lines of the file they touch.
func BenchmarkRequest(b *testing.B) {
	for _, conns := range []int{1, 50, 1000, 10000} {
		b.Run(fmt.Sprint("conns=", conns), func(b *testing.B) {
			r, err := New(Options{Conns: conns, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			c := clock.New()
			traces := make([]*Trace, conns)
			for i := range traces {
				traces[i] = r.Open(c, 0, local, remote, nil)
			}
			h := head(1, 1, ack|psh, 512)
			seq := uint32(0)
			request := func(t *Trace) {
				binary.BigEndian.PutUint32(h[4:], seq)
				t.Received(h, 64)
				t.Read(64)
				t.Write(1)
				t.Sent(h, 1, false)
			}
			round := func() {
				seq++
				c.Refresh() // once per burst, as the poller
				for _, t := range traces {
					request(t)
				}
			}
			round()
			before := r.Snapshot()
			round()
			lines := 0
			for at, after := 0, r.Snapshot(); at < len(after); at += 64 {
				if string(before[at:at+64]) != string(after[at:at+64]) {
					lines++
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i++; i == conns {
					i = 0
					seq++
					c.Refresh()
				}
				request(traces[i])
			}
			b.ReportMetric(float64(lines)/float64(conns), "lines/op")
		})
	}
}
