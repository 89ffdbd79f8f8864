package scenario

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/test/virtualtime"
)

// A move is one thing that the peer or the program does. The same moves are made
// against the kernel and against our stack, and what they do is compared.
type move struct {
	segments []segment          // of the peer
	program  func(*side) string // returns what came of it
	name     string             // of program
	// edge has the sequence numbers count from the right edge of the window that
	// the stack has told, and not from its stream's beginning.
	edge bool
	// late is set where a stack may answer at once or with what it sends next: data
	// in order, and what may open a window.
	late bool
	// paced is set from where on it is the stack's own affair how fast it sends: it may
	// think that segments were lost, or was told of smaller windows.
	paced bool
	// all acknowledges what the stack has sent, whatever it is.
	all bool
}

func (m move) String() string {
	if m.program != nil {
		return "program: " + m.name
	}
	var all []string
	for _, g := range m.segments {
		all = append(all, g.String())
	}
	text := "< " + strings.Join(all, ", ")
	if m.edge {
		text += " from the window's right edge on"
	}
	return text
}

// An observation is what a stack did after a move.
type observation struct {
	resets  string // with their numbers
	synAck  string // its options
	answer  bool   // whether anything was sent
	ack     int64  // acknowledged by the last segment
	sent    int64  // where the stream on the wire ends, FIN included
	program string // what came of the program's call
}

// differs compares what two stacks did after a move, modulo what they may choose.
func (o observation) differs(p observation, m *move) bool {
	if !o.answer || !p.answer {
		o.ack, p.ack, o.sent, p.sent = 0, 0, 0, 0 // they are of some time before
	}
	if o.resets != "" && p.resets != "" {
		o.ack, p.ack, o.sent, p.sent = 0, 0, 0, 0 // the resets have numbers of their own
	}
	if m.paced {
		o.sent, p.sent = 0, 0
		if o.resets != "" && p.resets != "" {
			o.resets, p.resets = "", "" // they are where the sent ends
		}
	}
	if m.late || m.paced {
		o.answer, p.answer = false, false
	}
	return o != p
}

// A side is one of the two stacks with a connection of one sequence of moves.
type side struct {
	*run
	quiet func(*side) ([]arrival, error) // what the stack sent by now
	conn  int
	ln    net.Listener
	c     socket
	seen  observation
	got   int64 // bytes that the program read
	shift int64 // of the stack's windows
	edge  int64 // the end of the last one
}

// play makes moves on a new connection.
func (s *side) play(moves []move) (all []observation, err error) {
	s.conn++
	s.again = true
	s.c, s.got, s.seen = nil, 0, observation{}
	s.wrote, s.shift, s.edge = 0, 0, 1
	for i := range moves {
		o, err := s.do(&moves[i])
		if err != nil {
			return all, fmt.Errorf("move %d, %v: %w", i+1, &moves[i], err)
		}
		all = append(all, o)
	}
	// Nothing is left that would send.
	c := s.run.conn(s.conn)
	if err := s.send(segment{conn: s.conn, flags: flagR, seq: number{v: c.ack}}); err != nil {
		return all, err
	}
	if s.c == nil {
		accepted(s)
	}
	if s.c != nil {
		s.c.SetLinger(0)
		s.c.Close()
	}
	_, err = s.quiet(s)
	return all, err
}

func (s *side) do(m *move) (observation, error) {
	s.seen.resets, s.seen.synAck, s.seen.answer, s.seen.program = "", "", false, ""
	for _, g := range m.segments {
		g.conn = s.conn
		if m.edge {
			g.seq.v += s.edge
			g.end.v += s.edge
		}
		if m.all {
			g.ack.v = max(s.seen.sent, 1)
		}
		if err := s.send(g); err != nil {
			return s.seen, err
		}
	}
	if m.program != nil {
		s.seen.program = m.program(s)
	}
	arrivals, err := s.quiet(s)
	if err != nil {
		return s.seen, err
	}
	for _, a := range arrivals {
		g, ours, err := s.decode(a)
		if err != nil {
			return s.seen, err
		}
		if !ours || g.conn != s.conn {
			continue
		}
		s.seen.answer = true
		switch {
		case g.flags&flagR != 0:
			text := fmt.Sprintf("%s %v", flagNames(g.flags), g.seq)
			if g.flags&flagA != 0 {
				text += fmt.Sprintf(" ack %v", g.ack)
			}
			s.seen.resets = text
		case g.flags&flagS != 0:
			var names []string
			for _, o := range g.options {
				names = append(names, o.name)
			}
			slices.Sort(names)
			s.seen.synAck = strings.Join(names, " ")
			s.seen.sent = 0
			if o, ok := g.option("ws"); ok {
				s.shift = o.args[0].v
			}
			s.edge = g.ack.v + g.win.v
		}
		if g.flags&flagR == 0 {
			s.seen.ack = g.ack.v
			if g.flags&flagS == 0 {
				s.edge = g.ack.v + g.win.v<<s.shift
			}
			end := g.end.v
			if g.flags&flagF != 0 {
				end++
			}
			s.seen.sent = max(s.seen.sent, end)
		}
	}
	return s.seen, nil
}

// What the program does.

func accepted(s *side) string {
	if s.c != nil {
		return ""
	}
	if raw, ok := s.ln.(syscall.Conn); ok && s.host.real() {
		conn, err := raw.SyscallConn()
		if err != nil {
			return err.Error()
		}
		ready := 0
		conn.Control(func(fd uintptr) {
			ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
		if ready == 0 {
			return "nobody"
		}
	}
	s.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(time.Millisecond))
	if s.host.real() {
		s.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(realTimeout))
	}
	c, err := s.ln.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "nobody"
	}
	if err != nil {
		return outcome(err)
	}
	s.c = c.(socket)
	s.c.SetKeepAliveConfig(net.KeepAliveConfig{})
	return "a connection"
}

// drained reads all that has arrived.
func drained(s *side) string {
	if s.c == nil {
		return ""
	}
	b := make([]byte, 64<<10)
	for {
		n, err := s.readNow(b)
		for i, x := range b[:n] {
			if want := patternAt(s.got + int64(i) + 1); x != want {
				return fmt.Sprintf("byte %d is %#x, want %#x", s.got+int64(i), x, want)
			}
		}
		s.got += int64(n)
		if err != nil {
			return fmt.Sprintf("%d bytes so far, %s", s.got, outcome(err))
		}
	}
}

// readNow reads without waiting.
func (s *side) readNow(b []byte) (n int, err error) {
	raw, ok := s.c.(syscall.Conn)
	if !ok || !s.host.real() {
		s.c.SetReadDeadline(time.Now().Add(time.Millisecond))
		return s.c.Read(b)
	}
	conn, err := raw.SyscallConn()
	if err != nil {
		return 0, err
	}
	outer := conn.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	})
	switch {
	case outer != nil:
		return 0, outer
	case err == unix.EAGAIN:
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func written(n int) func(*side) string {
	return func(s *side) string {
		if s.c == nil {
			return ""
		}
		b := make([]byte, n)
		for i := range b {
			b[i] = patternAt(s.wrote + int64(i) + 1)
		}
		s.c.SetWriteDeadline(time.Now().Add(realTimeout))
		n, err := s.c.Write(b)
		s.wrote += int64(n)
		return outcome(err)
	}
}

func closedWrite(s *side) string {
	if s.c == nil {
		return ""
	}
	return outcome(s.c.CloseWrite())
}

func closed(linger int) func(*side) string {
	return func(s *side) string {
		if s.c == nil {
			return ""
		}
		s.c.SetLinger(linger)
		return outcome(s.c.Close())
	}
}

// outcome is what a program can tell errors apart by.
func outcome(err error) string {
	for _, e := range []error{
		io.EOF, os.ErrDeadlineExceeded, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOTCONN, syscall.ETIMEDOUT,
		syscall.ECONNREFUSED, syscall.EPROTO, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// drawMoves makes up what happens to a connection.
func drawMoves(seed uint64) (moves []move) {
	r := rand.New(rand.NewPCG(seed, 1))
	n := func(v int64) number { return number{v: v, set: true} }
	one := func(percent int) bool { return r.IntN(100) < percent }
	pick := func(all ...int64) int64 { return all[r.IntN(len(all))] }

	// The peer's SYN.
	var options []option
	mss := int64(536)
	if one(80) {
		mss = pick(1460, 1460, 536, 1000, 88)
		options = append(options, option{name: "mss", args: []number{n(mss)}})
	}
	if one(50) {
		options = append(options, option{name: "ws", args: []number{n(pick(0, 7, 7, 14, 15))}})
	}
	sack, stamps := one(50), one(40)
	if sack {
		options = append(options, option{name: "sackok"})
	}
	clock := int64(1000)
	if stamps {
		options = append(options, option{name: "ts", args: []number{n(clock), n(0)}})
	}
	moves = append(moves, move{segments: []segment{{flags: flagS, seq: n(0), end: n(0), win: n(pick(65535, 65535, 1000, 0)), options: options}}})

	next := int64(1)  // the peer's next sequence number
	wrote := int64(0) // by the program
	paced, finished, last := false, false, segment{}
	stamp := func() (all []option) {
		clock += 10
		if !stamps || one(4) {
			return nil
		}
		t := clock
		if one(4) {
			t -= 500
		}
		return []option{{name: "ts", args: []number{n(t), {}}, last: true}}
	}
	acks := func() number {
		if one(75) {
			return n(1 + wrote)
		}
		return n(pick(0, 1, 1+r.Int64N(wrote+1), wrote, wrote+2, wrote+3, wrote+100_000, -1, -100_000))
	}
	window := func() number {
		if one(85) {
			return number{}
		}
		paced = true
		return n(pick(0, 1, 100, mss, 3000, 65535))
	}
	if one(85) {
		moves = append(moves, move{segments: []segment{{flags: flagA, seq: n(1), end: n(1), ack: n(1), options: stamp()}}},
			move{name: "accept", program: accepted})
	}
	for range 2 + r.IntN(13) {
		var m move
		g := segment{flags: flagA, seq: n(next), end: n(next), ack: acks(), win: window(), options: stamp()}
		if one(20) {
			g.flags |= flagP
		}
		switch k := r.IntN(100); {
		case k < 15: // data in order
			size := min(pick(1, 10, 100, 1000, mss), 1400)
			g.end.v = next + size
			next += size
			if finished {
				next -= size
			}
		case k < 32: // data elsewhere
			g.seq.v += pick(-1, 1, 10, -10, 100, 1000, -1000, 20_000, -20_000, -next, 1-next)
			g.end.v = g.seq.v + pick(1, 5, 10, 100, 1000, 1400)
		case k < 42: // an acknowledgement alone
			if sack && wrote > 0 && one(30) {
				from := 1 + r.Int64N(wrote)
				g.options = append(g.options, option{name: "sack", args: []number{n(from), n(from + 1 + r.Int64N(wrote-from+2))}})
				paced = true
			}
		case k < 47: // at the right edge
			m.edge = true
			g.seq.v = pick(-1, 0, 1, -10, 10_000)
			g.end.v = g.seq.v + pick(0, 0, 1, 10, 100)
			if one(30) {
				g.flags = flagR
				g.end = g.seq
			}
		case k < 52: // a reset
			g.flags = byte(pick(flagR, flagR, flagR|flagA))
			g.seq.v += pick(0, -1, 1, 10, 100_000, -100_000)
			g.end = g.seq
		case k < 56: // a SYN
			g.flags = byte(pick(flagS, flagS, flagS|flagA, flagS|flagF))
			g.seq.v = pick(0, next, next-1, next+10, next+100_000, -100_000)
			g.end = g.seq
		case k < 62: // a FIN
			g.flags |= flagF
			g.end.v = g.seq.v + pick(0, 0, 0, 10)
			switch {
			case one(25):
				d := pick(10, -1, -10, 100_000)
				g.seq.v, g.end.v = g.seq.v+d, g.end.v+d
			case !finished:
				next, finished = g.end.v+1, true
			}
		case k < 65: // no acknowledgement
			g.flags &^= flagA
			g.ack = number{}
			if one(30) {
				g.flags |= flagF
			}
			g.end.v += pick(0, 1, 10)
		case k < 68 && last.flags != 0:
			g = last
		case k < 82:
			size := pick(1, 10, 100, mss, 2*mss)
			if wrote+size > 8*mss {
				continue
			}
			wrote += size
			m.name, m.program = fmt.Sprintf("write %d", size), written(int(size))
		case k < 92:
			m.name, m.program, m.late = "read", drained, true
		case k < 94:
			m.name, m.program = "close for writing", closedWrite
		case k < 95:
			m.name, m.program = "close", closed(-1)
		case k < 96:
			m.name, m.program = "reset", closed(0)
		default:
			m.name, m.program = "accept", accepted
		}
		if m.program == nil {
			if g.ack.v < 1 && g.end.v > g.seq.v && g.flags&flagA != 0 {
				g.ack.v = 1 // Linux's fast path would take it whatever it acknowledges
			}
			m.segments = []segment{g}
			m.all = paced && g.flags&flagA != 0 && g.ack.v >= 1
			last = g
		}
		m.paced = paced
		moves = append(moves, m)
	}
	// What was received is told by the answer to an old byte.
	return append(moves,
		move{name: "accept", program: accepted, paced: paced}, move{name: "read", program: drained, late: true, paced: paced},
		move{segments: []segment{{flags: flagA, seq: n(0), end: n(1), ack: n(1), options: stamp()}}, paced: paced})
}

// A differential holds both stacks.
type differential struct {
	t      *testing.T
	kernel *kernel
	v6     bool
}

// linux makes moves of several sequences against the kernel.
func (d *differential) linux(all [][]move) (seen [][]observation, err error) {
	h := d.kernel.newHost()
	s := &side{run: newRun(h, &scenario{}, d.v6), quiet: h.quiet}
	if s.ln, err = h.listen(netip.AddrPortFrom(s.ours, 0), s.scenario); err != nil {
		return nil, err
	}
	defer s.ln.Close()
	s.ourPort = s.ln.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, moves := range all {
		o, err := s.play(moves)
		if err != nil {
			return nil, err
		}
		seen = append(seen, o)
	}
	return seen, nil
}

// quiet returns what the kernel sent before it answered an echo request, twice: a
// queue that was read lets more in.
func (h *kernelHost) quiet(s *side) (all []arrival, err error) {
	kind, reply := byte(8), byte(0)
	if s.ours.Is6() {
		kind, reply = 128, 129
	}
	for i := range 2 {
		h.send(testframe.ICMP(s.peer, s.ours, kind, 0, 1<<16|uint32(i), nil))
		deadline := time.NewTimer(realTimeout)
		for answered := false; !answered; {
			select {
			case a := <-h.packets:
				p, err := testframe.ParseIP(a.packet)
				if err != nil {
					return all, err
				}
				if p.Protocol != testframe.ProtocolTCP && len(p.Payload) >= 8 && p.Payload[0] == reply {
					answered = true
				} else {
					all = append(all, a)
				}
			case <-deadline.C:
				return all, errors.New("the kernel answers no echo request")
			}
		}
		deadline.Stop()
	}
	return all, nil
}

// tpa makes them against our stack.
func (d *differential) tpa(all [][]move) (seen [][]observation, err error) {
	virtualtime.Test(d.t, func(*testing.T) {
		h, e := newOursHost(accel.Config{TCP: accel.TCP{Congestion: accel.CongestionReno}})
		if e != nil {
			err = e
			return
		}
		defer h.rt.Close()
		s := &side{run: newRun(h, &scenario{}, d.v6), quiet: func(*side) (all []arrival, err error) {
			h.settle()
			for {
				select {
				case a := <-h.packets:
					all = append(all, a)
				default:
					return all, nil
				}
			}
		}}
		if s.ln, err = h.listen(netip.AddrPortFrom(s.ours, 80), s.scenario); err != nil {
			return
		}
		defer s.ln.Close()
		s.ourPort = 80
		for _, moves := range all {
			o, e := s.play(moves)
			if e != nil {
				err = e
				return
			}
			seen = append(seen, o)
		}
	})
	return seen, err
}

// difference makes moves against both and returns where they part, -1 for nowhere.
func (d *differential) difference(moves []move) (at int, linux, tpa []observation) {
	a, err := d.linux([][]move{moves})
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := d.tpa([][]move{moves})
	if err != nil {
		d.t.Fatal(err)
	}
	return part(moves, a[0], b[0]), a[0], b[0]
}

// part is the first move after which the stacks differ, -1 for none.
func part(moves []move, linux, tpa []observation) int {
	for i, m := range moves {
		m.late = m.late || advanced(linux, i) || advanced(tpa, i)
		if !linux[i].differs(tpa[i], &m) {
			continue
		}
		if excused(moves[:i+1], linux, tpa) {
			return -1
		}
		return i
	}
	return -1
}

// advanced tells whether a move was answered by the acknowledgement of something new:
// that may come later, too.
func advanced(seen []observation, i int) bool { return i > 0 && seen[i].ack > seen[i-1].ack }

// excused tells whether the last of some moves is one after which the stacks may part,
// or whether they may have parted before.
func excused(moves []move, linux, tpa []observation) bool {
	last := len(moves) - 1
	shaken, stale, answered, finished, shut, half, ended := false, false, false, false, false, false, false
	repeated := 0 // answers that acknowledged nothing new
	ends := map[int64]bool{}
	for i, m := range moves {
		if half && finished && strings.HasPrefix(m.name, "write") {
			return true // RFC 9293 section 3.10.7.4: a reset after both FINs is no error, in Linux it is
		}
		if shut && strings.HasPrefix(m.name, "close") {
			return true // RFC 9293 section 3.8.6.1: our FIN probes a closed window, Linux has a probe of its own
		}
		for _, g := range m.segments {
			data := g.end.v > g.seq.v
			if g.win.set {
				shut = g.win.v == 0
			}
			stamp, stamped := g.option("ts")
			switch {
			case i == 0:
			case g.flags&flagS != 0 && !shaken:
				return true // RFC 5961 section 4 or RFC 9293 section 3.10.7.4, fourth
			case stale && !shaken:
				return true // Linux answers what is old, and believes no echo of that answer's timestamp
			case ended && g.flags&flagF != 0:
				return true // the program has closed: Linux resets for a FIN behind a gap, as for data
			case m.edge && !shaken:
				return true // before the handshake is complete, Linux's window is larger than it tells
			case g.flags&flagR != 0 && ends[g.seq.v] && linux[i-1].ack != g.seq.v:
				return true // Linux believes a reset behind what came out of order, too
			case finished && (data || g.flags&flagF != 0):
				return true // behind a FIN: Linux resets, RFC 9293 has it ignored
			case ended && g.flags&flagR != 0:
				return true // the program has closed: Linux believes any reset in the window
			case i < last:
			case m.edge && g.seq.v == 0:
				return true // RFC 9293 section 3.4: outside the window, Linux looks one further
			case g.flags&(flagA|flagS|flagR) == 0:
				return true // Linux does not look where such a segment lies
			case answered && (!data && g.flags&flagF == 0 || g.flags&flagS != 0 || g.ack.v > max(linux[i].sent, 1) || g.ack.v < 1):
				return true // what is owed, and the limit of RFC 5961 section 7: each stack counts others
			case (data || g.flags&flagF != 0) && repeated >= 3 && !linux[i].answer:
				return true // Linux waits for more
			}
			stale = stale || stamped && stamp.args[0].set && (stamp.args[0].v < 1000 || g.seq.v < 1)
			shaken = shaken || g.flags&(flagA|flagS|flagR) == flagA && g.ack.v == 1 && g.seq.v == 1 && (!stamped || stamp.args[0].v >= 1000)
			finished = finished || g.flags&flagF != 0
			ends[g.end.v] = true
			if g.flags&flagF != 0 {
				ends[g.end.v+1] = true
			}
		}
		if i > 0 && (linux[i].answer || tpa[i].answer) {
			answered = true
			if !advanced(linux, i) {
				repeated++
			}
		}
		answered = answered || m.late
		half = half || m.name == "close for writing"
		ended = ended || m.name == "close"
	}
	return false
}

// shorten leaves out moves as long as the stacks still differ.
func (d *differential) shorten(moves []move) []move {
	for i := len(moves) - 1; i >= 0; i-- {
		fewer := slices.Delete(slices.Clone(moves), i, i+1)
		if at, _, _ := d.difference(fewer); at >= 0 {
			moves = fewer
		}
	}
	return moves
}

// TestDifferential makes random moves against Linux and against our stack: what they
// answer, and what the program sees, must be the same but for what a stack may choose.
// It makes the same 1,000 sequences each time, or goes on for DIFFERENTIAL; SEED is the
// first one.
func TestDifferential(t *testing.T) {
	limit, sequences := time.Hour, 1000
	if v := os.Getenv("DIFFERENTIAL"); v != "" {
		var err error
		if limit, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
		sequences = math.MaxInt
	}
	first := uint64(0)
	if v := os.Getenv("SEED"); v != "" {
		var err error
		if first, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	k := newKernel(t, "0")
	const batch = 50
	began, count, found := time.Now(), 0, 0
	for seed := first; count < sequences && time.Since(began) < limit && found < 10; seed += batch {
		d := &differential{t: t, kernel: k, v6: seed/batch%2 == 1}
		var all [][]move
		for i := range uint64(batch) {
			all = append(all, drawMoves(seed+i))
		}
		a, err := d.linux(all)
		if err != nil {
			t.Fatalf("seeds from %d on, Linux: %v", seed, err)
		}
		b, err := d.tpa(all)
		if err != nil {
			t.Fatalf("seeds from %d on: %v", seed, err)
		}
		for i, moves := range all {
			count++
			if part(moves, a[i], b[i]) < 0 {
				continue
			}
			// In real time a busy machine spoils a run: again, alone.
			if at, _, _ := d.difference(moves); at < 0 {
				continue
			}
			found++
			moves = d.shorten(moves)
			at, linux, tpa := d.difference(moves)
			if at < 0 {
				continue
			}
			var text strings.Builder
			for j := range moves[:at+1] {
				fmt.Fprintf(&text, "\n\t%v", moves[j])
			}
			t.Errorf("seed %d, IPv6 %v: they differ after %s\n\tLinux %+v\n\tours  %+v", seed+uint64(i), d.v6, &text, linux[at], tpa[at])
		}
	}
	t.Logf("%d sequences in %v", count, time.Since(began).Round(time.Second))
}
