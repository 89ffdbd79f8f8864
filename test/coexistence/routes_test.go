package coexistence

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// A crossing is a host with two interfaces, each to a host of its own: left, whose
// side is accelerated, and right. Both have the same addresses far, behind them.
type crossing struct {
	*testing.T
	left, host, right *testnet.Host
	seen              chan peer
}

// A peer is what the other end of a dial sees.
type peer struct {
	at  string // left or right
	ip  netip.Addr
	mss int // the greatest payload that it was told to send
}

// sides are the addresses by IP version: the far ones behind both neighbours, the
// neighbours, the host's own on the accelerated interface, and a second one for it.
var sides = [2]map[string]string{
	{"FAR": "198.51.100.1", "LEFT": "10.99.1.2", "RIGHT": "10.99.2.2", "HOST": "10.99.1.1", "SECOND": "203.0.113.7"},
	{"FAR": "fd51::1", "LEFT": "fd99:1::2", "RIGHT": "fd99:2::2", "HOST": "fd99:1::1", "SECOND": "fd53::7"},
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	testnet.Need(t, testnet.Root, testnet.Tool("ip"))
	n := testnet.New(t)
	c := &crossing{T: t, left: n.Host("left"), host: n.Host("host"), right: n.Host("right"), seen: make(chan peer, 16)}
	n.Connect(c.host, c.left, testnet.Wire{})
	n.Connect(c.host, c.right, testnet.Wire{})
	for _, h := range []*testnet.Host{c.left, c.right} {
		c.ip(h, "addr add 198.51.100.1/32 dev lo")
		c.ip(h, "addr add fd51::1/128 dev lo nodad")
		c.ip(h, "-6 route add fd53::/64 via "+map[*testnet.Host]string{c.left: "fd99:1::1", c.right: "fd99:2::1"}[h])
		c.ip(h, "route add 203.0.113.0/24 via "+map[*testnet.Host]string{c.left: "10.99.1.1", c.right: "10.99.2.1"}[h])
		h.Do(func() {
			ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
			go c.accept(ln, h.Name)
		})
	}
	return c
}

func (c *crossing) accept(ln net.Listener, at string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		p := peer{at: at, ip: conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()}
		raw.Control(func(fd uintptr) {
			p.mss, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
		})
		c.seen <- p
		conn.Close()
	}
}

// start starts a runtime on the host, and returns its log, too.
func (c *crossing) start() (*accel.Runtime, *testnet.Output) {
	c.Helper()
	return c.startAt("eth0")
}

// startAt is start at a device.
func (c *crossing) startAt(device string) (*accel.Runtime, *testnet.Output) {
	c.Helper()
	log := new(testnet.Output)
	var rt *accel.Runtime
	c.host.Do(func() {
		var err error
		rt, err = accel.New(accel.Config{
			Device: device, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		if err != nil {
			c.Fatal(err)
		}
	})
	c.Cleanup(func() { rt.Close() })
	return rt, log
}

// set runs commands of ip on the host, with the addresses of an IP version.
func (c *crossing) set(version int, commands []string) {
	c.Helper()
	for _, command := range commands {
		for name, addr := range sides[version] {
			command = strings.ReplaceAll(command, name, addr)
		}
		if version == 1 {
			command = strings.Replace(command, "src 0/0", "src ::/0", 1)
			if strings.HasPrefix(command, "addr add") {
				command += " nodad"
			}
		}
		c.ip(c.host, []string{"-4 ", "-6 "}[version]+command)
	}
}

// ip runs a command of iproute2.
func (c *crossing) ip(h *testnet.Host, args string) {
	c.Helper()
	if out, err := h.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		c.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// undo takes back what set has added, the last first.
func (c *crossing) undo(version int, commands []string) {
	c.Helper()
	for _, command := range slices.Backward(commands) {
		command, _, _ = strings.Cut(strings.Replace(command, " add ", " del ", 1), " tmpl")
		c.set(version, []string{command})
	}
}

// outcome is what a dial comes to: the errno, or what the peer sees.
func (c *crossing) outcome(dial func(string, string) (net.Conn, error), to string) string {
	conn, err := dial("tcp", to)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case err != nil:
		return err.Error()
	}
	defer conn.Close()
	select {
	case p := <-c.seen:
		return fmt.Sprintf("%s sees %s, MSS %d", p.at, p.ip, p.mss)
	case <-time.After(5 * time.Second):
		return "nobody sees it"
	}
}

// TestDialRoutes: a dial goes where the kernel's routes lead, with the source address,
// MTU and MSS that they say, or fails as the kernel's does. Each row asks the kernel in
// the same run.
func TestDialRoutes(t *testing.T) {
	c := newCrossing(t)
	rt, _ := c.start()
	for _, tt := range []struct {
		name string
		set  []string  // commands of ip that add something
		to   [2]string // by IP version
		// local: from the address of the accelerated interface.
		local bool
		// accelerated: not through the kernel.
		accelerated bool
	}{
		{"on the link", nil, [2]string{"10.99.1.2", "fd99:1::2"}, false, true},
		{"on another link", nil, [2]string{"10.99.2.2", "fd99:2::2"}, false, false},
		{"by the gateway", []string{"route add FAR via LEFT"}, [2]string{}, false, true},
		{"by another gateway", []string{"route add FAR via RIGHT"}, [2]string{}, false, false},
		{"two defaults", []string{"route add default via LEFT metric 200", "route add default via RIGHT metric 100"}, [2]string{}, false, false},
		{"a rule for the source", []string{"route add default via RIGHT", "rule add from HOST lookup 100", "route add default via LEFT table 100"}, [2]string{}, true, true},
		{"a rule for the destination", []string{"route add default via LEFT", "rule add to FAR lookup 100", "route add default via RIGHT table 100"}, [2]string{}, false, false},
		{"blackhole", []string{"route add blackhole FAR"}, [2]string{}, false, false},
		{"unreachable", []string{"route add unreachable FAR"}, [2]string{}, false, false},
		{"prohibit", []string{"route add prohibit FAR"}, [2]string{}, false, false},
		{"no route", nil, [2]string{}, false, false},
		{"src of the interface", []string{"addr add SECOND dev eth0", "route add FAR via LEFT src SECOND"}, [2]string{}, false, true},
		{"src of another", []string{"addr add SECOND dev lo", "route add FAR via LEFT src SECOND"}, [2]string{}, false, false},
		{"mtu", []string{"route add FAR via LEFT mtu 1300"}, [2]string{}, false, true},
		{"advmss", []string{"route add FAR via LEFT advmss 900"}, [2]string{}, false, true},
		{"an address of the host", []string{"addr add FAR dev lo"}, [2]string{}, false, false},
		{"via inet6", []string{"route add FAR via inet6 fd99:1::2"}, [2]string{}, false, true},
		{"IPsec", []string{"xfrm policy add src 0/0 dst FAR dir out tmpl src HOST dst LEFT proto esp mode tunnel", "route add FAR via LEFT"}, [2]string{}, false, false},
	} {
		for version := range 2 {
			if tt.name == "via inet6" && version == 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s/IPv%d", tt.name, 4+2*version), func(t *testing.T) {
				c.T = t
				to := tt.to[version]
				if to == "" {
					to = sides[version]["FAR"]
				}
				to = net.JoinHostPort(to, fmt.Sprint(port))
				d, k := accel.Dialer{Runtime: rt, Timeout: 2 * time.Second}, net.Dialer{Timeout: 2 * time.Second}
				if tt.local {
					local := &net.TCPAddr{IP: net.ParseIP(sides[version]["HOST"])}
					d.LocalAddr, k.LocalAddr = local, local
				}
				// What is asked for has an answer already when it changes.
				c.host.Do(func() { c.outcome(d.Dial, to) })
				c.set(version, tt.set)
				defer c.undo(version, tt.set)
				(&site{T: t}).eventually("as the kernel", func() error {
					before := rt.Stats()
					var got, want string
					c.host.Do(func() { got, want = c.outcome(d.Dial, to), c.outcome(k.Dial, to) })
					accelerated := rt.Stats().Sharing.Routes.KernelDials == before.Sharing.Routes.KernelDials
					if got != want || accelerated != tt.accelerated {
						return fmt.Errorf("got %q (accelerated %v), the kernel %q, want accelerated %v", got, accelerated, want, tt.accelerated)
					}
					t.Log(got)
					return nil
				})
			})
		}
	}
}

// TestReplyRoutes: a peer that came by the accelerated interface is answered by the
// next hop that the kernel's routes name, and never where the kernel would encrypt.
func TestReplyRoutes(t *testing.T) {
	c := newCrossing(t)
	rt, log := c.start()
	for _, tt := range []struct {
		name   string
		set    []string
		served bool
		log    string
	}{
		{"by the gateway", []string{"route add FAR via LEFT"}, true, ""},
		{"a rule for the source", []string{"route add default via RIGHT", "rule add from HOST lookup 100", "route add default via LEFT table 100"}, true, ""},
		{"by another interface", []string{"route add default via LEFT metric 200", "route add default via RIGHT metric 100"}, true, "replies leave by the device although"},
		{"IPsec", []string{"route add FAR via LEFT", "xfrm policy add src 0/0 dst FAR dir out tmpl src HOST dst LEFT proto esp mode tunnel"}, false, "an IPsec policy covers"},
		{"unreachable", []string{"route add unreachable FAR"}, false, "peers get no reply"},
	} {
		for version := range 2 {
			t.Run(fmt.Sprintf("%s/IPv%d", tt.name, 4+2*version), func(t *testing.T) {
				c.T = t
				var ln net.Listener
				var err error
				c.host.Do(func() { ln, err = (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", ":0") })
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				go func() {
					for {
						conn, err := ln.Accept()
						if err != nil {
							return
						}
						conn.Close()
					}
				}()
				c.set(version, tt.set)
				defer c.undo(version, tt.set)
				to := net.JoinHostPort(sides[version]["HOST"], fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
				d := net.Dialer{Timeout: 400 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(sides[version]["FAR"])}}
				(&site{T: t}).eventually(fmt.Sprintf("served %v", tt.served), func() error {
					var conn net.Conn
					var err error
					c.left.Do(func() { conn, err = d.Dial("tcp", to) })
					if err == nil {
						conn.Close()
					}
					if (err == nil) != tt.served {
						return fmt.Errorf("got %v, want served %v", err, tt.served)
					}
					if tt.log != "" && !strings.Contains(log.String(), tt.log) {
						return fmt.Errorf("log %q, want %q", log.String(), tt.log)
					}
					return nil
				})
			})
		}
	}
}

// ignoreSeen takes what the listeners see, where nobody looks at it, until the test ends.
func (c *crossing) ignoreSeen() {
	for {
		select {
		case <-c.seen:
		case <-c.Context().Done():
			return
		}
	}
}

// TestMasquerade: a container's connections leave with this host's address and a port
// that the kernel's NAT chose. None meets the ports of connections that an accelerated
// program dials at the same time.
func TestMasquerade(t *testing.T) {
	testnet.Need(t, testnet.Tool("iptables"))
	c := newCrossing(t)
	go c.ignoreSeen()
	c.host.Sysctl("net/ipv4/ip_forward", "1")
	if out, err := c.host.Command("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE").CombinedOutput(); err != nil {
		t.Fatalf("iptables: %v: %s", err, out)
	}
	c.ip(c.right, "route add 10.99.1.0/24 via 10.99.2.1")
	rt, _ := c.start()
	to := fmt.Sprintf("10.99.1.2:%d", port)
	c.host.Do(func() {
		conn, err := (&accel.Dialer{Runtime: rt}).Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	failed := 0
	c.right.Do(func() {
		for range 3000 {
			conn, err := net.DialTimeout("tcp", to, 2*time.Second)
			if err != nil {
				failed++
				continue
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
	if failed > 0 {
		t.Errorf("%d of 3000 dials of the container failed", failed)
	}
}

// masqueraded is how many connections of a container TestMasqueradeFromListener makes
// for each IP version and way: TPA_TEST_MASQUERADED, or fewer.
func masqueraded(t *testing.T) int {
	return number(t, "TPA_TEST_MASQUERADED", 200)
}

// TestMasqueradeFromListener: a container behind NAT that has connections from the port
// that we listen at keeps them, is refused as by the kernel, and nobody who connects to
// us is in its way.
func TestMasqueradeFromListener(t *testing.T) {
	testnet.Need(t, testnet.Tool("iptables"), testnet.Tool("ip6tables"))
	for _, dev := range ways() {
		t.Run(strings.TrimSuffix(dev, ":"), func(t *testing.T) {
			c := newCrossing(t)
			go c.ignoreSeen()
			c.host.Sysctl("net/ipv4/ip_forward", "1")
			c.host.Sysctl("net/ipv6/conf/all/forwarding", "1")
			c.ip(c.right, "route add 10.99.1.0/24 via 10.99.2.1")
			c.ip(c.right, "-6 route add fd99:1::/64 via fd99:2::1")
			for _, tool := range []string{"iptables", "ip6tables"} {
				if out, err := c.host.Command(tool, "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE").CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", tool, err, out)
				}
			}
			echoServer(t, c.left, ":8000")
			rt, _ := c.startAt(dev + "eth0")
			c.host.Do(func() {
				ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", ":7000")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				go tellOrigin(ln)
			})
			for _, side := range sides {
				to, ours := net.JoinHostPort(side["LEFT"], "8000"), net.JoinHostPort(side["HOST"], "7000")
				failed, last := 0, error(nil)
				// from connects from our port, as the container sees it.
				from := func(to string) (conn net.Conn, err error) {
					d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{Port: 7000}}
					c.right.Do(func() { conn, err = d.Dial("tcp", to) })
					return conn, err
				}
				for range masqueraded(t) {
					conn, err := from(to)
					if err == nil {
						err = echo(conn)
						conn.(*net.TCPConn).SetLinger(0)
						conn.Close()
					}
					if err != nil {
						failed++
						last = err
					}
				}
				if failed > 0 {
					t.Errorf("%d of %d connections of the container to %s failed: %v", failed, masqueraded(t), to, last)
				}
				start := time.Now()
				if _, err := from(net.JoinHostPort(side["LEFT"], "9")); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a closed port of %s: %v after %v, want it refused", side["LEFT"], err, time.Since(start))
				}
				if got := origin(c.left, ours); got != "accelerated" {
					t.Errorf("%s: a client hears %q", ours, got)
				}
			}
		})
	}
}
