package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
)

// A scenario is a row of steps and the clause that they check.
type scenario struct {
	clause, name string
	steps        steps
	// slow keeps a scenario that needs minutes to virtual time.
	slow bool
	// ours keeps a scenario to our stack, and says why.
	ours string
	// only is "IPv4" or "IPv6" for what one of them has alone.
	only string
	// backlog is the listener's, 0 for the default.
	backlog int
	// tailProbes leaves probes for the tail of a flight on, where they can be
	// turned off: elsewhere they come before what a scenario waits for.
	tailProbes bool
	// cubic takes CUBIC for congestion control instead of Reno.
	cubic bool
}

func (s scenario) title() string { return s.clause + ": " + s.name }

// A host is a stack under test, as the program on it and its peer see it.
type host interface {
	// send hands the stack an IP packet.
	send(packet []byte)
	// received are the IP packets that the stack sent to the peer, with the times.
	received() <-chan arrival
	// addrs are the addresses of the stack and of the peer.
	addrs(v6 bool) (ours, peer netip.Addr)
	listen(addr netip.AddrPort, sc *scenario) (net.Listener, error)
	dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// settle returns when the stack has done what it does at once.
	settle()
	// real means that time is real.
	real() bool
}

type arrival struct {
	at     time.Time
	packet []byte
}

// A socket is what the connections of package net and of accel have in common.
type socket interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
	SetNoDelay(bool) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// A run is a scenario on its way.
type run struct {
	host       host
	scenario   *scenario
	ours, peer netip.Addr
	conns      map[int]*connection
	ourPort    uint16

	listener net.Listener
	sock     socket
	socks    []socket
	dialled  chan dialled

	wrote, read int64      // bytes of the streams, at our socket
	window      int64      // what the peer offers by default, as in the header
	reading     chan error // the end of readLater
	again       bool       // connections begin again and again on the same ports
	oldTS       uint32     // for timestampsRose
	oldEnd      uint32     // where our numbers of the connection before ended, for beyondOld
	// mark is when the last thing happened: a segment went out, one came in, or
	// the program did something.
	mark    time.Time
	start   time.Time
	history []string
}

type connection struct {
	peerPort uint16
	isns     isns
	lastTS   uint32
	// starts are where our data segments began, when they were sent first, and
	// where the next one will.
	starts []int64
	// acked is what the peer acknowledged.
	acked int64
	// ack and edge are what we acknowledged last and the end of our window,
	// unscaled.
	ack, edge int64
}

type dialled struct {
	conn net.Conn
	err  error
}

// The initial sequence number of the peer makes every connection wrap around
// within its first kilobyte.
const (
	peerISN  = 0xfffffc00
	peerPort = 40000
)

// Times that are not said otherwise.
const (
	testTimeout = 600 * time.Millisecond // for a segment or a call, in virtual time
	realTimeout = 5 * time.Second
	realQuiet   = 60 * time.Millisecond // silence that counts, in real time
)

func newRun(h host, sc *scenario, v6 bool) *run {
	s := &run{host: h, scenario: sc, conns: map[int]*connection{}, window: 65535, start: time.Now(), mark: time.Now()}
	s.ours, s.peer = h.addrs(v6)
	return s
}

// play does the steps, and returns what went wrong with all that led to it.
func (s *run) play() error {
	defer s.end()
	for i, st := range s.scenario.steps {
		s.note("%s", st.text)
		err := st.do(s)
		s.host.settle()
		if err != nil {
			return fmt.Errorf("step %d, %s: %w\n\t%s", i+1, st.text, err, strings.Join(s.history, "\n\t"))
		}
	}
	return nil
}

// end leaves nothing behind that would send.
func (s *run) end() {
	for _, c := range s.socks {
		c.SetLinger(0)
		c.Close()
	}
	if s.listener != nil {
		s.listener.Close()
	}
}

func (s *run) note(format string, args ...any) {
	s.history = append(s.history, fmt.Sprintf("%9.3f ms  %s", float64(time.Since(s.start).Microseconds())/1000, fmt.Sprintf(format, args...)))
}

func (s *run) conn(i int) *connection {
	c := s.conns[i]
	if c == nil {
		c = &connection{peerPort: peerPort + uint16(i), isns: isns{peer: peerISN}, starts: []int64{1}}
		s.conns[i] = c
	}
	return c
}

func (s *run) testTimeout() time.Duration {
	if s.host.real() {
		return realTimeout
	}
	return testTimeout
}

// send injects a segment of the peer.
func (s *run) send(g segment) error {
	c := s.conn(g.conn)
	g, err := g.resolve(c.starts)
	if err != nil {
		return err
	}
	src, dst := netip.AddrPortFrom(s.peer, c.peerPort), netip.AddrPortFrom(s.ours, s.ourPort)
	s.host.send(testframe.IP(s.peer, s.ours, testframe.ProtocolTCP, g.encode(src, dst, c.isns, s.window, c.lastTS)))
	if ours := c.starts[len(c.starts)-1]; g.ack.v > c.acked && g.ack.v <= ours {
		c.acked = g.ack.v
	}
	s.mark = time.Now()
	return nil
}

// next returns the next segment of the stack until the deadline.
func (s *run) next(deadline time.Time) (g segment, at time.Time, ok bool, err error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		var a arrival
		select {
		case a = <-s.host.received():
		default:
			select {
			case a = <-s.host.received():
			case <-timer.C:
				return g, at, false, nil
			}
		}
		g, ours, err := s.decode(a)
		if err != nil || ours {
			return g, a.at, err == nil, err
		}
	}
}

// decode reads a packet of the stack. It returns false for what is no segment to the
// peer.
func (s *run) decode(a arrival) (g segment, ok bool, err error) {
	p, err := testframe.ParseIP(a.packet)
	if err != nil {
		return g, false, err
	}
	if p.Protocol != testframe.ProtocolTCP || p.Dst != s.peer || len(p.Payload) < 20 {
		return g, false, nil
	}
	h := p.TCP()
	from, to := h.SourcePort(), h.DestinationPort()
	index := int(to) - peerPort
	if s.ourPort == 0 {
		s.ourPort = from // it dialled
	}
	if index < 0 || index > 10000 || from != s.ourPort {
		return g, false, fmt.Errorf("a segment from port %d to port %d", from, to)
	}
	c := s.conn(index)
	if h.Flags().Contains(header.TCPFlagSyn) && (c.isns.ours == 0 || s.again) {
		c.isns.ours = h.SequenceNumber()
	}
	g, err = decodeSegment(h, c.isns, c.acked)
	g.conn = index
	s.note("    > %v", g)
	if err != nil {
		return g, false, err
	}
	if o, ok := g.option("ts"); ok {
		c.lastTS = uint32(o.args[0].v)
	}
	if last := c.starts[len(c.starts)-1]; g.seq.v == last && g.end.v > last {
		c.starts = append(c.starts, g.end.v)
	}
	if g.flags&flagA != 0 {
		c.ack, c.edge = g.ack.v, g.ack.v+g.win.v
	}
	return g, true, nil
}

// expect waits for a segment that matches, and skips pure acknowledgements that
// do not.
func (s *run) expect(want segment, wait time.Duration) (time.Time, error) {
	deadline := time.Now().Add(wait)
	want, err := want.resolve(s.conn(want.conn).starts)
	if err != nil {
		return deadline, err
	}
	for {
		g, at, ok, err := s.next(deadline)
		switch {
		case err != nil:
			return at, err
		case !ok:
			return at, fmt.Errorf("no such segment within %v", wait)
		case want.matches(g):
			return at, nil
		case !g.pureAck():
			return at, fmt.Errorf("got %v", g)
		}
	}
}
