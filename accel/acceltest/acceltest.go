// Package acceltest gives tests two accelerated hosts joined by a cable in memory:
// no root, no network interface, no ports of the machine.
//
//	ln, d := acceltest.Pair(t)
//	go http.Serve(ln, handler)
//	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
//
// The server is 10.0.0.1, port 80: clients dial ln.Addr(), or any port that a
// further listener has. What runs over the cable is what runs over a network card:
// frames, TCP, deadlines, resets. New has options, such as a cable that loses
// frames.
//
// # In a bubble of testing/synctest
//
// A pair refuses to start there: the pollers and gVisor's locks do not wait in a
// way that a bubble notices, so that its clock would stand still for ever. Use real
// time, and short times in what is tested.
package acceltest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/memory"
)

// Addresses of the two hosts.
var (
	serverAddr = netip.MustParsePrefix("10.0.0.1/24")
	clientAddr = netip.MustParsePrefix("10.0.0.2/24")
)

// Port is where a pair's listener listens.
const Port = "80"

// Options of a pair. The zero value is a cable without faults.
type Options struct {
	// Faults of the cable, as seen by the client: Transmit is what happens to frames
	// on their way to the server, Receive to those that come back. Set Seed to see
	// the same frames lost again.
	Faults fault.Config
	// Server and Client configure the hosts, such as their Limits. Link, Addrs,
	// Device, Fallback and DebugSocket are the pair's own. Without a Logger nothing
	// is logged.
	Server, Client accel.Config
}

// A Network is two hosts and the cable between them.
type Network struct {
	// Listener is the server's, on 10.0.0.1, port 80.
	Listener net.Listener
	// Dialer dials from the client. Its DialContext fits http.Transport, gRPC and
	// database drivers.
	Dialer *accel.Dialer
	// Server and Client are the hosts, to look into or for more listeners.
	Server, Client *accel.Runtime
	// Cable has the faults, which SetReceive and SetTransmit change while it runs.
	Cable *fault.Device
}

// Pair returns a listener, and a dialer that reaches it. When the test ends, the
// listener is closed and the connections that are left are reset.
func Pair(tb testing.TB) (net.Listener, *accel.Dialer) {
	tb.Helper()
	n := New(tb, Options{})
	return n.Listener, n.Dialer
}

// New is Pair with options. The test fails at once if they are out of range.
func New(tb testing.TB, o Options) *Network {
	tb.Helper()
	if inBubble() {
		tb.Fatal("acceltest: a pair cannot run in a bubble of testing/synctest, whose clock would stand still: call it outside, and test in real time")
	}
	near, far, err := memory.Pair(memory.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	cable, err := fault.Wrap(far, o.Faults)
	if err != nil {
		near.Close()
		far.Close()
		tb.Fatal(err)
	}
	n := &Network{Cable: cable}
	n.Server = host(tb, o.Server, near, serverAddr)
	n.Client = host(tb, o.Client, cable, clientAddr)
	n.Dialer = &accel.Dialer{Runtime: n.Client}
	lc := accel.ListenConfig{Runtime: n.Server}
	if n.Listener, err = lc.Listen(context.Background(), "tcp", net.JoinHostPort(serverAddr.Addr().String(), Port)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { n.Listener.Close() })
	return n
}

// host starts a runtime that ends with the test.
func host(tb testing.TB, c accel.Config, dev link.Device, addr netip.Prefix) *accel.Runtime {
	tb.Helper()
	c.Link, c.Addrs, c.Device = dev, []netip.Prefix{addr}, ""
	c.Fallback, c.DebugSocket = accel.FallbackNever, "off"
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	rt, err := accel.New(c)
	if err != nil {
		dev.Close()
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := rt.Close(); err != nil {
			tb.Errorf("acceltest: closing %v: %v", addr.Addr(), err)
		}
	})
	return rt
}

// inBubble tells whether the caller is in a bubble of testing/synctest, where time
// begins with the year 2000. No machine that runs this program is so far back.
func inBubble() bool { return time.Now().Year() < 2020 }
