package acceltest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/acceltest"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/fault"
)

// greet answers every request.
var greet = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello, %s", r.RemoteAddr) })

func get(t *testing.T, ln net.Listener, d *accel.Dialer) string {
	t.Helper()
	transport := &http.Transport{DialContext: d.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestPair(t *testing.T) {
	leak.Check(t)
	ln, d := acceltest.Pair(t)
	srv := &http.Server{Handler: greet}
	defer srv.Close()
	go srv.Serve(ln)
	if got, want := get(t, ln, d), "hello, 10.0.0.2:"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q and a port", got, want)
	}
}

// TestPairs checks that tests in parallel have networks of their own, at the same
// addresses.
func TestPairs(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			ln, d := acceltest.Pair(t)
			srv := &http.Server{Handler: greet}
			defer srv.Close()
			go srv.Serve(ln)
			get(t, ln, d)
		})
	}
}

// TestFaults sends a stream over a cable that loses, doubles and reorders frames.
func TestFaults(t *testing.T) {
	bad := fault.Impairment{Drop: 0.02, Duplicate: 0.02, Reorder: 0.02}
	n := acceltest.New(t, acceltest.Options{Faults: fault.Config{Seed: 1, Receive: bad, Transmit: bad}})
	want := strings.Repeat("over a bad cable ", 20_000)
	go func() {
		c, err := n.Listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, want)
	}()
	c, err := n.Dialer.Dial("tcp", n.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != want {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, sent := n.Cable.Counters(); sent.Frames == 0 {
		t.Error("no frame met the faults")
	}
}

// TestCut cuts the cable of a running connection, and repairs it.
func TestCut(t *testing.T) {
	n := acceltest.New(t, acceltest.Options{})
	go func() {
		c, err := n.Listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	c, err := n.Dialer.Dial("tcp", n.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := n.Cable.SetTransmit(fault.Impairment{Drop: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "echo"); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	b := make([]byte, 4)
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("over a cut cable: %v, want a deadline", err)
	}
	if err := n.Cable.SetTransmit(fault.Impairment{}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Time{})
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "echo" {
		t.Errorf("got %q, %v, want what was sent", b, err)
	}
}

// TestOptions checks that the pair's own settings win, and that others are used.
func TestOptions(t *testing.T) {
	n := acceltest.New(t, acceltest.Options{
		Server: accel.Config{Device: "nowhere0", Fallback: accel.FallbackAuto, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
	})
	if ok, why := n.Server.Accelerated(); !ok {
		t.Errorf("the server is not accelerated: %v", why)
	}
	if got := n.Listener.Addr().String(); got != "10.0.0.1:80" {
		t.Errorf("the listener has %s, want 10.0.0.1:80", got)
	}
	lc := accel.ListenConfig{Runtime: n.Server}
	second, err := lc.Listen(context.Background(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

// refused takes what New says instead of failing the test.
type refused struct {
	testing.TB
	message string
}

func (r *refused) Helper() {}
func (r *refused) Fatal(args ...any) {
	r.message = fmt.Sprint(args...)
	panic(r)
}

func refusal(f func(testing.TB)) (message string) {
	r := &refused{}
	defer func() {
		if p := recover(); p != nil && p != any(r) {
			panic(p)
		}
		message = r.message
	}()
	f(r)
	return ""
}

func TestRefused(t *testing.T) {
	leak.Check(t)
	pair := func(tb testing.TB) { acceltest.Pair(tb) }
	synctest.Test(t, func(t *testing.T) {
		if got := refusal(pair); !strings.Contains(got, "testing/synctest") {
			t.Errorf("in a bubble: %q, want a refusal that names it", got)
		}
	})
	faulty := acceltest.Options{Faults: fault.Config{Receive: fault.Impairment{Drop: 2}}}
	if got := refusal(func(tb testing.TB) { acceltest.New(tb, faulty) }); !strings.Contains(got, "Receive") {
		t.Errorf("a wrong fault: %q, want a refusal that names it", got)
	}
}
