package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An Env is what a probe works with. Its methods may be called by any goroutine
// of the probe.
type Env struct {
	T Transport

	mu     sync.Mutex
	notes  []string
	ports  map[string]string // address, or number, to name
	mortal string            // an address of the server host, "" for none
	undo   []func()
}

// Note adds a line to the outcome. Errors among the values are told in full.
func (e *Env) Note(what string, values ...any) {
	var b strings.Builder
	b.WriteString(what)
	b.WriteByte(':')
	for _, v := range values {
		b.WriteByte(' ')
		switch v := v.(type) {
		case error:
			b.WriteString(e.describe(v))
		case net.Addr:
			fmt.Fprintf(&b, "%T(%s %s)", v, v.Network(), e.neutral(v.String()))
		default:
			b.WriteString(e.neutral(fmt.Sprint(v)))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, b.String())
}

// describe tells all of an error that a program can see.
func (e *Env) describe(err error) string {
	if err == io.EOF {
		return "io.EOF"
	}
	s := fmt.Sprintf("%q is%s types %s", e.neutral(err.Error()), identity(err), types(err))
	if ne, ok := err.(net.Error); ok {
		//lint:ignore SA1019 deprecated, but programs call it
		s += fmt.Sprintf(" timeout=%v temporary=%v", ne.Timeout(), ne.Temporary())
	}
	if op, ok := err.(*net.OpError); ok {
		s += fmt.Sprintf(" op=%s net=%s source=%s addr=%s", op.Op, op.Net, e.address(op.Source), e.address(op.Addr))
	}
	return s
}

var sentinels = []struct {
	name string
	err  error
}{
	{"net.ErrClosed", net.ErrClosed},
	{"os.ErrDeadlineExceeded", os.ErrDeadlineExceeded},
	{"io.EOF", io.EOF},
	{"io.ErrUnexpectedEOF", io.ErrUnexpectedEOF},
	{"io.ErrShortWrite", io.ErrShortWrite},
	{"io.ErrClosedPipe", io.ErrClosedPipe},
	{"context.Canceled", context.Canceled},
	{"context.DeadlineExceeded", context.DeadlineExceeded},
	{"ECONNREFUSED", syscall.ECONNREFUSED},
	{"ECONNRESET", syscall.ECONNRESET},
	{"ECONNABORTED", syscall.ECONNABORTED},
	{"EPIPE", syscall.EPIPE},
	{"ETIMEDOUT", syscall.ETIMEDOUT},
	{"EADDRINUSE", syscall.EADDRINUSE},
	{"EADDRNOTAVAIL", syscall.EADDRNOTAVAIL},
	{"EHOSTUNREACH", syscall.EHOSTUNREACH},
	{"ENETUNREACH", syscall.ENETUNREACH},
	{"ENOTCONN", syscall.ENOTCONN},
	{"EINVAL", syscall.EINVAL},
	{"ENOPROTOOPT", syscall.ENOPROTOOPT},
	{"EOPNOTSUPP", syscall.EOPNOTSUPP},
	{"EACCES", syscall.EACCES},
	{"ENODEV", syscall.ENODEV},
}

func identity(err error) string {
	var b strings.Builder
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			b.WriteString(" " + s.name)
		}
	}
	if b.Len() == 0 {
		return " nothing"
	}
	return b.String()
}

// types names the types of err and of what it wraps. Types that no program can
// name are told without their package.
func types(err error) string {
	var names []string
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		name, elem := t.String(), t
		if t.Kind() == reflect.Pointer {
			elem = t.Elem()
		}
		if n := elem.Name(); n != "" && n[0] >= 'a' && n[0] <= 'z' {
			name = n
		}
		names = append(names, name)
	}
	return strings.Join(names, ">")
}

func (e *Env) address(a net.Addr) string {
	if a == nil {
		return "nil"
	}
	if v := reflect.ValueOf(a); v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Sprintf("nil %T", a)
	}
	return fmt.Sprintf("%T(%s)", a, e.neutral(a.String()))
}

var (
	portPattern = regexp.MustCompile(`:(\d{4,5})\b`)
	zonePattern = regexp.MustCompile(`%[^\]\s]+`)
)

// neutral replaces what differs between runs, addresses of the transport, zones
// and ports, by names.
func (e *Env) neutral(s string) string {
	s = e.namePorts(s)
	for _, r := range []struct{ ip, name string }{
		{e.T.Server4, "IPv4"}, {e.T.Client4, "IPv4"}, {e.T.Server6, "IPv6"}, {e.T.Client6, "IPv6"},
		{e.mortal, "IPv4"}, {e.T.ServerLocal, "LOCAL"}, {e.T.ClientLocal, "LOCAL"},
		{e.T.Blackhole, "BLACKHOLE"}, {e.T.Unrouted, "UNROUTED"}, {e.T.Silent, "SILENT"}, {e.T.Silent6, "SILENT"},
	} {
		if r.ip != "" {
			s = regexp.MustCompile(`(^|[^\da-f.:])`+regexp.QuoteMeta(r.ip)+`($|[^\da-f.])`).ReplaceAllString(s, "${1}"+r.name+"${2}")
		}
	}
	s = zonePattern.ReplaceAllString(s, "%ZONE")
	e.mu.Lock()
	defer e.mu.Unlock()
	return portPattern.ReplaceAllStringFunc(s, func(p string) string {
		if name, ok := e.ports[p[1:]]; ok {
			return ":" + name
		}
		return ":PORT"
	})
}

// namePorts replaces the ports of addresses that have names: two hosts may have
// come to the same number.
func (e *Env) namePorts(s string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for address, name := range e.ports {
		if _, port, err := net.SplitHostPort(address); err == nil && strings.Contains(s, address) {
			named := strings.TrimSuffix(address, port) + name
			s = regexp.MustCompile(regexp.QuoteMeta(address)+`\b`).ReplaceAllLiteralString(s, named)
		}
	}
	return s
}

// NamePort gives the port of an address a name in the outcome.
func (e *Env) NamePort(a net.Addr, name string) {
	_, port, _ := net.SplitHostPort(a.String())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ports[a.String()], e.ports[port] = name, name
}

// Cleanup runs f after the probe, in reverse order.
func (e *Env) Cleanup(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.undo = append(e.undo, f)
}

func (e *Env) cleanup() {
	for {
		e.mu.Lock()
		if len(e.undo) == 0 {
			e.mu.Unlock()
			return
		}
		f := e.undo[len(e.undo)-1]
		e.undo = e.undo[:len(e.undo)-1]
		e.mu.Unlock()
		f()
	}
}

// Must ends the probe with a note when err is not nil: a step before the one
// under test failed.
func (e *Env) Must(err error) {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		e.Note(fmt.Sprintf("failed at %s:%d", file[strings.LastIndexByte(file, '/')+1:], line), err)
		runtime.Goexit()
	}
}

// Listen listens on the server host.
func (e *Env) Listen(network, address string) (net.Listener, error) {
	return e.ListenConfig(net.ListenConfig{}, network, address)
}

// ListenConfig is Listen with a configuration.
func (e *Env) ListenConfig(lc net.ListenConfig, network, address string) (net.Listener, error) {
	return e.closing(e.T.Listen(context.Background(), lc, network, address))
}

// ListenKernel listens on the server host by its kernel.
func (e *Env) ListenKernel(network, address string) (net.Listener, error) {
	return e.closing(e.T.ListenKernel(context.Background(), net.ListenConfig{}, network, address))
}

func (e *Env) closing(ln net.Listener, err error) (net.Listener, error) {
	if err == nil {
		e.Cleanup(func() { ln.Close() })
	}
	return ln, err
}

// Listener listens on a free IPv4 port of the server host.
func (e *Env) Listener() net.Listener {
	ln, err := e.Listen("tcp", net.JoinHostPort(e.T.Server4, "0"))
	e.Must(err)
	e.NamePort(ln.Addr(), "L")
	return ln
}

// Dial connects from the client host.
func (e *Env) Dial(network, address string) (net.Conn, error) {
	return e.DialWith(context.Background(), net.Dialer{}, network, address)
}

// DialWith is Dial with a configuration.
func (e *Env) DialWith(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	c, err := e.T.Dial(ctx, d, network, address)
	if err == nil {
		e.Cleanup(func() { abort(c) })
	}
	return c, err
}

// DialSelf connects from the server host to itself. It tries one address after
// the other: goroutines that a dial starts are outside the host.
func (e *Env) DialSelf(network, address string) (net.Conn, error) {
	c, err := e.T.DialSelf(context.Background(), net.Dialer{FallbackDelay: -1}, network, address)
	if err == nil {
		e.Cleanup(func() { abort(c) })
	}
	return c, err
}

// abort closes without leaving a connection in TIME_WAIT.
func abort(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

// Pair returns the two ends of a connection over IPv4: the accepted one on the
// server host, the dialled one on the client host.
func (e *Env) Pair() (server, client net.Conn) {
	ln := e.Listener()
	return e.PairTo(ln, "tcp", ln.Addr().String())
}

// PairTo connects to a listener.
func (e *Env) PairTo(ln net.Listener, network, address string) (server, client net.Conn) {
	client, err := e.Dial(network, address)
	e.Must(err)
	e.NamePort(client.LocalAddr(), "C")
	server, err = ln.Accept()
	e.Must(err)
	e.Cleanup(func() { abort(server) })
	return server, client
}

// Refused returns an address of the server host where nobody listens.
func (e *Env) Refused(host string) string {
	ln, err := e.Listen("tcp", net.JoinHostPort(host, "0"))
	e.Must(err)
	e.NamePort(ln.Addr(), "R")
	ln.Close()
	return ln.Addr().String()
}

// Arrive returns when all that was sent so far has arrived at the other side: the
// link keeps its order, and something sent later has come and gone on another
// connection, more than once.
func (e *Env) Arrive() {
	ln, err := e.T.Listen(context.Background(), net.ListenConfig{}, "tcp", net.JoinHostPort(e.T.Server4, "0"))
	e.Must(err)
	defer ln.Close()
	client, err := e.T.Dial(context.Background(), net.Dialer{}, "tcp", ln.Addr().String())
	e.Must(err)
	defer abort(client)
	server, err := ln.Accept()
	e.Must(err)
	defer abort(server)
	b := make([]byte, 1)
	for range 20 {
		for _, way := range [2][2]net.Conn{{client, server}, {server, client}} {
			_, err := way[0].Write(b)
			e.Must(err)
			_, err = io.ReadFull(way[1], b)
			e.Must(err)
		}
	}
}

// A Call is an operation that runs in a goroutine of its own.
type Call struct {
	e      *Env
	what   string
	done   chan struct{}
	values []any
}

// Go starts f. Done notes what f returns.
func (e *Env) Go(what string, f func() []any) *Call {
	c := &Call{e: e, what: what, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.values = f()
	}()
	return c
}

// Waits notes whether the operation is still under way after a while. It also
// gives the operation the time to get to where it waits.
func (c *Call) Waits() {
	select {
	case <-c.done:
		c.e.Note(c.what+" does not wait", c.values...)
	case <-time.After(40 * time.Millisecond):
		c.e.Note(c.what + " waits")
	}
}

// Done waits for the operation and notes what it returned.
func (c *Call) Done() {
	select {
	case <-c.done:
		c.e.Note(c.what, c.values...)
	case <-time.After(testTimeout):
		c.e.Note(c.what + " never returns")
	}
}

// Read starts a read of up to n bytes.
func (e *Env) Read(what string, c net.Conn, n int) *Call {
	return e.Go(what, func() []any {
		b := make([]byte, n)
		n, err := c.Read(b)
		return []any{n, fmt.Sprintf("%q", b[:n]), err}
	})
}

// Write starts a write of n bytes.
func (e *Env) Write(what string, c net.Conn, n int) *Call {
	return e.Go(what, func() []any {
		n, err := c.Write(make([]byte, n))
		return []any{n, err}
	})
}

// much is more than two hosts hold between a writer and a reader that does not
// read: writing it waits.
const much = 48 << 20

// WriteMuch starts a write that waits until the peer has read. How much is
// written before is not noted.
func (e *Env) WriteMuch(what string, c net.Conn) *Call {
	return e.Go(what, func() []any {
		n, err := c.Write(make([]byte, much))
		return []any{"all:", n == much, "error:", err}
	})
}

// Fill writes to c until it would wait, and tells what it wrote.
func (e *Env) Fill(c net.Conn) int64 {
	var total int64
	b := make([]byte, 1<<20)
	for idle := 0; idle < 2; {
		e.Must(c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)))
		n, err := c.Write(b)
		total += int64(n)
		switch {
		case n > 0:
			idle = 0
		case err != nil:
			idle++
		}
	}
	e.Must(c.SetWriteDeadline(time.Time{}))
	return total
}

// Reset makes the peer of c see a reset.
func (e *Env) Reset(c net.Conn) {
	e.Must(tcp(c).SetLinger(0))
	e.Must(c.Close())
}

// tcpConn is what programs expect of a TCP connection besides net.Conn.
type tcpConn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetNoDelay(bool) error
	SetLinger(int) error
	SetKeepAlive(bool) error
	SetKeepAlivePeriod(time.Duration) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
	MultipathTCP() (bool, error)
}

func tcp(c net.Conn) tcpConn { return c.(tcpConn) }

// deadliner is a listener with a deadline.
type deadliner interface {
	net.Listener
	SetDeadline(time.Time) error
}
