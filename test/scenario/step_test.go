package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testframe"
)

type steps []step

// A step is one thing that happens.
type step struct {
	text string
	do   func(*run) error
}

func mustParse(text string) segment {
	g, err := parseSegment(text)
	if err != nil {
		panic(err)
	}
	return g
}

// in sends segments of the peer.
func in(texts ...string) step {
	var all []segment
	for _, t := range texts {
		all = append(all, mustParse(t))
	}
	return step{"< " + strings.Join(texts, "\n\t                < "), func(s *run) error {
		for _, g := range all {
			if err := s.send(g); err != nil {
				return err
			}
		}
		return nil
	}}
}

// out expects segments, in this order.
func out(texts ...string) step {
	var all []segment
	for _, t := range texts {
		all = append(all, mustParse(t))
	}
	return step{"expect " + strings.Join(texts, ", "), func(s *run) error {
		for _, g := range all {
			at, err := s.expect(g, s.testTimeout())
			if err != nil {
				return fmt.Errorf("want %v: %w", g, err)
			}
			s.mark = at
		}
		return nil
	}}
}

// between expects a segment that comes no sooner than from and no later than to
// after the last thing that happened.
func between(from, to time.Duration, text string) step {
	g := mustParse(text)
	return step{fmt.Sprintf("expect %s after %v to %v", text, from, to), func(s *run) error {
		low, high := from, to
		if s.host.real() { // both ends of the interval are measured late
			low, high = from/2, to+realTimeout/2
		}
		at, err := s.expect(g, time.Until(s.mark.Add(high+time.Millisecond)))
		if err != nil {
			return err
		}
		if d := at.Sub(s.mark); d < low && low > 0 || d > high {
			return fmt.Errorf("it came after %v", d)
		}
		s.mark = at
		return nil
	}}
}

// silence expects nothing at all for a while, or nothing but what allowed allows.
func silence(d time.Duration, what string, allowed func(segment) bool) step {
	return step{fmt.Sprintf("%s for %v", what, d), func(s *run) error {
		if s.host.real() {
			d = min(d, realQuiet)
		}
		deadline := time.Now().Add(d)
		for {
			g, _, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return nil
			case !allowed(g):
				return fmt.Errorf("got %v", g)
			}
		}
	}}
}

func quiet(d time.Duration) step {
	return silence(d, "silence", func(segment) bool { return false })
}

// onlyAcks lets pure acknowledgements pass.
func onlyAcks(d time.Duration) step { return silence(d, "nothing but ACKs", segment.pureAck) }

// settled lets everything that is under way arrive, and forgets acknowledgements.
func settled() step { return onlyAcks(100 * time.Millisecond) }

// noMoreThan counts the pure acknowledgements that come within a while.
func noMoreThan(n int, d time.Duration) step {
	return step{fmt.Sprintf("at most %d ACKs within %v", n, d), func(s *run) error {
		if s.host.real() {
			d = min(d, realQuiet)
		}
		deadline := time.Now().Add(d)
		for i := 0; ; i++ {
			g, _, ok, err := s.next(deadline)
			switch {
			case err != nil:
				return err
			case !ok:
				return nil
			case !g.pureAck():
				return fmt.Errorf("got %v", g)
			case i == n:
				return errors.New("one more")
			}
		}
	}}
}

func wait(d time.Duration) step {
	return step{fmt.Sprintf("wait %v", d), func(s *run) error {
		time.Sleep(d)
		s.mark = time.Now()
		return nil
	}}
}

// call is a step of the program.
func call(text string, do func(*run) error) step {
	return step{"program: " + text, func(s *run) error {
		err := do(s)
		s.mark = time.Now()
		return err
	}}
}

func listen() step {
	return call("listen", func(s *run) (err error) {
		if s.listener, err = s.host.listen(netip.AddrPortFrom(s.ours, 0), s.scenario); err != nil {
			return err
		}
		s.ourPort = s.listener.Addr().(*net.TCPAddr).AddrPort().Port()
		return nil
	})
}

func accept() step {
	return call("accept", func(s *run) error {
		type deadliner interface{ SetDeadline(time.Time) error }
		if l, ok := s.listener.(deadliner); ok {
			l.SetDeadline(time.Now().Add(s.testTimeout()))
		}
		c, err := s.listener.Accept()
		if err != nil {
			return err
		}
		return s.use(c)
	})
}

func (s *run) use(c net.Conn) error {
	sock, ok := c.(socket)
	if !ok {
		return fmt.Errorf("a connection of type %T", c)
	}
	s.sock = sock
	s.socks = append(s.socks, sock)
	s.wrote, s.read = 0, 0
	// The keep-alive of Go's default would talk in long scenarios.
	return sock.SetKeepAliveConfig(net.KeepAliveConfig{})
}

// nobody expects that no connection waits to be accepted.
func nobody() step {
	return call("finds no connection to accept", func(s *run) error {
		type deadliner interface{ SetDeadline(time.Time) error }
		d := 10 * time.Millisecond
		if s.host.real() {
			d = realQuiet
		}
		l, ok := s.listener.(deadliner)
		if !ok {
			return fmt.Errorf("%T has no deadline", s.listener)
		}
		l.SetDeadline(time.Now().Add(d))
		c, err := s.listener.Accept()
		switch {
		case err == nil:
			c.Close()
			return errors.New("there is one")
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		return nil
	})
}

func dial() step {
	return call("dial", func(s *run) error {
		s.dialled = make(chan dialled, 1)
		to := netip.AddrPortFrom(s.peer, s.conn(0).peerPort)
		go func() {
			c, err := s.host.dial(context.Background(), to)
			s.dialled <- dialled{c, err}
		}()
		return nil
	})
}

func (s *run) dialEnds(limit time.Duration) (dialled, error) {
	select {
	case d := <-s.dialled:
		return d, nil
	case <-time.After(limit):
		return dialled{}, errors.New("still dialling")
	}
}

func connected() step {
	return call("is connected", func(s *run) error {
		d, err := s.dialEnds(s.testTimeout())
		if err == nil {
			err = d.err
		}
		if err != nil {
			return err
		}
		return s.use(d.conn)
	})
}

// connectFails expects one of the errors.
func connectFails(wants ...error) step {
	return call(fmt.Sprint("cannot connect: ", wants), func(s *run) error {
		d, err := s.dialEnds(s.testTimeout())
		if err != nil {
			return err
		}
		if d.err == nil {
			d.conn.Close()
		}
		return oneOf(d.err, wants)
	})
}

func oneOf(err error, wants []error) error {
	if err == nil {
		return errors.New("no error")
	}
	if slices.ContainsFunc(wants, func(want error) bool { return errors.Is(err, want) }) {
		return nil
	}
	return fmt.Errorf("another error: %w", err)
}

// stillDialling expects that the dial has not ended.
func stillDialling() step {
	return call("still dials", func(s *run) error {
		d := 10 * time.Millisecond
		if s.host.real() {
			d = realQuiet
		}
		if r, err := s.dialEnds(d); err == nil {
			return fmt.Errorf("it ended: %v", r.err)
		}
		return nil
	})
}

// write writes the next n bytes of the stream.
func write(n int64) step {
	return call(fmt.Sprintf("write %d", n), func(s *run) error {
		b := make([]byte, n)
		for i := range b {
			b[i] = patternAt(1 + s.wrote + int64(i))
		}
		s.sock.SetWriteDeadline(time.Now().Add(s.testTimeout()))
		k, err := s.sock.Write(b)
		s.wrote += int64(k)
		return err
	})
}

// writing writes the next n bytes of the stream, which may take longer than the
// scenario.
func writing(n int64) step {
	return call(fmt.Sprintf("begin to write %d", n), func(s *run) error {
		b := make([]byte, n)
		for i := range b {
			b[i] = patternAt(1 + s.wrote + int64(i))
		}
		s.wrote += n
		c := s.sock
		go c.Write(b) // ends with the connection, at the latest
		return nil
	})
}

// writeFails expects one of the errors, at the latest after a few tries.
func writeFails(wants ...error) step {
	return call(fmt.Sprint("cannot write: ", wants), func(s *run) error {
		s.sock.SetWriteDeadline(time.Now().Add(s.testTimeout()))
		_, err := s.sock.Write([]byte{patternAt(1 + s.wrote)})
		return oneOf(err, wants)
	})
}

// read reads n bytes of the stream.
func read(n int64) step {
	return call(fmt.Sprintf("read %d", n), func(s *run) error {
		s.sock.SetReadDeadline(time.Now().Add(s.testTimeout()))
		b := make([]byte, n)
		k, err := io.ReadFull(s.sock, b)
		for i, c := range b[:k] {
			if place := 1 + s.read + int64(i); c != patternAt(place) {
				return fmt.Errorf("byte %d of the stream is %#x, want %#x", place, c, patternAt(place))
			}
		}
		s.read += int64(k)
		if err != nil {
			return fmt.Errorf("%d bytes, then %w", k, err)
		}
		return nil
	})
}

// nothingToRead expects that a read has to wait.
func nothingToRead() step {
	return call("finds nothing to read", func(s *run) error {
		d := 10 * time.Millisecond
		if s.host.real() {
			d = realQuiet
		}
		s.sock.SetReadDeadline(time.Now().Add(d))
		n, err := s.sock.Read(make([]byte, 64<<10))
		switch {
		case n > 0:
			return fmt.Errorf("%d bytes", n)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("error %w", err)
		}
		return nil
	})
}

// readFails expects one of the errors, such as io.EOF.
func readFails(wants ...error) step {
	return call(fmt.Sprint("cannot read: ", wants), func(s *run) error {
		s.sock.SetReadDeadline(time.Now().Add(s.testTimeout()))
		n, err := s.sock.Read(make([]byte, 64<<10))
		if n > 0 {
			return fmt.Errorf("%d bytes", n)
		}
		return oneOf(err, wants)
	})
}

func closeWrite() step {
	return call("close for writing", func(s *run) error { return s.sock.CloseWrite() })
}

func closeRead() step {
	return call("close for reading", func(s *run) error { return s.sock.CloseRead() })
}

func closeAll() step { return call("close", func(s *run) error { return s.sock.Close() }) }

func closeListener() step {
	return call("close the listener", func(s *run) error { return s.listener.Close() })
}

func linger(sec int) step {
	return call(fmt.Sprintf("linger %d s", sec), func(s *run) error { return s.sock.SetLinger(sec) })
}

func noDelay(on bool) step {
	return call(fmt.Sprintf("no delay: %v", on), func(s *run) error { return s.sock.SetNoDelay(on) })
}

func keepAlive(idle, interval time.Duration, count int) step {
	return call(fmt.Sprintf("keep-alive after %v, every %v, %d times", idle, interval, count), func(s *run) error {
		return s.sock.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: count})
	})
}

func userTimeout(d time.Duration) step {
	return call(fmt.Sprintf("user timeout %v", d), func(s *run) error {
		if c, ok := s.sock.(interface{ SetUserTimeout(time.Duration) error }); ok {
			return c.SetUserTimeout(d)
		}
		raw, err := s.sock.(syscall.Conn).SyscallConn()
		if err != nil {
			return err
		}
		outer := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
		return errors.Join(outer, err)
	})
}

// peerWindow is what the peer offers from now on, as in the header.
func peerWindow(n int64) step {
	return step{fmt.Sprintf("the peer offers %d", n), func(s *run) error { s.window = n; return nil }}
}

// again starts another incarnation of a connection, whose initial sequence
// number is delta higher.
func again(conn int, delta int64) step {
	return step{fmt.Sprintf("connection %d anew, %+d", conn, delta), func(s *run) error {
		c := s.conn(conn - 1)
		s.oldEnd = c.isns.ours + uint32(c.starts[len(c.starts)-1])
		c.isns, c.starts = isns{peer: c.isns.peer + uint32(delta)}, []int64{1}
		return nil
	}}
}

// icmp sends an ICMP error about a segment of ours. mtu counts only in "packet
// too big".
func icmp(kind icmpKind, mtu int, quoted string) step {
	g := mustParse(quoted)
	return step{fmt.Sprintf("< ICMP %s %d about %s", kind.name, mtu, quoted), func(s *run) error {
		c := s.conn(g.conn)
		// The quoted segment is ours: its sequence number is relative to our ISN.
		turned := isns{peer: c.isns.ours, ours: c.isns.peer}
		src, dst := netip.AddrPortFrom(s.ours, s.ourPort), netip.AddrPortFrom(s.peer, c.peerPort)
		ip := testframe.IP(s.ours, s.peer, testframe.ProtocolTCP, g.encode(src, dst, turned, 65535, 0))
		header := 20
		if s.ours.Is6() {
			header = 40
		}
		// RFC 792: the IP header and 8 bytes. What is longer is cut off here.
		ip = ip[:header+max(8, min(20, len(ip)-header))]
		s.host.send(icmpError(kind, s.peer, s.ours, mtu, ip))
		s.mark = time.Now()
		return nil
	}}
}

// join makes one step of several.
func join(text string, all ...step) step {
	return step{text, func(s *run) error {
		for _, st := range all {
			s.note("  %s", st.text)
			err := st.do(s)
			s.host.settle()
			if err != nil {
				return fmt.Errorf("%s: %w", st.text, err)
			}
		}
		return nil
	}}
}

// established is a connection that the peer opened with these SYN options and
// the program accepted. Without options it has an MSS of 1000 and nothing else.
func established(options ...string) step {
	opts := "mss 1000"
	if len(options) > 0 {
		opts = strings.Join(options, ",")
	}
	ack := "A 1 ack 1"
	syn := mustParse("S 0 <" + opts + ">")
	if ts, ok := syn.option("ts"); ok {
		ack += fmt.Sprintf(" <ts %d last>", uint32(ts.args[0].v+1))
	}
	return join("the peer connects <"+opts+">",
		listen(),
		in("S 0 <"+opts+">"), out("SA 0 ack 1"), in(ack),
		accept(),
	)
}

// dialledOut is a connection that the program opened; the peer's SYN has these
// options.
func dialledOut(options ...string) step {
	opts := "mss 1000"
	if len(options) > 0 {
		opts = strings.Join(options, ",")
	}
	return join("the program connects <"+opts+">",
		dial(), out("S 0"), in("SA 0 ack 1 <"+opts+">"), out("A 1 ack 1"), connected(),
	)
}
