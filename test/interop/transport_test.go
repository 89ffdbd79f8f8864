package interop

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

// A transport carries the connections of a program under test.
type transport struct {
	name string
	// listen opens a listener that ends with the test.
	listen func(testing.TB) net.Listener
	// dial is what clients use in the place of net.Dialer.DialContext.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// overTransports runs a test over each transport.
func overTransports(t *testing.T, f func(*testing.T, transport)) {
	for _, open := range []func(testing.TB) transport{kernel, accelerated} {
		tr := open(t)
		t.Run(tr.name, func(t *testing.T) { f(t, tr) })
	}
}

// kernel is TCP over the loopback interface.
func kernel(testing.TB) transport {
	return transport{
		name: "kernel",
		listen: func(tb testing.TB) net.Listener {
			return closeAtEnd(tb)(net.Listen("tcp", "127.0.0.1:0"))
		},
		dial: new(net.Dialer).DialContext,
	}
}

// accelerated is our TCP at both ends, over queues in memory: two of them, so
// that connections meet in one listener.
func accelerated(tb testing.TB) transport {
	tb.Helper()
	clientDev, serverDev, err := memory.Pair(memory.Options{Queues: 2})
	if err != nil {
		tb.Fatal(err)
	}
	leak.Check(tb, clientDev, serverDev)
	start := func(d *memory.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)},
			Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { rt.Close() })
		return rt
	}
	client, server := start(clientDev, "10.0.0.1/24"), start(serverDev, "10.0.0.2/24")
	return transport{
		name: "accel",
		listen: func(tb testing.TB) net.Listener {
			lc := accel.ListenConfig{Runtime: server}
			return closeAtEnd(tb)(lc.Listen(context.Background(), "tcp", "10.0.0.2:0"))
		},
		dial: (&accel.Dialer{Runtime: client}).DialContext,
	}
}

func closeAtEnd(tb testing.TB) func(net.Listener, error) net.Listener {
	return func(ln net.Listener, err error) net.Listener {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { ln.Close() })
		return ln
	}
}

// testTimeout is how long a test waits for what must happen. Nothing waits for it
// when all is well.
const testTimeout = 30 * time.Second

// within returns a context for one test.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// dialTCP opens a bare connection with a deadline.
func dialTCP(t *testing.T, tr transport, addr net.Addr) net.Conn {
	t.Helper()
	c, err := tr.dial(within(t), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testTimeout))
	return c
}

// receive returns what a channel delivers in time.
func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(testTimeout):
		t.Fatalf("no %s within %v", what, testTimeout)
		panic("not reached")
	}
}

// pattern fills n bytes so that any shift, loss or repetition shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
