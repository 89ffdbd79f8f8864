package conformance

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	reference := loopback()
	if testnet.Netns.Probe() == nil {
		reference = namespaces(t)
	}
	Compare(t, reference, inMemory(t), func(t testing.TB, why string) {
		t.Helper()
		testnet.Need(t, testnet.Netns)
		t.Fatal(why)
	})
}

// unrouted is an address that no route leads to.
const unrouted = "2001:db8::7"

// kernelListen and kernelDial are package net's.
func kernelListen(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
	return lc.Listen(ctx, network, address)
}

func kernelDial(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
	return d.DialContext(ctx, network, address)
}

// loopback is the kernel's TCP inside one host.
func loopback() Transport {
	return Transport{
		Name: "kernel", Listen: kernelListen, Dial: kernelDial,
		Server4: "127.0.0.1", Client4: "127.0.0.1",
		Server6: "::1", Client6: "::1",
	}
}

// namespaces is the kernel's TCP between two hosts.
func namespaces(t *testing.T) Transport {
	n := testnet.New(t)
	server, client := n.Host("server"), n.Host("client")
	si, ci := n.Connect(server, client, testnet.Wire{Offloads: true})
	// A host that has no address drops what it gets.
	hole := n.Host("hole")
	hi, hc := n.Connect(hole, client, testnet.Wire{})
	hi.Release()
	err := client.Netlink.NeighSet(&netlink.Neigh{
		LinkIndex: hc.Index, State: netlink.NUD_PERMANENT, IP: hi.IPv4.Addr().AsSlice(), HardwareAddr: hi.MAC,
	})
	if err != nil {
		t.Fatalf("add a neighbour: %v", err)
	}
	return Transport{
		Name: "kernel",
		Listen: func(ctx context.Context, lc net.ListenConfig, network, address string) (ln net.Listener, err error) {
			server.Do(func() { ln, err = kernelListen(ctx, lc, network, address) })
			return ln, err
		},
		Dial: func(ctx context.Context, d net.Dialer, network, address string) (c net.Conn, err error) {
			client.Do(func() { c, err = kernelDial(ctx, d, network, address) })
			return c, err
		},
		Server4: si.IPv4.Addr().String(), Client4: ci.IPv4.Addr().String(),
		Server6: si.IPv6.Addr().String(), Client6: ci.IPv6.Addr().String(),
		Blackhole: hi.IPv4.Addr().String(), Unrouted: unrouted, Silent: "10.99.1.99",
	}
}

// inMemory is accel between two devices in memory.
func inMemory(t *testing.T) Transport {
	sd, cd, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	runtime := func(d *memory.Device, gateways []netip.Addr, addrs ...string) *accel.Runtime {
		c := accel.Config{Link: d, Fallback: accel.Never, Logger: slog.New(slog.DiscardHandler), Gateways: gateways}
		for _, a := range addrs {
			c.Addrs = append(c.Addrs, netip.MustParsePrefix(a))
		}
		rt, err := accel.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	server := runtime(sd, nil, "10.0.0.1/24", "fd00::1/64")
	// The server takes what the client sends to its gateway, and drops it.
	client := runtime(cd, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, "10.0.0.2/24", "fd00::2/64")
	return Transport{
		Name: "accel",
		Listen: func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
			l := accel.ListenConfig{Runtime: server, KeepAlive: lc.KeepAlive, KeepAliveConfig: lc.KeepAliveConfig}
			return l.Listen(ctx, network, address)
		},
		Dial: func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
			a := accel.Dialer{
				Runtime: client, Timeout: d.Timeout, Deadline: d.Deadline, LocalAddr: d.LocalAddr,
				FallbackDelay: d.FallbackDelay, KeepAlive: d.KeepAlive, KeepAliveConfig: d.KeepAliveConfig,
			}
			return a.DialContext(ctx, network, address)
		},
		Server4: "10.0.0.1", Client4: "10.0.0.2",
		Server6: "fd00::1", Client6: "fd00::2",
		Blackhole: "198.51.100.2", Unrouted: unrouted, Silent: "10.0.0.99",
	}
}
