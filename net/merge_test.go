package tpanet_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

func kernelListener(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestMerge(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	remote, local := server.listen(t, "tcp", net.JoinHostPort(server.ip4, "0")), kernelListener(t)
	m := tpanet.Merge(remote, local)
	if a := m.Addrs(); len(a) != 2 || a[0] != remote.Addr() || a[1] != local.Addr() || m.Addr() != a[0] {
		t.Errorf("addresses %v", a)
	}
	const each = 20
	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return client.dial(t, remote.Addr().String()), nil },
		func() (net.Conn, error) { return net.Dial("tcp", local.Addr().String()) },
	} {
		go func() {
			for range each {
				c, err := dial()
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				io.WriteString(c, "x")
				c.Close()
			}
		}()
	}
	m.SetDeadline(time.Now().Add(testTimeout))
	origins := map[tpanet.Origin]int{}
	for range 2 * each {
		c, err := m.Accept()
		if err != nil {
			t.Fatal(err)
		}
		origins[tpanet.OriginOf(tls.Server(c, nil))]++
		if b, err := io.ReadAll(c); string(b) != "x" || err != nil {
			t.Errorf("%v: got %q, %v", tpanet.OriginOf(c), b, err)
		}
		c.Close()
	}
	if want := (map[tpanet.Origin]int{tpanet.Accelerated: each, tpanet.Kernel: each}); fmt.Sprint(origins) != fmt.Sprint(want) {
		t.Errorf("connections by origin: %v, want %v", origins, want)
	}

	m.SetDeadline(time.Unix(1, 0))
	if _, err := m.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accept after the deadline: %v", err)
	}
	m.SetDeadline(time.Time{})
	accepted := make(chan error, 1)
	go func() { _, err := m.Accept(); accepted <- err }()
	if err := m.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept while closing: %v", err)
	}
	if err := m.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if _, err := local.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept from a part: %v", err)
	}
}

// TestMergeOneEnds closes one listener; the other goes on.
func TestMergeOneEnds(t *testing.T) {
	a, b := kernelListener(t), kernelListener(t)
	m := tpanet.Merge(a, b)
	defer m.Close()
	a.Close()
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := m.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	b.Close()
	if _, err := m.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after all ended: %v", err)
	}
}

// TestMergeClosesUntaken closes while a connection waits to be taken.
func TestMergeClosesUntaken(t *testing.T) {
	ln := kernelListener(t)
	m := tpanet.Merge(ln)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(testTimeout))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the peer of a connection that nobody took: %v, want its end", err)
	}
}

// failing is a listener that fails once.
type failing struct {
	net.Listener
	err error
}

func (f *failing) Accept() (net.Conn, error) {
	if err := f.err; err != nil {
		f.err = nil
		return nil, err
	}
	return f.Listener.Accept()
}

func TestMergeReportsErrors(t *testing.T) {
	full := errors.New("too many open files")
	ln := kernelListener(t)
	m := tpanet.Merge(&failing{ln, full})
	defer m.Close()
	if _, err := m.Accept(); err != full {
		t.Errorf("got %v, want %v", err, full)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := m.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
}
