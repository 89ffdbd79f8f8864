package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a protocol on loopback until the test ends, and returns the
// address and a function that ends it and returns its error.
func start(t *testing.T, protocol string) (addr string, stop func() error) {
	t.Helper()
	serve, err := New(protocol, "goroutine")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, ln) }()
	stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(10 * time.Second):
			return errors.New("the server does not end")
		}
	}
	t.Cleanup(func() { stop() })
	return ln.Addr().String(), stop
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

// TestEcho sends more than all buffers hold, closes its half, and wants every
// byte back and then the end.
func TestEcho(t *testing.T) {
	addr, _ := start(t, "echo")
	c := dial(t, addr)
	want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<20)
	go func() {
		c.Write(want)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes and error %v came back, want all %d", len(got), err, len(want))
	}
}

func TestDiscard(t *testing.T) {
	addr, _ := start(t, "discard")
	c := dial(t, addr)
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%d bytes and error %v, want the end and nothing else", len(got), err)
	}
}

func TestDigest(t *testing.T) {
	addr, _ := start(t, "digest")
	c := dial(t, addr)
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	want := sha256.Sum256(sent)
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("%x and error %v, want %x", got, err, want)
	}
}

func TestRESP(t *testing.T) {
	addr, _ := start(t, "resp")
	c := dial(t, addr)
	io.WriteString(c, "PING\r\n")
	buf := make([]byte, 7)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "+PONG\r\n" {
		t.Errorf("got %q, %v", buf, err)
	}
}

func TestHTTP(t *testing.T) {
	addr, _ := start(t, "http")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/any")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || len(body) != 64 || !strings.HasPrefix(string(body), "tpa-bench\n") {
		t.Errorf("status %d, body %q, error %v", resp.StatusCode, body, err)
	}
}

// TestStop ends servers that have quiet connections.
func TestStop(t *testing.T) {
	for _, protocol := range Protocols {
		t.Run(protocol, func(t *testing.T) {
			addr, stop := start(t, protocol)
			c := dial(t, addr)
			if protocol == "echo" { // so that it has been accepted
				io.WriteString(c, "x")
				io.ReadFull(c, make([]byte, 1))
			}
			if err := stop(); err != nil {
				t.Errorf("serve: %v", err)
			}
			if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection did not end: %v", err)
			}
			if _, err := net.Dial("tcp", addr); err == nil {
				t.Error("the listener is still open")
			}
		})
	}
}

// flaky fails to accept some times, as a listener short of file descriptors.
type flaky struct {
	net.Listener
	failures int
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAcceptFailsForAWhile(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	serve, _ := New("echo", "goroutine")
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, &flaky{ln, 3}) }()
	c := dial(t, ln.Addr().String())
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("no echo: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}

	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := serve(context.Background(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve on a closed listener: %v, want net.ErrClosed", err)
	}
}

func TestUnknownProtocol(t *testing.T) {
	for _, tt := range []struct{ protocol, handler, want string }{
		{"gopher", "goroutine", "resp, echo, discard, digest, http"},
		{"echo", "thread", "goroutine, coroutine, callback"},
		{"digest", "callback", "resp or echo"},
		{"http", "coroutine", "goroutine"},
	} {
		if _, err := New(tt.protocol, tt.handler); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%q, %q): error %v does not say %q", tt.protocol, tt.handler, err, tt.want)
		}
	}
}
