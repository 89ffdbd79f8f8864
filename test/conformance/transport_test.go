package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/memory"
)

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
		Name: "kernel", Listen: kernelListen, Dial: kernelDial, DialSelf: kernelDial, ListenKernel: kernelListen,
		Server4: "127.0.0.1", Client4: "127.0.0.1",
		Server6: "::1", Client6: "::1",
	}
}

// A wire joins two hosts.
type wire struct {
	t              *testing.T
	server, client *testnet.Host
	si, ci         *testnet.Interface
	hole           string
}

// newWire makes two hosts, of which the client knows a neighbour that swallows
// everything.
func newWire(t *testing.T) *wire {
	n := testnet.New(t)
	w := &wire{t: t, server: n.Host("server"), client: n.Host("client"), hole: "10.99.1.77"}
	w.si, w.ci = n.Connect(w.server, w.client, testnet.Wire{})
	err := w.client.Netlink.NeighSet(&netlink.Neigh{
		LinkIndex: w.ci.Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(w.hole), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 77},
	})
	if err != nil {
		t.Fatalf("add a neighbour: %v", err)
	}
	return w
}

// transport completes tr, whose functions are called inside the hosts.
func (w *wire) transport(tr Transport) Transport {
	listen, dial, self := tr.Listen, tr.Dial, tr.DialSelf
	tr.Listen = func(ctx context.Context, lc net.ListenConfig, network, address string) (ln net.Listener, err error) {
		w.server.Do(func() { ln, err = listen(ctx, lc, network, address) })
		return ln, err
	}
	tr.Dial = func(ctx context.Context, d net.Dialer, network, address string) (c net.Conn, err error) {
		w.client.Do(func() { c, err = dial(ctx, d, network, address) })
		return c, err
	}
	tr.DialSelf = func(ctx context.Context, d net.Dialer, network, address string) (c net.Conn, err error) {
		w.server.Do(func() { c, err = self(ctx, d, network, address) })
		return c, err
	}
	tr.ListenKernel = func(ctx context.Context, lc net.ListenConfig, network, address string) (ln net.Listener, err error) {
		w.server.Do(func() { ln, err = kernelListen(ctx, lc, network, address) })
		return ln, err
	}
	tr.Server4, tr.Client4 = w.si.IPv4.Addr().String(), w.ci.IPv4.Addr().String()
	tr.Server6, tr.Client6 = w.si.IPv6.Addr().String(), w.ci.IPv6.Addr().String()
	tr.Blackhole, tr.Unrouted, tr.Silent = w.hole, unrouted, "10.99.1.99"
	return tr
}

// kernel is the kernel's TCP over the wire.
func (w *wire) kernel() Transport {
	return w.transport(Transport{Name: "kernel", Listen: kernelListen, Dial: kernelDial, DialSelf: kernelDial})
}

// xdp is accel over the wire, whose ends it shares with the kernel.
func (w *wire) xdp() Transport {
	start := func(h *testnet.Host, i *testnet.Interface) (rt *accel.Runtime) {
		h.Do(func() { rt = start(w.t, accel.Config{Device: "xdp:" + i.Name}) })
		return rt
	}
	return w.transport(between("xdp", start(w.server, w.si), start(w.client, w.ci)))
}

// between is accel from one runtime to another.
func between(name string, server, client *accel.Runtime) Transport {
	dial := func(rt *accel.Runtime) func(context.Context, net.Dialer, string, string) (net.Conn, error) {
		return func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
			a := accel.Dialer{
				Runtime: rt, Timeout: d.Timeout, Deadline: d.Deadline, LocalAddr: d.LocalAddr,
				FallbackDelay: d.FallbackDelay, KeepAlive: d.KeepAlive, KeepAliveConfig: d.KeepAliveConfig,
			}
			return a.DialContext(ctx, network, address)
		}
	}
	return Transport{
		Name: name,
		Listen: func(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
			l := accel.ListenConfig{Runtime: server, KeepAlive: lc.KeepAlive, KeepAliveConfig: lc.KeepAliveConfig}
			return l.Listen(ctx, network, address)
		},
		Dial: dial(client), DialSelf: dial(server),
	}
}

// start starts a runtime that ends with the test.
func start(t *testing.T, c accel.Config) *accel.Runtime {
	t.Helper()
	c.Fallback, c.Logger, c.DebugSocket = accel.Never, slog.New(slog.DiscardHandler), "off"
	leak.Check(t)
	rt, err := accel.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A DPDK device tells here when an mbuf did not come back.
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

func serverConfig(c accel.Config) accel.Config {
	c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}
	return c
}

func clientConfig(c accel.Config) accel.Config {
	c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")}
	c.Gateways = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	return c
}

// ofOurOwn is accel between two devices that nobody else has. The client's
// gateway is the server, which drops what it is to pass on.
func ofOurOwn(t *testing.T, name string, server, client accel.Config) Transport {
	tr := between(name, start(t, serverConfig(server)), start(t, clientConfig(client)))
	tr.DialSelf = nil
	tr.Server4, tr.Server6 = "10.0.0.1", "fd00::1"
	tr.Client4, tr.Client6 = "10.0.0.2", "fd00::2"
	tr.Blackhole, tr.Unrouted, tr.Silent = "198.51.100.2", unrouted, "10.0.0.99"
	return tr
}

// overMemory is accel between two devices in memory.
func overMemory(t *testing.T) Transport { return overMemoryBy(t, "memory", accel.TCP{}) }

// overMemoryGVisor is the same on gVisor's TCP.
func overMemoryGVisor(t *testing.T) Transport {
	return overMemoryBy(t, "gvisor", accel.TCP{Engine: "gvisor"})
}

func overMemoryBy(t *testing.T, name string, tcp accel.TCP) Transport {
	server, client, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ofOurOwn(t, name, accel.Config{Link: server, TCP: tcp}, accel.Config{Link: client, TCP: tcp})
}

// builtWithDPDK is a build with the tag.
var builtWithDPDK = testnet.Requirement{
	Name: "a build with DPDK",
	Probe: func() error {
		if dpdk.Version() == "" {
			return errors.New("this one is without")
		}
		return nil
	},
	Mend: "go test -tags dpdk (make deps installs DPDK)",
}

// memifs counts, because the names of devices are those of the process.
var memifs int

// overMemif is accel between the two ends of a memif: DPDK, with both in this
// process.
func overMemif(t *testing.T) Transport {
	server, client := memif(t)
	return ofOurOwn(t, "memif", server, client)
}

// memif are the two ends of a memif.
func memif(t *testing.T) (server, client accel.Config) {
	testnet.Need(t, builtWithDPDK)
	socket := filepath.Join(t.TempDir(), "m.sock")
	device := func(role string) accel.Config {
		memifs++
		return accel.Config{
			Device: fmt.Sprintf("net_memif%d,role=%s,socket=%s,socket-abstract=no", memifs, role, socket),
			DPDK:   accel.DPDK{HugePages: dpdk.Never, MemoryMB: 256},
		}
	}
	return device("server"), device("client")
}
