package conformance

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	tpanet "github.com/gotpa/tpa/net"
)

// overHandlers is accel over memory, on which each call of a connection's method
// runs as a coroutine in the poller of its shard.
func overHandlers(t *testing.T, name string, tcp accel.TCP) Transport {
	tr := overMemoryBy(t, name, tcp)
	listen, backlog, dial := tr.Listen, tr.ListenBacklog, tr.Dial
	tr.Listen = func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
		return polledListener(listen(ctx, lc, network, address))
	}
	tr.ListenBacklog = func(ctx context.Context, n int, network, address string) (net.Listener, error) {
		return polledListener(backlog(ctx, n, network, address))
	}
	tr.Dial = func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
		c, err := dial(ctx, d, network, address)
		if err != nil {
			return nil, err
		}
		return polled{c.(*tpanet.Conn)}, nil
	}
	return tr
}

// A pollingListener accepts connections whose methods run in pollers.
type pollingListener struct{ deadliner }

func polledListener(ln net.Listener, err error) (net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return pollingListener{ln.(deadliner)}, nil
}

func (l pollingListener) Accept() (net.Conn, error) {
	c, err := l.deadliner.Accept()
	if err != nil {
		return nil, err
	}
	return polled{c.(*tpanet.Conn)}, nil
}

// A polled connection does everything in the poller.
type polled struct{ *tpanet.Conn }

func (p polled) run(f func()) {
	done := make(chan struct{})
	p.Go(func(net.Conn) {
		defer close(done)
		f()
	})
	<-done
}

func (p polled) Read(b []byte) (n int, err error) {
	p.run(func() { n, err = p.Conn.Read(b) })
	return n, err
}

func (p polled) Write(b []byte) (n int, err error) {
	p.run(func() { n, err = p.Conn.Write(b) })
	return n, err
}

func (p polled) ReadFrom(r io.Reader) (n int64, err error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if c, ok := l.R.(polled); ok {
			l.R = c.Conn
			defer func() { l.R = c }()
		}
	}
	switch c := r.(type) {
	case polled:
		r = c.Conn
	case *io.PipeReader: // waits for more than the connection
		r = detachedReader{c}
	}
	p.run(func() { n, err = p.Conn.ReadFrom(r) })
	return n, err
}

// A detachedReader reads outside of the poller.
type detachedReader struct{ io.Reader }

func (r detachedReader) Read(b []byte) (n int, err error) {
	accel.Detach(func() { n, err = r.Reader.Read(b) })
	return n, err
}

func (p polled) WriteTo(w io.Writer) (n int64, err error) {
	if c, ok := w.(polled); ok {
		w = c.Conn
	}
	p.run(func() { n, err = p.Conn.WriteTo(w) })
	return n, err
}

func (p polled) WriteBuffers(b *net.Buffers) (n int64, err error) {
	p.run(func() { n, err = p.Conn.WriteBuffers(b) })
	return n, err
}

func (p polled) call(f func() error) (err error) {
	p.run(func() { err = f() })
	return err
}

func (p polled) Close() error      { return p.call(p.Conn.Close) }
func (p polled) CloseRead() error  { return p.call(p.Conn.CloseRead) }
func (p polled) CloseWrite() error { return p.call(p.Conn.CloseWrite) }

func (p polled) SetDeadline(t time.Time) error {
	return p.call(func() error { return p.Conn.SetDeadline(t) })
}

func (p polled) SetReadDeadline(t time.Time) error {
	return p.call(func() error { return p.Conn.SetReadDeadline(t) })
}

func (p polled) SetWriteDeadline(t time.Time) error {
	return p.call(func() error { return p.Conn.SetWriteDeadline(t) })
}

var _ tcpConn = polled{}
