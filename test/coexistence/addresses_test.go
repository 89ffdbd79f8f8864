package coexistence

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	tpanet "github.com/gotpa/tpa/net"
)

// tellOrigin serves connections that end with how they came: "accelerated" or "kernel".
func tellOrigin(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, tpanet.OriginOf(c).String())
		c.Close()
	}
}

// origin connects and returns what tellOrigin says, or the error.
func origin(h *testnet.Host, addr string) (got string) {
	h.Do(func() {
		c, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
		if err != nil {
			got = err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		b, err := io.ReadAll(c)
		if got = string(b); err != nil {
			got = err.Error()
		}
	})
	return got
}

// TestAddresses: a listener serves at the addresses that the kernel would serve at, and
// each time the kernel's own listener is asked, too.
func TestAddresses(t *testing.T) {
	testnet.Need(t, testnet.Root, testnet.Tool("ip"))
	n := testnet.New(t)
	client, server := n.Host("client"), n.Host("server")
	_, s1 := n.Connect(client, server, testnet.Wire{})
	_, s2 := n.Connect(client, server, testnet.Wire{})
	c := &crossing{T: t}
	for _, command := range []string{
		"route add 203.0.113.0/24 via 10.99.1.2", "-6 route add fd53::/64 via fd99:1::2",
		"route add 198.51.100.0/24 via 10.99.1.2", // an interface's own address has no other way there
	} {
		c.ip(client, command)
	}
	var rts []*accel.Runtime
	for _, dev := range []string{"xdp:" + s1.Name, "packet:" + s2.Name} {
		server.Do(func() {
			rt, err := accel.New(accel.Config{Device: dev, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { rt.Close() })
			rts = append(rts, rt)
		})
	}
	listen := func(rt *accel.Runtime, addr string) (ln net.Listener) {
		t.Helper()
		server.Do(func() {
			var err error
			if rt == nil {
				ln, err = net.Listen("tcp", addr)
			} else {
				ln, err = (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", addr)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { ln.Close() })
		go tellOrigin(ln)
		return ln
	}
	// The same port on both interfaces, by a runtime each, and the kernel's beside it.
	listen(rts[0], ":7000")
	listen(rts[1], ":7000")
	listen(nil, ":7001")
	check := func(what, addr string, want string) {
		t.Helper()
		for port, want := range map[int]string{7000: want, 7001: "kernel"} {
			to := net.JoinHostPort(addr, fmt.Sprint(port))
			(&site{T: t}).eventually(what, func() error {
				if got := origin(client, to); got != want {
					return fmt.Errorf("%s says %q, want %q", to, got, want)
				}
				return nil
			})
		}
	}
	for _, i := range []*testnet.Interface{s1, s2} {
		check("own addresses", i.IPv4.Addr().String(), "accelerated")
		check("own addresses", i.IPv6.Addr().String(), "accelerated")
	}

	c.ip(server, "addr add 203.0.113.7/32 dev lo")
	c.ip(server, "-6 addr add fd53::7/128 dev lo nodad")
	check("an address of lo", "203.0.113.7", "accelerated")
	check("an address of lo", "fd53::7", "accelerated")
	c.ip(server, "link add other type bridge")
	c.ip(server, "link set other up")
	c.ip(server, "addr add 198.51.100.9/24 dev other")
	check("an address of another interface", "198.51.100.9", "accelerated")

	server.Sysctl("net/ipv4/ip_nonlocal_bind", "1")
	server.Sysctl("net/ipv6/ip_nonlocal_bind", "1")
	for _, addr := range []string{"203.0.113.8", "fd53::8"} {
		listen(rts[0], net.JoinHostPort(addr, "7002"))
		listen(nil, net.JoinHostPort(addr, "7003"))
		c.ip(server, map[bool]string{true: "-6 ", false: ""}[addr[0] == 'f']+"addr add "+addr+" dev lo")
		for port, want := range map[string]string{"7002": "accelerated", "7003": "kernel"} {
			to := net.JoinHostPort(addr, port)
			(&site{T: t}).eventually("an address that comes later", func() error {
				if got := origin(client, to); got != want {
					return fmt.Errorf("%s says %q, want %q", to, got, want)
				}
				return nil
			})
		}
	}

	// For an admin port.
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		if got := origin(server, listen(rts[0], addr).Addr().String()); got != "kernel" {
			t.Errorf("%s says %q", addr, got)
		}
	}

	for i := range 70 {
		c.ip(server, fmt.Sprintf("addr add 10.99.1.%d/24 dev %s", 100+i, s1.Name))
	}
	for _, i := range []int{0, 69} {
		check("70 addresses", fmt.Sprintf("10.99.1.%d", 100+i), "accelerated")
	}
}

// TestWrongSettings: what cannot work is an error at the start.
func TestWrongSettings(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	for _, tt := range []struct{ env, want string }{
		{"TPA_ADDR=10.99.1.77/24", "no interface of this host has"},
		{"TPA_ADDR=10.99.1.0/24", "the address of a network"},
		{"TPA_ADDR=fd99:1::/64", "the address of a network"},
		{"TPA_GATEWAY=10.98.1.1", "no prefix"},
		{"TPA_CPUS=0,1", "2 CPUs for 1 queues"},
	} {
		p := s.launch(port, tt.env)
		if line := p.line(); !strings.HasPrefix(line, "error:") || !strings.Contains(line, tt.want) {
			t.Errorf("with %s the server says %q, want an error with %q", tt.env, line, tt.want)
			p.Process.Kill()
		}
		p.Wait()
	}
}
