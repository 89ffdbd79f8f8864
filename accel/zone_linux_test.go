package accel_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/memory"
)

// talkLocal accepts a connection that dial makes and checks both ends' addresses,
// without ports.
func talkLocal(t *testing.T, ln net.Listener, dial func() (net.Conn, error), wantServer, wantClient string) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	client, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := <-accepted
	if server == nil {
		t.Fatal("nothing was accepted")
	}
	defer server.Close()
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(testTimeout))
	}
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	ends := func(local, remote net.Addr) string {
		a, b := local.(*net.TCPAddr).AddrPort().Addr(), remote.(*net.TCPAddr).AddrPort().Addr()
		return fmt.Sprint(a, " ", b)
	}
	if got := ends(server.LocalAddr(), server.RemoteAddr()); wantServer != "" && got != wantServer {
		t.Errorf("the server is %s, want %s", got, wantServer)
	}
	if got := ends(client.LocalAddr(), client.RemoteAddr()); wantClient != "" && got != wantClient {
		t.Errorf("the client is %s, want %s", got, wantClient)
	}
}

// TestZone connects by link-local addresses on devices of our own, one named in
// the configuration, one made from the MAC address.
func TestZone(t *testing.T) {
	for _, engine := range []accel.Engine{accel.EngineTPA, accel.EngineGVisor} {
		for _, queues := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d queues", engine, queues), func(t *testing.T) { zone(t, engine, queues) })
		}
	}
}

// startWith starts a runtime with addresses.
func startWith(t *testing.T, c accel.Config, addrs ...string) *accel.Runtime {
	t.Helper()
	for _, a := range addrs {
		c.Addrs = append(c.Addrs, netip.MustParsePrefix(a))
	}
	c.Fallback, c.Logger = accel.FallbackNever, slog.New(slog.DiscardHandler)
	rt, err := accel.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

func zone(t *testing.T, engine accel.Engine, queues int) {
	da, db, err := memory.Pair(memory.Options{Queues: queues})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, da, db)
	tcp := accel.TCP{Engine: engine}
	client := startWith(t, accel.Config{Link: da, TCP: tcp, Zone: "tpa0"}, "fe80::/64", "fd00::1/64")
	server := startWith(t, accel.Config{Link: db, TCP: tcp}, "fd00::2/64", "fe80::2/64")
	const clientLocal = "fe80::ff:fe00:1" // of 02:00:00:00:00:01
	if addrs := client.Status().Addrs; !slices.Contains(addrs, netip.MustParsePrefix(clientLocal+"/64")) {
		t.Errorf("the addresses are %v, want %s among them", addrs, clientLocal)
	}
	for _, address := range []string{":80", "[fe80::2%" + db.Info().Name + "]:80"} {
		ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		for range queues {
			talkLocal(t, ln, func() (net.Conn, error) {
				return (&accel.Dialer{Runtime: client, Timeout: testTimeout}).Dial("tcp", "[fe80::2%tpa0]:80")
			}, "fe80::2%memory1 "+clientLocal+"%memory1", clientLocal+"%tpa0 fe80::2%tpa0")
		}
		ln.Close()
	}
	// A connection to itself does not leave the stack.
	ln, err := (&accel.ListenConfig{Runtime: client}).Listen(t.Context(), "tcp", ":81")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	own := clientLocal + "%tpa0 " + clientLocal + "%tpa0"
	talkLocal(t, ln, func() (net.Conn, error) {
		return (&accel.Dialer{Runtime: client, Timeout: testTimeout}).Dial("tcp", "["+clientLocal+"%tpa0]:81")
	}, own, own)
}

// TestLinkLocalGateway goes by way of a gateway that is known by its link-local
// address, as those of clouds are. The client needs none of its own.
func TestLinkLocalGateway(t *testing.T) {
	da, db, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, da, db)
	gateways, err := accel.ParseGateways("fe80::1")
	if err != nil {
		t.Fatal(err)
	}
	client := startWith(t, accel.Config{Link: da, Gateways: gateways}, "fd00::1/64")
	server := startWith(t, accel.Config{Link: db}, "fe80::1/64", "fd00::2/64", "2001:db8::1/128")
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", "[2001:db8::1]:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	talkLocal(t, ln, func() (net.Conn, error) {
		return (&accel.Dialer{Runtime: client, Timeout: testTimeout}).Dial("tcp", ln.Addr().String())
	}, "2001:db8::1 fd00::1", "fd00::1 2001:db8::1")
}

func TestZoneConfig(t *testing.T) {
	for _, zone := range []string{"a%b", "[a", "a]"} {
		_, err := accel.New(accel.Config{Zone: zone, Fallback: accel.FallbackNever})
		if err == nil || !strings.Contains(err.Error(), "Config.Zone") {
			t.Errorf("zone %q: %v, want an error about it", zone, err)
		}
	}
}

// TestZoneShared connects a shared interface and a kernel by link-local addresses,
// both ways. Package net remembers zones for the whole process, in which both
// hosts have an eth0: for the kernel's side they are numbers here.
func TestZoneShared(t *testing.T) {
	n := testnet.New(t)
	a, b := n.Host("server"), n.Host("peer")
	ai, bi := n.Connect(a, b, testnet.Wire{})
	ours, peer := ai.LinkLocal().String(), bi.LinkLocal().String()
	leak.Check(t)
	var rt *accel.Runtime
	var err error
	a.Do(func() {
		_, err = accel.New(accel.Config{Device: ai.Name, Zone: "tpa0", Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), "Config.Zone") {
			t.Errorf("a zone for a shared device: %v, want an error about it", err)
		}
		rt, err = accel.New(accel.Config{Device: ai.Name, Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler)})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	at := func(ip, zone string, ln net.Listener) string {
		return net.JoinHostPort(ip+"%"+zone, strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	}
	fromKernel := func(ln net.Listener) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			return inside(b)(t.Context(), "tcp", at(ours, strconv.Itoa(bi.Index), ln))
		}
	}

	ln := listenIn(t, a, accel.ListenConfig{Runtime: rt}, ":0")
	talkLocal(t, ln, fromKernel(ln), ours+"%eth0 "+peer+"%eth0", "")
	for _, zone := range []string{"eth0", strconv.Itoa(ai.Index)} {
		ln = listenIn(t, a, accel.ListenConfig{Runtime: rt}, "["+ours+"%"+zone+"]:0")
		if got := ln.Addr().(*net.TCPAddr).AddrPort().Addr().String(); got != ours+"%eth0" {
			t.Errorf("listening at %s, want %s%%eth0", got, ours)
		}
		talkLocal(t, ln, fromKernel(ln), ours+"%eth0 "+peer+"%eth0", "")
	}

	// What the kernel serves beside it: its own clients come in by loopback.
	both := listenIn(t, a, accel.ListenConfig{Runtime: rt, Kernel: true}, "["+ours+"%eth0]:0")
	serveOrigin(t, both)
	port := strconv.Itoa(both.Addr().(*net.TCPAddr).Port)
	if got := ask(t, inside(a), net.JoinHostPort(ours+"%"+strconv.Itoa(ai.Index), port)); got != "kernel" {
		t.Errorf("a client on the same host reached %q, want the kernel", got)
	}
	if got := ask(t, inside(b), net.JoinHostPort(ours+"%"+strconv.Itoa(bi.Index), port)); got != "accelerated" {
		t.Errorf("a client on the link reached %q, want the accelerated side", got)
	}

	dialFrom := func(zone string, ln net.Listener) func() (net.Conn, error) {
		return func() (c net.Conn, err error) {
			a.Do(func() {
				c, err = (&accel.Dialer{Runtime: rt, Timeout: testTimeout}).Dial("tcp", at(peer, zone, ln))
			})
			return c, err
		}
	}
	var kernel net.Listener
	b.Do(func() { kernel, err = net.Listen("tcp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	for _, zone := range []string{"eth0", strconv.Itoa(ai.Index)} {
		talkLocal(t, kernel, dialFrom(zone, kernel), "", ours+"%eth0 "+peer+"%eth0")
	}

	// The zone follows the interface's name.
	link, err := a.Netlink.LinkByIndex(ai.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink.LinkSetName(link, "wan0"); err != nil {
		t.Logf("this kernel does not rename an interface in use: %v", err)
		return
	}
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(time.Millisecond) {
		c, err := dialFrom("wan0", kernel)()
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := kernel.Accept()
		if err != nil {
			t.Fatal(err)
		}
		zone := c.LocalAddr().(*net.TCPAddr).Zone
		c.Close()
		accepted.Close()
		if zone == "wan0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the zone is %q, want that of the new name", zone)
		}
	}
	talkLocal(t, kernel, dialFrom("wan0", kernel), "", ours+"%wan0 "+peer+"%wan0")
}
