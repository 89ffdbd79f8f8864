package coexistence

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestFirewall: rules of the host's firewall that concern a port are named at Listen.
// With FirewallRespect the kernel keeps such a port, and the rules hold there.
func TestFirewall(t *testing.T) {
	testnet.Need(t, testnet.Tool("iptables"), testnet.Tool("ip6tables"))
	s := newSite(t, testnet.Wire{})
	for _, tool := range []string{"iptables", "ip6tables"} {
		if out, err := s.server.Command(tool, strings.Fields("-A INPUT -p tcp --dport 7000 -j REJECT --reject-with tcp-reset")...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", tool, err, out)
		}
	}
	for _, tt := range []struct {
		name     string
		firewall accel.Firewall
		fallback accel.Fallback
		want     string // at port 7000; at 7001, of which no rule knows: "accelerated"
		log      string
	}{
		{"ignore", accel.FirewallIgnore, accel.FallbackNever, "accelerated", "filter INPUT handle"},
		{"respect", accel.FirewallRespect, accel.FallbackAuto, "connection refused", "serving a port through the kernel"},
		{"respect, or fail", accel.FirewallRespect, accel.FallbackNever, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(testnet.Output)
			s.server.Do(func() {
				rt, err := accel.New(accel.Config{
					Device: s.si.Name, Fallback: tt.fallback, Firewall: tt.firewall, DebugSocket: "off", Logger: slog.New(slog.NewTextHandler(log, nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { rt.Close() })
				for _, addr := range []string{":7000", ":7001"} {
					ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(context.Background(), "tcp", addr)
					if addr == ":7000" && tt.want == "" {
						if err == nil || !strings.Contains(err.Error(), "filter INPUT handle") {
							t.Errorf("Listen: %v, want an error that names the rule", err)
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { ln.Close() })
					go tellOrigin(ln)
				}
			})
			for _, ip := range []netip.Addr{s.si.IPv4.Addr(), s.si.IPv6.Addr()} {
				if got := origin(s.client, netip.AddrPortFrom(ip, 7001).String()); got != "accelerated" {
					t.Errorf("%v: a port without rules says %q", ip, got)
				}
				if got := origin(s.client, netip.AddrPortFrom(ip, 7000).String()); tt.want != "" && !strings.Contains(got, tt.want) {
					t.Errorf("%v: a port with rules says %q, want %q", ip, got, tt.want)
				}
			}
			if !strings.Contains(log.String(), tt.log) || !strings.Contains(log.String(), "ss and tcpdump do not see") {
				t.Errorf("log %s\nwant %q", log, tt.log)
			}
		})
	}
}

// TestAllowFrom: who is not among Config.AllowFrom gets no answer from a listener, and
// the kernel's port beside it is as ever. Dials are not concerned.
func TestAllowFrom(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	c := &crossing{T: t}
	outsiders := []string{"10.99.1.66", "fd99:1::66"}
	c.ip(s.client, "addr add "+outsiders[0]+"/24 dev "+s.ci.Name)
	c.ip(s.client, "-6 addr add "+outsiders[1]+"/64 nodad preferred_lft 0 dev "+s.ci.Name) // not a source by itself
	echoServer(t, s.server, ":8000")
	echoServer(t, s.client, ":8000")
	for _, dev := range []string{"xdp:", "packet:"} {
		t.Run(strings.TrimSuffix(dev, ":"), func(t *testing.T) {
			var rt *accel.Runtime
			s.server.Do(func() {
				var err error
				rt, err = accel.New(accel.Config{
					Device: dev + s.si.Name, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
					AllowFrom: []netip.Prefix{netip.PrefixFrom(s.ci.IPv4.Addr(), 32), netip.PrefixFrom(s.ci.IPv6.Addr(), 128), netip.MustParsePrefix("192.0.2.0/24")},
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { rt.Close() })
				ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(context.Background(), "tcp", ":7000")
				if err != nil {
					t.Fatal(err)
				}
				go tellOrigin(ln)
			})
			before := s.resets()
			for i, ip := range []netip.Addr{s.si.IPv4.Addr(), s.si.IPv6.Addr()} {
				to := netip.AddrPortFrom(ip, 7000).String()
				if got := origin(s.client, to); got != "accelerated" {
					t.Errorf("%s: who is allowed hears %q", to, got)
				}
				outsider := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(outsiders[i])}}
				s.client.Do(func() {
					var timeout interface{ Timeout() bool }
					if _, err := outsider.Dial("tcp", to); !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s: a outsider: %v, want a timeout", to, err)
					}
					outsider.Timeout = 0
					if err := exchange(outsider.Dial, netip.AddrPortFrom(ip, 8000).String(), 10); err != nil {
						t.Errorf("a outsider at the kernel's port: %v", err)
					}
				})
				s.server.Do(func() {
					d := accel.Dialer{Runtime: rt, Timeout: 3 * time.Second}
					if err := exchange(d.Dial, net.JoinHostPort(outsiders[i], "8000"), 10); err != nil {
						t.Errorf("a dial to a outsider: %v", err)
					}
				})
			}
			if n := s.resets() - before; n != 0 {
				t.Errorf("the kernel sent %d resets", n)
			}
			dropped := uint64(0)
			for _, f := range rt.Stats().Sharing.Steering.Frames {
				if f.Name == "source not allowed" {
					dropped = f.Frames
				}
			}
			if dropped == 0 {
				t.Error("no frame is counted as not allowed")
			}
			// And now only outsiders may connect.
			if _, err := rt.Change("allow_from", outsiders[0]+"/32,"+outsiders[1]+"/128"); err != nil {
				t.Fatal(err)
			}
			for i, ip := range []netip.Addr{s.si.IPv4.Addr(), s.si.IPv6.Addr()} {
				to := netip.AddrPortFrom(ip, 7000).String()
				s.client.Do(func() {
					d := net.Dialer{Timeout: 300 * time.Millisecond}
					var timeout interface{ Timeout() bool }
					if _, err := d.Dial("tcp", to); !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%s: who was allowed before: %v, want a timeout", to, err)
					}
					outsider := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(outsiders[i])}}
					c, err := outsider.Dial("tcp", to)
					if err != nil {
						t.Errorf("%s: who is allowed now: %v", to, err)
						return
					}
					c.Close()
				})
			}
			audited := false
			for _, e := range rt.Status().Events {
				audited = audited || e.Message == "setting changed" && slices.ContainsFunc(e.Attrs, func(a accel.EventAttr) bool { return a.Value == "allow_from" })
			}
			if !audited {
				t.Error("the event log does not have the change")
			}
		})
	}
}
