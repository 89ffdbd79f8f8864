package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/fault"
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
	mortals        atomic.Int32 // addresses that vanished, or will
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
	listen, dial, self, backlog := tr.Listen, tr.Dial, tr.DialSelf, tr.ListenBacklog
	tr.Listen = func(ctx context.Context, lc net.ListenConfig, network, address string) (ln net.Listener, err error) {
		w.server.Do(func() { ln, err = listen(ctx, lc, network, address) })
		return ln, err
	}
	tr.ListenBacklog = func(ctx context.Context, n int, network, address string) (ln net.Listener, err error) {
		w.server.Do(func() { ln, err = backlog(ctx, n, network, address) })
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
	tr.ServerLocal, tr.ClientLocal = w.si.LinkLocal().String(), w.ci.LinkLocal().String()
	tr.Blackhole, tr.Unrouted, tr.Silent, tr.Silent6 = w.hole, unrouted, "10.99.1.99", "fd99:1::99"
	return tr
}

// kernel is the kernel's TCP over the wire. Package net remembers the names of
// zones for the whole process, in which two hosts have an eth0: numbers are safe.
func (w *wire) kernel() Transport {
	return w.transport(Transport{
		Name: "kernel", Listen: kernelListen, Dial: kernelDial, DialSelf: kernelDial,
		Serial:        true,
		ListenBacklog: w.kernelBacklog,
		Mortal: func() (address string, vanish, reborn func()) {
			return w.mortal(func(netip.Addr, bool) {}) // the kernel's addresses change at once
		},
		ServerZone: strconv.Itoa(w.si.Index), ClientZone: strconv.Itoa(w.ci.Index),
	})
}

// kernelBacklog is Listen with the backlog, which package net takes from a limit
// that each host has.
func (w *wire) kernelBacklog(ctx context.Context, n int, network, address string) (net.Listener, error) {
	// The limit counts those that wait beyond the first one.
	w.server.Sysctl("net/core/somaxconn", strconv.Itoa(n-1))
	defer w.server.Sysctl("net/core/somaxconn", "4096")
	return kernelListen(ctx, net.ListenConfig{}, network, address)
}

// mortal gives the server host one more address, until it vanishes. follow waits
// until it is known, or known to be gone.
func (w *wire) mortal(follow func(ip netip.Addr, here bool)) (address string, vanish, reborn func()) {
	ip := netip.AddrFrom4([4]byte{10, 99, 1, byte(200 + w.mortals.Add(1))})
	end := func(i *testnet.Interface) netlink.Link {
		l, err := i.Host.Netlink.LinkByName(i.Name)
		if err != nil {
			w.t.Errorf("find %s: %v", i.Name, err)
		}
		return l
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	// The neighbour stays known: else its silence would be told by ARP, not by TCP.
	neighbour := &netlink.Neigh{LinkIndex: w.ci.Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: w.si.MAC}
	if err := errors.Join(w.server.Netlink.AddrAdd(end(w.si), addr), w.client.Netlink.NeighSet(neighbour)); err != nil {
		w.t.Errorf("add address %v: %v", ip, err)
	}
	follow(ip, true)
	vanish = sync.OnceFunc(func() {
		if err := w.server.Netlink.AddrDel(end(w.si), addr); err != nil {
			w.t.Errorf("delete address %v: %v", ip, err)
		}
		follow(ip, false)
	})
	return ip.String(), vanish, func() {
		vanish()
		if err := w.client.Netlink.NeighDel(neighbour); err != nil {
			w.t.Errorf("delete neighbour %v: %v", ip, err)
		}
	}
}

// xdp is accel over the wire, whose ends it shares with the kernel.
func (w *wire) xdp() Transport {
	start := func(h *testnet.Host, i *testnet.Interface) (rt *accel.Runtime) {
		h.Do(func() { rt = start(w.t, accel.Config{Device: "xdp:" + i.Name}) })
		return rt
	}
	server, client := start(w.server, w.si), start(w.client, w.ci)
	tr := between("xdp", server, client)
	tr.Mortal = func() (address string, vanish, reborn func()) {
		return w.mortal(func(ip netip.Addr, here bool) {
			has := func(p netip.Prefix) bool { return p.Addr() == ip }
			for deadline := time.Now().Add(testTimeout); slices.ContainsFunc(server.Status().Addrs, has) != here; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					w.t.Errorf("nobody noticed a change of address %v", ip)
					return
				}
			}
		})
	}
	tr.ServerZone, tr.ClientZone = w.si.Name, w.ci.Name
	return w.transport(tr)
}

// between is accel from one runtime to another.
func between(name string, server, client *accel.Runtime) Transport {
	dial := func(rt *accel.Runtime) func(context.Context, net.Dialer, string, string) (net.Conn, error) {
		return func(ctx context.Context, d net.Dialer, network, address string) (net.Conn, error) {
			a := accel.Dialer{
				Runtime: rt, Timeout: d.Timeout, Deadline: d.Deadline, LocalAddr: d.LocalAddr,
				Resolver: d.Resolver, FallbackDelay: d.FallbackDelay, KeepAlive: d.KeepAlive, KeepAliveConfig: d.KeepAliveConfig,
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
		ListenBacklog: func(ctx context.Context, n int, network, address string) (net.Listener, error) {
			l := accel.ListenConfig{Runtime: server, Backlog: n}
			return l.Listen(ctx, network, address)
		},
		Dial: dial(client), DialSelf: dial(server),
	}
}

// start starts a runtime that ends with the test.
func start(t *testing.T, c accel.Config) *accel.Runtime {
	t.Helper()
	c.Fallback, c.Logger, c.DebugSocket = accel.FallbackNever, slog.New(slog.DiscardHandler), "off"
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
	c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("fe80::1/64")}
	c.Zone = "server"
	return c
}

func clientConfig(c accel.Config) accel.Config {
	c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64"), netip.MustParsePrefix("fe80::2/64")}
	c.Zone = "client"
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
	tr.ServerLocal, tr.ServerZone = "fe80::1", "server"
	tr.ClientLocal, tr.ClientZone = "fe80::2", "client"
	tr.Blackhole, tr.Unrouted, tr.Silent, tr.Silent6 = "198.51.100.2", unrouted, "10.0.0.99", "fd00::99"
	return tr
}

// overMemory is accel between two devices in memory.
func overMemory(t *testing.T) Transport { return overMemoryBy(t, "memory", accel.TCP{}) }

// overMemoryGVisor is the same on gVisor's TCP.
func overMemoryGVisor(t *testing.T) Transport {
	return overMemoryBy(t, "gvisor", accel.TCP{Engine: accel.EngineGVisor})
}

func overMemoryBy(t *testing.T, name string, tcp accel.TCP) Transport {
	server, client, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wire, err := fault.Wrap(server, fault.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tr := ofOurOwn(t, name, accel.Config{Link: wire, TCP: tcp}, accel.Config{Link: client, TCP: tcp})
	tr.Mortal = func() (address string, vanish, reborn func()) {
		lose := func(share float64) {
			if err := errors.Join(wire.SetReceive(fault.Impairment{Drop: share}), wire.SetTransmit(fault.Impairment{Drop: share})); err != nil {
				t.Error(err)
			}
		}
		return tr.Server4, func() { lose(1) }, func() { lose(0) }
	}
	return tr
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
	Fix: "go test -tags dpdk (make deps installs DPDK)",
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
			DPDK:   accel.DPDK{HugePages: dpdk.HugePagesNever, MemoryMB: 256},
		}
	}
	return device("server"), device("client")
}
