package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/gotpa/tpa/accel"
)

// A conversation is one connection: what the client does, and what the server
// that accepts it does. The client names it in its first four bytes.
type conversation struct {
	*program
	id     uint32
	kind   kind
	client int // the host that dials
	v6     bool
	begin  time.Duration // when it dials, after the program began
	// flaky is set when the listener comes and goes: the conversation may fail
	// with an error, but not by a stream that ends early.
	flaky bool

	// What follows is drawn by the kinds that need it.
	up, down flux
	rounds   int
	pause    time.Duration
	linger   int

	served  bool
	dialled bool
}

func (v *conversation) String() string {
	return fmt.Sprintf("%s %d from host %d (IPv6 %v)", v.kind.name, v.id, v.client, v.v6)
}

// A flux is how one direction of a stream is written and read.
type flux struct {
	stream stream
	bytes  int64
	// chunk is the greatest write or read at a time, pause the greatest rest
	// between two. whole passes the bytes as one io.Copy instead.
	writeChunk, readChunk int
	writePause, readPause time.Duration
	whole                 bool
	random                uint64
}

// conn is what the connections of package net and of accel have in common.
type conn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(int) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

// size draws a number of bytes: most are small, few are large.
func size(r *rand.Rand, limit int64) int64 {
	switch n := r.IntN(10); {
	case n < 5:
		return min(1+r.Int64N(100), limit)
	case n < 8:
		return min(1+r.Int64N(20_000), limit)
	default:
		return 1 + r.Int64N(limit)
	}
}

// volume draws the most that a conversation sends in one direction: little for
// most, so that many seeds can be run, megabytes for few.
func volume(r *rand.Rand) int64 {
	switch n := r.IntN(200); {
	case n < 120:
		return 3_000
	case n < 180:
		return 30_000
	case n < 199:
		return 300_000
	default:
		return 4 << 20
	}
}

func drawFlux(r *rand.Rand, limit int64) flux {
	f := flux{
		stream: stream(r.Uint64()), bytes: size(r, limit), random: r.Uint64(),
		writeChunk: int(size(r, 1<<20)), readChunk: int(size(r, 1<<18)), whole: r.IntN(4) == 0,
	}
	f.enough()
	if r.IntN(3) == 0 {
		f.writePause = time.Duration(r.Int64N(int64(20 * time.Millisecond)))
	}
	if r.IntN(3) == 0 {
		f.readPause = time.Duration(r.Int64N(int64(20 * time.Millisecond)))
	}
	return f
}

// enough makes chunks larger: small ones of large streams would take for ever.
func (f *flux) enough() {
	f.writeChunk = max(f.writeChunk, int(f.bytes/500))
	f.readChunk = max(f.readChunk, int(f.bytes/500))
}

// write sends the whole flux.
func (f *flux) write(c conn) error {
	src := &source{stream: f.stream, n: f.bytes}
	if f.whole {
		n, err := io.Copy(c, src)
		if err == nil && n != f.bytes {
			err = fmt.Errorf("io.Copy sent %d bytes of %d", n, f.bytes)
		}
		return err
	}
	r := rand.New(rand.NewPCG(f.random, 1))
	buf := make([]byte, f.writeChunk)
	for src.at < src.n {
		n, _ := src.Read(buf[:1+r.IntN(len(buf))])
		if k, err := c.Write(buf[:n]); err != nil {
			return err
		} else if k != n {
			return fmt.Errorf("Write sent %d bytes of %d without an error", k, n)
		}
		if f.writePause > 0 {
			time.Sleep(time.Duration(r.Int64N(int64(f.writePause))))
		}
	}
	return nil
}

// read reads the flux to its end, and the end of the stream if last is set.
func (f *flux) read(c conn, last bool) error {
	got := &check{stream: f.stream}
	if f.whole && last {
		if _, err := io.Copy(got, c); err != nil {
			return err
		}
	} else {
		r := rand.New(rand.NewPCG(f.random, 2))
		buf := make([]byte, f.readChunk)
		for {
			b := buf[:1+r.IntN(len(buf))]
			if !last {
				if got.at == f.bytes {
					return nil
				}
				b = b[:min(int64(len(b)), f.bytes-got.at)]
			}
			n, err := c.Read(b)
			if _, err := got.Write(b[:n]); err != nil {
				return err
			}
			if err == io.EOF && last {
				break
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return errors.New("Read returned nothing and no error")
			}
			if f.readPause > 0 {
				time.Sleep(time.Duration(r.Int64N(int64(f.readPause))))
			}
		}
	}
	if got.at != f.bytes {
		return fmt.Errorf("the stream ended after %d bytes of %d", got.at, f.bytes)
	}
	return nil
}

// both runs two functions at once and returns their errors.
func both(a, b func() error) error {
	result := make(chan error, 1)
	go func() { result <- a() }()
	err := b()
	return errors.Join(err, <-result)
}

// The kinds of conversations. Each is the client's and the server's part.

// transfer sends a stream each way, with half-closes.
func (v *conversation) transfer(c conn, out, in *flux) error {
	err := both(
		func() error {
			if err := out.write(c); err != nil {
				return err
			}
			return c.CloseWrite()
		},
		func() error { return in.read(c, true) },
	)
	return errors.Join(err, c.Close())
}

// rounds exchanges requests and responses.
func (v *conversation) exchange(c conn, out, in *flux, first bool) error {
	for range v.rounds {
		if first {
			if err := out.write(c); err != nil {
				return err
			}
		}
		if err := in.read(c, false); err != nil {
			return err
		}
		if !first {
			if err := out.write(c); err != nil {
				return err
			}
		}
	}
	if first {
		return c.Close()
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("after the last round: %d bytes, %w, want EOF", n, err)
	}
	return c.Close()
}

// expire sets a deadline, waits for it, and goes on.
func (v *conversation) expire(c conn) error {
	start := time.Now()
	deadline := start.Add(v.pause)
	if err := c.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 10))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n != 0 {
		return fmt.Errorf("read past the deadline: %d bytes, %w", n, err)
	}
	if late := time.Since(deadline); late < 0 || late > v.slept {
		return fmt.Errorf("the deadline came %v late", late)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return nil
}

// hold writes until the deadline to a peer that does not read. It returns how
// much was taken.
func (v *conversation) hold(c conn) (int64, error) {
	if err := c.SetWriteDeadline(time.Now().Add(v.pause)); err != nil {
		return 0, err
	}
	var sent int64
	buf := make([]byte, 64<<10)
	for {
		v.up.stream.fill(buf, sent)
		n, err := c.Write(buf)
		sent += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return sent, err
		}
		if sent > 64<<20 {
			return sent, errors.New("64 MB were written to a peer that does not read")
		}
	}
	return sent, c.SetWriteDeadline(time.Time{})
}

type kind struct {
	name   string
	weight int
	draw   func(*conversation, *rand.Rand)
	client func(*conversation, conn) error
	server func(*conversation, conn) error
	// resets is set when the server may find its connection reset before it has
	// read anything.
	resets bool
}

var kinds = []kind{
	{
		name: "transfer", weight: 8,
		draw: func(v *conversation, r *rand.Rand) {
			v.up, v.down = drawFlux(r, volume(r)), drawFlux(r, volume(r))
		},
		client: func(v *conversation, c conn) error { return v.transfer(c, &v.up, &v.down) },
		server: func(v *conversation, c conn) error { return v.transfer(c, &v.down, &v.up) },
	},
	{
		name: "exchange", weight: 6,
		draw: func(v *conversation, r *rand.Rand) {
			v.rounds = 1 + r.IntN(20)
			limit := 1 + volume(r)/int64(v.rounds)
			v.up, v.down = drawFlux(r, limit), drawFlux(r, limit)
		},
		client: func(v *conversation, c conn) error { return v.exchange(c, &v.up, &v.down, true) },
		server: func(v *conversation, c conn) error { return v.exchange(c, &v.down, &v.up, false) },
	},
	{
		name: "splice", weight: 2,
		draw: func(v *conversation, r *rand.Rand) {
			v.up = drawFlux(r, volume(r))
			v.down = drawFlux(r, 1)
			v.down.stream, v.down.bytes = v.up.stream, v.up.bytes
		},
		client: func(v *conversation, c conn) error { return v.transfer(c, &v.up, &v.down) },
		server: func(v *conversation, c conn) error {
			if n, err := io.Copy(c, c); err != nil || n != v.up.bytes {
				return fmt.Errorf("echoed %d bytes of %d: %w", n, v.up.bytes, err)
			}
			return c.Close()
		},
	},
	{
		name: "deadlines", weight: 2,
		draw: func(v *conversation, r *rand.Rand) {
			v.pause = time.Duration(1 + r.Int64N(int64(3*time.Second)))
			v.rounds = 2
			v.up, v.down = drawFlux(r, 3000), drawFlux(r, 3000)
		},
		client: func(v *conversation, c conn) error {
			if err := v.expire(c); err != nil {
				return err
			}
			return v.exchange(c, &v.up, &v.down, true)
		},
		server: func(v *conversation, c conn) error { return v.exchange(c, &v.down, &v.up, false) },
	},
	{
		name: "blocked writer", weight: 1,
		draw: func(v *conversation, r *rand.Rand) {
			v.pause = 20*time.Second + time.Duration(r.Int64N(int64(5*time.Second)))
			v.up = drawFlux(r, 1)
		},
		client: func(v *conversation, c conn) error {
			sent, err := v.hold(c)
			if err != nil {
				return err
			}
			// The peer tells how much it got.
			if err := c.CloseWrite(); err != nil {
				return err
			}
			var got [8]byte
			if _, err := io.ReadFull(c, got[:]); err != nil {
				return fmt.Errorf("waiting for the count: %w", err)
			}
			if n := int64(binary.BigEndian.Uint64(got[:])); n != sent {
				return fmt.Errorf("%d bytes were taken, %d arrived", sent, n)
			}
			return c.Close()
		},
		server: func(v *conversation, c conn) error {
			time.Sleep(v.pause + 10*time.Second)
			got := &check{stream: v.up.stream}
			if _, err := io.Copy(got, c); err != nil {
				return err
			}
			if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(got.at))); err != nil {
				return err
			}
			return c.Close()
		},
	},
	{
		name: "abort", weight: 2, resets: true,
		draw: func(v *conversation, r *rand.Rand) {
			v.up = drawFlux(r, volume(r))
			v.pause = time.Duration(r.Int64N(int64(time.Second)))
		},
		client: func(v *conversation, c conn) error {
			if err := v.up.write(c); err != nil {
				return err
			}
			time.Sleep(v.pause)
			if err := c.SetLinger(0); err != nil {
				return err
			}
			return c.Close()
		},
		server: func(v *conversation, c conn) error {
			// The reset may be lost; then keep-alive finds out.
			_, err := io.Copy(&check{stream: v.up.stream}, c)
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ETIMEDOUT) {
				return fmt.Errorf("reading from an aborted connection: %w, want ECONNRESET", err)
			}
			return c.Close()
		},
	},
	{
		name: "unread", weight: 1,
		draw: func(v *conversation, r *rand.Rand) { v.up = drawFlux(r, volume(r)) },
		client: func(v *conversation, c conn) error {
			// The server closes with data unread: a reset, sooner or later.
			for {
				err := v.up.write(c)
				if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT) {
					return c.Close()
				}
				if err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
		},
		server: func(v *conversation, c conn) error {
			if _, err := io.ReadFull(c, make([]byte, min(v.up.bytes, 10))); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return c.Close()
		},
	},
	{
		name: "linger", weight: 1,
		draw: func(v *conversation, r *rand.Rand) {
			v.up = drawFlux(r, min(volume(r), 50_000))
			v.linger = 1 + r.IntN(20)
		},
		client: func(v *conversation, c conn) error {
			if err := errors.Join(c.SetLinger(v.linger), v.up.write(c)); err != nil {
				return err
			}
			start := time.Now()
			if err := c.Close(); err != nil {
				return err
			}
			if took := time.Since(start); took > time.Duration(v.linger)*time.Second+time.Second+v.slept {
				return fmt.Errorf("closing with a linger of %d s took %v", v.linger, took)
			}
			return nil
		},
		server: func(v *conversation, c conn) error {
			return errors.Join(v.up.read(c, true), c.Close())
		},
	},
}

// talk is the client's side of a conversation.
func (v *conversation) talk() error {
	c, err := v.dial()
	if err != nil {
		return err
	}
	v.dialled = true
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, v.id)); err != nil {
		c.Close()
		return err
	}
	stop := v.resize(c)
	err = v.kind.client(v, c)
	stop()
	if err != nil {
		c.Close()
	}
	return err
}

// dial connects to the other host. A lossy network may need several tries: three
// lost ARP requests are "no route to host", as with the kernel.
func (v *conversation) dial() (conn, error) {
	from, to := v.hosts[v.client], v.hosts[1-v.client]
	addr, port := to.addrs[0], steadyPort
	if v.v6 {
		addr = to.addrs[1]
	}
	if v.flaky {
		port = flakyPort
	}
	d := accel.Dialer{Runtime: from.now().rt}
	for try := 0; ; try++ {
		c, err := d.Dial("tcp", net.JoinHostPort(addr.String(), port))
		if err == nil {
			return c.(conn), nil
		}
		if try == 10 || !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ETIMEDOUT) {
			return nil, err
		}
		time.Sleep(time.Second)
	}
}

// lost tells whether an error is one that a reset or vanished peer causes.
func lost(err error) bool {
	for _, errno := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
