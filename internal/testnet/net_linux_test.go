package testnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

// listen opens a listener inside a host that ends with the test.
func listen(t *testing.T, h *testnet.Host, addr netip.Addr) net.Listener {
	t.Helper()
	var ln net.Listener
	var err error
	h.Do(func() { ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(h *testnet.Host, addr net.Addr) (net.Conn, error) {
	var c net.Conn
	var err error
	h.Do(func() { c, err = net.DialTimeout("tcp", addr.String(), 5*time.Second) })
	return c, err
}

// echo carries some bytes from one host to another and back.
func echo(t *testing.T, client *testnet.Host, ln net.Listener) {
	t.Helper()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	c, err := dial(client, ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	want := []byte("across the wire")
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func TestTCPBetweenHosts(t *testing.T) {
	tests := []struct {
		name string
		wire testnet.Wire
	}{
		{"default", testnet.Wire{}},
		{"large frames", testnet.Wire{MTU: 9000}},
		{"four queues", testnet.Wire{Queues: 4}},
		{"offloads", testnet.Wire{Offloads: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := testnet.New(t)
			client, server := n.Host("client"), n.Host("server")
			_, si := n.Connect(client, server, tt.wire)
			for _, p := range []netip.Prefix{si.IPv4, si.IPv6} {
				echo(t, client, listen(t, server, p.Addr()))
			}
		})
	}
}

func TestThreeHosts(t *testing.T) {
	n := testnet.New(t)
	a, b, c := n.Host("a"), n.Host("b"), n.Host("c")
	_, ba := n.Connect(a, b, testnet.Wire{})
	bc, cb := n.Connect(b, c, testnet.Wire{})
	if ba.Name == bc.Name || ba.IPv4.Masked() == bc.IPv4.Masked() {
		t.Fatalf("both wires of one host have interface %s, network %v", ba.Name, ba.IPv4.Masked())
	}
	echo(t, a, listen(t, b, ba.IPv4.Addr()))
	echo(t, b, listen(t, c, cb.IPv6.Addr()))
	if conn, err := dial(a, &net.TCPAddr{IP: cb.IPv4.Addr().AsSlice(), Port: 1}); !errors.Is(err, syscall.ENETUNREACH) {
		t.Fatalf("dial to a network without a route: %v, %v; want ENETUNREACH", conn, err)
	}
}

func TestInterface(t *testing.T) {
	n := testnet.New(t)
	a, b := n.Host("a"), n.Host("b")
	ai, _ := n.Connect(a, b, testnet.Wire{MTU: 3000, Queues: 3})
	link, err := a.Netlink.LinkByName(ai.Name)
	if err != nil {
		t.Fatal(err)
	}
	attrs := link.Attrs()
	got := fmt.Sprint(attrs.Index, attrs.HardwareAddr, attrs.MTU, attrs.NumRxQueues, attrs.NumTxQueues)
	want := fmt.Sprint(ai.Index, ai.MAC, 3000, 3, 3)
	if got != want {
		t.Errorf("index, MAC, MTU, receive queues, transmit queues: got %s, want %s", got, want)
	}
}

// TestChecksumsOnTheWire reads frames as a stack of our own would.
func TestChecksumsOnTheWire(t *testing.T) {
	for _, offloads := range []bool{false, true} {
		t.Run(fmt.Sprintf("offloads=%t", offloads), func(t *testing.T) {
			n := testnet.New(t)
			client, server := n.Host("client"), n.Host("server")
			_, si := n.Connect(client, server, testnet.Wire{Offloads: offloads})
			var fd int
			var err error
			server.Do(func() {
				fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
				if err == nil {
					err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: si.Index})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})

			if c, err := dial(client, &net.TCPAddr{IP: si.IPv4.Addr().AsSlice(), Port: 9}); err == nil {
				c.Close()
				t.Fatal("port 9 answers")
			}
			frame := make([]byte, 2048)
			nr, _, err := unix.Recvfrom(fd, frame, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := testframe.ParseUnchecked(frame[:nr]); err != nil {
				t.Fatal(err)
			}
			if _, err := testframe.Parse(frame[:nr]); (err != nil) != offloads {
				t.Errorf("the TCP checksum of the SYN with offloads %t: %v", offloads, err)
			}
		})
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func TestRelease(t *testing.T) {
	n := testnet.New(t)
	client, server := n.Host("client"), n.Host("server")
	_, si := n.Connect(client, server, testnet.Wire{})
	echo(t, client, listen(t, server, si.IPv4.Addr()))
	si.Release()
	server.Do(func() {
		ifi, err := net.InterfaceByName(si.Name)
		if err != nil {
			t.Fatal(err)
		}
		if addrs, err := ifi.Addrs(); err != nil || len(addrs) != 0 {
			t.Errorf("addresses after Release: %v, %v; want none", addrs, err)
		}
	})
}

func TestCommand(t *testing.T) {
	n := testnet.New(t)
	h := n.Host("h")
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	h.Do(func() { inside, err = os.Readlink("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.Command("readlink", "/proc/self/ns/net").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != inside || got == own {
		t.Errorf("command ran in %q, %v; want %q, not %q", got, err, inside, own)
	}
	if got, _ := os.Readlink("/proc/thread-self/ns/net"); got != own {
		t.Errorf("after Do the thread is in %s, want %s", got, own)
	}
}

func TestCommandEndsWithTheTest(t *testing.T) {
	var cmd *exec.Cmd
	t.Run("inner", func(t *testing.T) {
		cmd = testnet.New(t).Host("h").Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	if cmd == nil || cmd.Process == nil {
		t.Skip("the inner test did not run")
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("sleep ended by itself")
		}
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		t.Error("the command outlived its test by 10 s")
	}
}

// TestNothingIsLeft opens and closes networks and looks for what stays behind in
// this process: descriptors hold namespaces.
func TestNothingIsLeft(t *testing.T) {
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, fd := range fds {
			if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(target, "net:") {
				n++
			}
		}
		return n
	}
	before := count()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			n := testnet.New(t)
			n.Connect(n.Host("a"), n.Host("b"), testnet.Wire{})
		})
	}
	if after := count(); after != before {
		t.Errorf("%d namespaces are open, %d before", after, before)
	}
}
