package ports_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/internal/ports"
	"github.com/gotpa/tpa/internal/testnet"
)

// host is a host of its own, so that the ports of this machine play no part.
func host(t *testing.T) *testnet.Host {
	t.Helper()
	return testnet.New(t).Host("host")
}

// TestConflicts: a port is taken, by a reservation or by package net, and then
// wanted, by the other. What the kernel says to two sockets of package net is
// the reference.
func TestConflicts(t *testing.T) {
	type claim struct{ network, addr string }
	var claims []claim
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		for _, addr := range []string{"0.0.0.0", "127.0.0.1", "::", "::1"} {
			if ip := netip.MustParseAddr(addr); network == "tcp4" && ip.Is6() || network == "tcp6" && ip.Is4() {
				continue
			}
			claims = append(claims, claim{network, addr})
		}
	}
	h := host(t)
	addrPort := func(c claim) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(c.addr), 7000)
	}
	listen := func(c claim) (close func() error, err error) {
		l, err := net.Listen(c.network, addrPort(c).String())
		if err != nil {
			return nil, err
		}
		return l.Close, nil
	}
	reserve := func(c claim) (close func() error, err error) {
		r, err := ports.Reserve(c.network, addrPort(c))
		if err != nil {
			return nil, err
		}
		return r.Close, nil
	}
	conflict := func(first, second func(claim) (func() error, error), a, b claim) bool {
		t.Helper()
		close1, err := first(a)
		if err != nil {
			t.Fatalf("take %v: %v", a, err)
		}
		defer close1()
		close2, err := second(b)
		if err == nil {
			close2()
			return false
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("take %v, then %v: %v, want EADDRINUSE", a, b, err)
		}
		return true
	}
	h.Do(func() {
		for _, a := range claims {
			for _, b := range claims {
				want := conflict(listen, listen, a, b)
				if got := conflict(reserve, listen, a, b); got != want {
					t.Errorf("reserved %v, listen %v: in use is %v, want %v", a, b, got, want)
				}
				if got := conflict(listen, reserve, a, b); got != want {
					t.Errorf("listen %v, reserve %v: in use is %v, want %v", a, b, got, want)
				}
				if got := conflict(reserve, reserve, a, b); got != want {
					t.Errorf("reserved %v, reserve %v: in use is %v, want %v", a, b, got, want)
				}
			}
		}
	})
}

// A port can be reserved although connections of a former server are left, and
// nobody can listen there then.
func TestReserveAfterServer(t *testing.T) {
	host(t).Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:7000")
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", "127.0.0.1:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		established, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()

		for _, state := range []string{"established", "closing", "time wait"} {
			switch state {
			case "closing":
				established.Close()
			case "time wait":
				client.Close()
			}
			r, err := ports.Reserve("tcp", netip.MustParseAddrPort("[::]:7000"))
			if err != nil {
				t.Fatalf("a connection is %s: %v", state, err)
			}
			if l, err := net.Listen("tcp", ":7000"); !errors.Is(err, syscall.EADDRINUSE) {
				if err == nil {
					l.Close()
				}
				t.Errorf("a connection is %s, the port reserved: listen: %v, want EADDRINUSE", state, err)
			}
			r.Close()
		}
	})
}

// Connections finds what the kernel has at a port: both ends of a connection to
// itself.
func TestConnections(t *testing.T) {
	h := host(t)
	h.Do(func() {
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			l, err := net.Listen(network, ":7000")
			if err != nil {
				t.Fatal(err)
			}
			target := "127.0.0.1:7000"
			if network == "tcp6" {
				target = "[::1]:7000"
			}
			client, err := net.Dial("tcp", target)
			if err != nil {
				t.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			local, remote := netip.MustParseAddrPort(target), client.LocalAddr().(*net.TCPAddr).AddrPort()
			want := map[uint16][]ports.Connection{
				7000:          {{Local: local, Remote: remote}},
				remote.Port(): {{Local: remote, Remote: local}},
				7001:          nil,
			}
			for port, want := range want {
				got, err := ports.Connections(port)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, port %d: %v, want %v", network, port, got, want)
				}
			}
			l.Close()
			server.Close() // first, and so waits
			client.Close()
			for _, port := range []uint16{7000, remote.Port()} {
				if got, err := ports.Connections(port); err != nil || len(got) != 0 {
					t.Errorf("%s, closed, port %d: %v, %v, want none", network, port, got, err)
				}
			}
		}
	})
}

// The kernel resets what reaches a reserved port.
func TestReset(t *testing.T) {
	host(t).Do(func() {
		r, err := ports.Reserve("tcp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if r.First() == 0 || r.Count() != 1 {
			t.Fatalf("%d ports from %d, want one that the kernel chose", r.Count(), r.First())
		}
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.First()).String())
		if !errors.Is(err, syscall.ECONNREFUSED) {
			if err == nil {
				c.Close()
			}
			t.Errorf("dial: %v, want ECONNREFUSED", err)
		}
	})
}

func TestBlock(t *testing.T) {
	h := host(t)
	h.Sysctl("net/ipv4/ip_local_port_range", "20000 20200")
	h.Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		before := descriptors(t)
		r, err := ports.ReserveBlock(128)
		if err != nil {
			t.Fatal(err)
		}
		if n := descriptors(t) - before; n != 1 {
			t.Errorf("a block costs %d descriptors, want 1", n)
		}
		first := r.First()
		if first%128 != 0 || first < 16384 || r.Count() != 128 {
			t.Errorf("%d ports from %d, want 128 from a multiple of that", r.Count(), first)
		}
		if first+127 >= 20000 && first <= 20200 {
			t.Errorf("ports from %d are those that the kernel picks from", first)
		}
		for _, port := range []uint16{first, first + 127} {
			d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}}
			if c, err := d.Dial("tcp", l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
				if err == nil {
					c.Close()
				}
				t.Errorf("dial from port %d: %v, want EADDRINUSE", port, err)
			}
		}
		r.Close()
		again, err := net.Listen("tcp", fmt.Sprintf(":%d", first))
		if err != nil {
			t.Fatalf("the block was given back: %v", err)
		}
		again.Close()
		if r, err = ports.ReserveBlock(1); err != nil {
			t.Fatal(err)
		}
		r.Close()
		for _, n := range []int{0, 3, 32768} {
			if _, err := ports.ReserveBlock(n); err == nil {
				t.Errorf("reserved a block of %d", n)
			}
		}
	})
}

// TestMoreBlocks: further blocks are never where others take ports from.
func TestMoreBlocks(t *testing.T) {
	h := host(t)
	h.Sysctl("net/ipv4/ip_local_reserved_ports", "16384-29000,61000-65535")
	h.Do(func() {
		r, err := ports.ReserveMore(512)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if first := r.First(); first < 29184 || first > 29488 {
			t.Errorf("the block begins at %d, want it between 29001 and 29999", first)
		}
		if _, err := ports.ReserveMore(512); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v with nothing left outside, want EADDRINUSE", err)
		}
	})
}

// descriptors is the number of descriptors that the process has.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestBlockElsewhere: blocks stay out of ranges that others take ports from, as far as
// there is room, and never are where the administrator or Kubernetes has them.
func TestBlockElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name, ephemeral, reserved string
		first, last               int // where the block must be
	}{
		{"free", "32768 60999", "", 16384, 65535},
		{"below", "32768 60999", "61000-65535", 16384, 29999},
		{"above", "32768 60999", "16384-29000,29500-29999", 61000, 65535},
		{"a port in each block", "16384 60999", "61500,62000,62500,63000,63500,64000,64500,65000,65500", 16384, 61439},
		{"only inside", "1024 65535", "16384-29999,61000-65535", 32768, 60999},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := host(t)
			h.Sysctl("net/ipv4/ip_local_port_range", tt.ephemeral)
			if tt.reserved != "" {
				h.Sysctl("net/ipv4/ip_local_reserved_ports", tt.reserved)
			}
			h.Do(func() {
				for range 20 {
					r, err := ports.ReserveBlock(512)
					if err != nil {
						t.Fatal(err)
					}
					r.Close()
					first, last := int(r.First()), int(r.First())+511
					if first < tt.first || last > tt.last || first <= 32767 && last >= 30000 {
						t.Errorf("ports %d to %d, want some of %d to %d that are no node ports", first, last, tt.first, tt.last)
					}
				}
			})
		})
	}
}

// With a port of each block taken, there is no block.
func TestNoBlock(t *testing.T) {
	host(t).Do(func() {
		var taken []*ports.Reservation
		for first := 16384; first < 65536; first += 8192 {
			r, err := ports.Reserve("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(first+77)))
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, r)
		}
		if _, err := ports.ReserveBlock(8192); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v, want EADDRINUSE", err)
		}
		for _, r := range taken {
			r.Close()
		}
	})
}

func TestAddressErrors(t *testing.T) {
	h := host(t)
	h.Do(func() {
		if _, err := ports.Reserve("tcp", netip.MustParseAddrPort("192.0.2.1:7000")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("foreign address: %v, want EADDRNOTAVAIL", err)
		}
		if _, err := ports.Reserve("tcp6", netip.MustParseAddrPort("[fe80::1%nowhere]:7000")); err == nil {
			t.Error("unknown zone: no error")
		}
	})
	h.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	h.Do(func() {
		r, err := ports.Reserve("tcp", netip.MustParseAddrPort("[::]:7000"))
		if err != nil {
			t.Fatalf("host without IPv6: %v", err)
		}
		r.Close()
	})
}

// TestListen serves at a reserved port, gives it back, and does so again while
// connections of the first time wait for old duplicates.
func TestListen(t *testing.T) {
	host(t).Do(func() {
		for range 2 {
			r, err := ports.Reserve("tcp", netip.MustParseAddrPort("[::]:7000"))
			if err != nil {
				t.Fatal(err)
			}
			if c, err := net.Dial("tcp", "127.0.0.1:7000"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("before Listen: %v, %v", c, err)
			}
			l, err := r.Listen(16)
			if err != nil {
				t.Fatal(err)
			}
			for _, addr := range []string{"127.0.0.1:7000", "[::1]:7000"} {
				client, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				accepted, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				accepted.Close() // first: it waits for old duplicates then
				client.Close()
			}
			if _, err := net.Listen("tcp", ":7000"); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("another listener: %v, want %v", err, syscall.EADDRINUSE)
			}
			waiting, err := net.Dial("tcp", "127.0.0.1:7000")
			if err != nil {
				t.Fatal(err)
			}
			defer waiting.Close()
			l.Close()
			if err := r.Unlisten(); err != nil {
				t.Fatal(err)
			}
			if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a client that nobody accepted: %v, want %v", err, syscall.ECONNRESET)
			}
			if _, err := net.Dial("tcp", "127.0.0.1:7000"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dial after Unlisten: %v, want %v", err, syscall.ECONNREFUSED)
			}
			if _, err := net.Listen("tcp", ":7000"); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a listener after Unlisten: %v, want %v", err, syscall.EADDRINUSE)
			}
			r.Close()
		}
		l, err := net.Listen("tcp", ":7000")
		if err != nil {
			t.Fatalf("after Close: %v", err)
		}
		l.Close()
	})
}
