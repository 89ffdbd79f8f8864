package tpanet_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testTimeout is how long a test waits for what must come.
const testTimeout = 30 * time.Second

// A host is one side of a wire.
type host struct {
	*accel.Runtime
	ip4, ip6 string
}

func (h host) listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := (&accel.ListenConfig{Runtime: h.Runtime}).Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func (h host) dial(t testing.TB, address string) *tpanet.Conn {
	t.Helper()
	c, err := (&accel.Dialer{Runtime: h.Runtime}).Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*tpanet.Conn)
}

// newHosts joins a server and a client by a wire in memory.
func newHosts(t testing.TB, o memory.Options) (server, client host) {
	t.Helper()
	return newHostsOn(t, o, accel.TCP{})
}

// newHostsOn is newHosts with settings of TCP.
func newHostsOn(t testing.TB, o memory.Options, tcp accel.TCP) (server, client host) {
	t.Helper()
	return newHostsWith(t, o, accel.Config{TCP: tcp})
}

// newHostsWith is newHosts with settings.
func newHostsWith(t testing.TB, o memory.Options, config accel.Config) (server, client host) {
	t.Helper()
	s, c := newDevices(t, o)
	return newHost(t, s, "10.0.0.1", "fd00::1", config), newHost(t, c, "10.0.0.2", "fd00::2", config)
}

func newDevices(t testing.TB, o memory.Options) (server, client link.Device) {
	t.Helper()
	s, c, err := memory.Pair(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func newHost(t testing.TB, d link.Device, ip4, ip6 string, config accel.Config) host {
	t.Helper()
	leak.Check(t, d)
	config.Link, config.Fallback = d, accel.FallbackNever
	config.Addrs = []netip.Prefix{netip.MustParsePrefix(ip4 + "/24"), netip.MustParsePrefix(ip6 + "/64")}
	config.TCP.TimeWait = 200 * time.Millisecond
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	rt, err := accel.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return host{rt, ip4, ip6}
}

// pair returns the two ends of a new connection.
func pair(t testing.TB, server, client host) (accepted, dialled *tpanet.Conn) {
	t.Helper()
	ln := server.listen(t, "tcp", net.JoinHostPort(server.ip4, "0"))
	defer ln.Close()
	return pairTo(t, ln, client)
}

func pairTo(t testing.TB, ln net.Listener, client host) (accepted, dialled *tpanet.Conn) {
	t.Helper()
	dialled = client.dial(t, ln.Addr().String())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(errors.Join(err, dialled.Close()))
	}
	accepted = c.(*tpanet.Conn)
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return accepted, dialled
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s", testTimeout, what)
		}
	}
}
