package coexistence

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/tidwall/redcon"

	"github.com/gotpa/tpa/internal/testnet"
)

// TestForwarding: while an accelerated program serves and dials, the kernel of its host
// forwards to and for containers: routed, masqueraded, and to a published port. None of
// TPA_TEST_FORWARDED requests by these ways fails, IPv4 and IPv6.
func TestForwarding(t *testing.T) {
	testnet.Need(t, testnet.Root, testnet.Tool("ip"), testnet.Tool("iptables"), testnet.Tool("ip6tables"))
	requests := int64(number(t, "TPA_TEST_FORWARDED", 6000))
	for _, dev := range ways() {
		t.Run(strings.TrimSuffix(dev, ":"), func(t *testing.T) {
			n := testnet.New(t)
			client, server := n.Host("client"), n.Host("server")
			routed, natted := n.Host("routed"), n.Host("natted")
			ci, si := n.Connect(client, server, testnet.Wire{})
			_, ri := n.Connect(server, routed, testnet.Wire{})
			n.Connect(server, natted, testnet.Wire{})
			s := &site{T: t, client: client, server: server, ci: ci, si: si}
			server.Sysctl("net/ipv4/ip_forward", "1")
			server.Sysctl("net/ipv6/conf/all/forwarding", "1")
			c := &crossing{T: t}
			for host, last := range map[*testnet.Host]string{routed: "2", natted: "3"} {
				c.ip(host, "route add 10.99.1.0/24 via 10.99."+last+".1")
				c.ip(host, "-6 route add fd99:1::/64 via fd99:"+last+"::1")
			}
			c.ip(client, "route add 10.99.2.0/24 via 10.99.1.2")
			c.ip(client, "-6 route add fd99:2::/64 via fd99:1::2")
			for tool, addrs := range map[string][2]string{"iptables": {"10.99.3.0/24", "10.99.3.2:8000"}, "ip6tables": {"fd99:3::/64", "[fd99:3::2]:8000"}} {
				for _, rule := range []string{
					"-A POSTROUTING -o eth0 -s " + addrs[0] + " -j MASQUERADE",
					"-A PREROUTING -i eth0 -p tcp --dport 8080 -j DNAT --to-destination " + addrs[1],
				} {
					if out, err := server.Command(tool, append([]string{"-t", "nat"}, strings.Fields(rule)...)...).CombinedOutput(); err != nil {
						t.Fatalf("%s %s: %v: %s", tool, rule, err, out)
					}
				}
			}
			for _, h := range []*testnet.Host{client, routed, natted} {
				echoServer(t, h, ":8000")
			}

			// The program dials for each request of its clients.
			upstream, _ := at(ci, 8001)
			var ln net.Listener
			var err error
			client.Do(func() { ln, err = net.Listen("tcp", upstream) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
			go redcon.Serve(ln, func(c redcon.Conn, _ redcon.Command) { c.WriteString("PONG") }, nil, nil)

			client4, client6 := at(ci, 8000)
			p := s.start(port, "TPA_DEV="+dev+si.Name, "COEXISTENCE_DIAL="+upstream)
			ours4, ours6 := at(si, port)
			ours := []*load{s.load(client, 2, ours4, ping), s.load(client, 2, ours6, ping)}
			routed4, routed6 := at(ri, 8000)
			published4, published6 := at(si, 8080)
			kernel := make(map[string]*load)
			for _, way := range []struct {
				name   string
				from   *testnet.Host
				v4, v6 string
			}{
				{"routed to a container", client, routed4, routed6},
				{"routed from a container", routed, client4, client6},
				{"masqueraded", natted, client4, client6},
				{"to a published port", client, published4, published6},
			} {
				for _, to := range []string{way.v4, way.v6} {
					kernel[way.name+", "+to] = s.ask(func() error {
						conn, err := dial(way.from, to)
						if err != nil {
							return err
						}
						defer conn.Close()
						for range 10 {
							if err := echo(conn); err != nil {
								return err
							}
						}
						return nil
					})
				}
			}
			total := func() (n int64) {
				for _, l := range kernel {
					n += 10 * l.requests.Load() // each has ten
				}
				return n
			}
			for last := int64(-1); total() < requests && !t.Failed(); {
				s.eventually("requests", func() error {
					if now := total(); now < min(last+1000, requests) {
						return fmt.Errorf("%d", now)
					}
					return nil
				})
				last = total()
				for name, l := range kernel {
					l.ok(t, name)
				}
			}
			for name, l := range kernel {
				l.stop()
				l.ok(t, name)
				if l.requests.Load() == 0 {
					t.Errorf("%s: no requests", name)
				}
			}
			for _, l := range ours {
				l.stop()
				l.ok(t, "accelerated")
				if l.requests.Load() == 0 {
					t.Error("accelerated: no requests")
				}
			}
			t.Logf("%d requests by the kernel, %d accelerated", total(), ours[0].requests.Load()+ours[1].requests.Load())
			p.kill()
		})
	}
}
