package coexistence

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testnet"
)

// TestChanges: the network around a loaded server changes, and connections go on.
func TestChanges(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	p := s.start(port)
	addr4, addr6 := at(s.si, port)
	loads := []*load{s.load(s.client, 4, addr4, ping), s.load(s.client, 4, addr6, ping)}
	nl := s.server.Netlink
	serverLink := func() netlink.Link {
		l, err := nl.LinkByName(s.si.Name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// goesOn waits for more requests of all loads.
	goesOn := func(what string) {
		t.Helper()
		var from []int64
		for _, l := range loads {
			from = append(from, l.requests.Load())
		}
		d := s.eventually(what, func() error {
			for i, l := range loads {
				if l.requests.Load() < from[i]+200 {
					return fmt.Errorf("load %d: %d requests more", i, l.requests.Load()-from[i])
				}
			}
			return nil
		})
		t.Logf("%s: goes on after %v", what, d)
	}
	goesOn("start")

	large, err := dial(s.client, addr4)
	must(err)
	defer large.Close()
	must(bulk(large, 1<<20))
	must(nl.LinkSetMTU(serverLink(), 1400))
	goesOn("MTU 1400")
	if err := bulk(large, 1<<20); err != nil {
		t.Errorf("1 MB on an old connection, MTU 1400: %v", err)
	}
	must(nl.LinkSetMTU(serverLink(), 1500))
	goesOn("MTU 1500")

	for _, added := range []netip.Prefix{netip.MustParsePrefix("10.99.1.77/24"), netip.MustParsePrefix("fd99:1::77/64")} {
		a := &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: added.Addr().AsSlice(), Mask: net.CIDRMask(added.Bits(), added.Addr().BitLen())}}
		must(nl.AddrAdd(serverLink(), a))
		to := netip.AddrPortFrom(added.Addr(), port).String()
		s.eventually("address added", func() error { return s.served(to) })
		must(nl.AddrDel(serverLink(), a))
	}
	goesOn("address added and deleted")

	clientLink, err := s.client.Netlink.LinkByName(s.ci.Name)
	must(err)
	s.client.Sysctl("net/ipv4/conf/all/arp_notify", "1")
	s.client.Sysctl("net/ipv6/conf/all/ndisc_notify", "1")
	must(s.client.Netlink.LinkSetHardwareAddr(clientLink, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	goesOn("the neighbour has another MAC address")

	// More neighbours than the server remembers.
	neighbour := func(i int) *netlink.Neigh {
		return &netlink.Neigh{
			LinkIndex: s.si.Index, IP: net.IPv4(10, 99, byte(2+i>>8), byte(i)),
			HardwareAddr: net.HardwareAddr{2, 0, 1, 0, byte(i >> 8), byte(i)}, State: netlink.NUD_PERMANENT,
		}
	}
	for i := range 6000 {
		must(nl.NeighSet(neighbour(i)))
	}
	goesOn("6000 neighbours")
	for i := range 6000 {
		must(nl.NeighDel(neighbour(i)))
	}
	goesOn("6000 neighbours gone")

	must(nl.LinkSetDown(serverLink()))
	time.Sleep(300 * time.Millisecond) // the kernel drops everything meanwhile
	must(nl.LinkSetUp(serverLink()))
	// IPv6 addresses go with the link.
	must(nl.AddrReplace(serverLink(), &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: s.si.IPv6.Addr().AsSlice(), Mask: net.CIDRMask(64, 128)}}))
	goesOn("interface down and up")
	for i, l := range loads {
		l.stop()
		l.ok(t, fmt.Sprintf("load %d", i))
	}
	p.kill()
}

// bulk asks for n bytes and reads them.
func bulk(c net.Conn, n int) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(c, "BULK %d\r\n", n); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, c, int64(len(fmt.Sprintf("$%d\r\n\r\n", n))+n))
	return err
}

// TestJumbo: an interface whose frames do not fit a chunk is shared by XDP with several
// chunks to a frame or, before Linux 6.6, by a packet socket, with all of its MTU.
func TestJumbo(t *testing.T) {
	testnet.Need(t, testnet.TCX)
	for _, offloads := range []bool{false, true} {
		s := newSite(t, testnet.Wire{MTU: 9000, Offloads: offloads})
		p := s.start(port)
		addr4, addr6 := at(s.si, port)
		for _, addr := range []string{addr4, addr6} {
			c, err := dial(s.client, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := device(t, c); got != "XDP filter, native, MTU 9000" && got != "XDP filter, ingress, MTU 9000" {
				t.Errorf("the server serves through %s", got)
			}
			if err := bulk(c, 10<<20); err != nil {
				t.Errorf("10 MB from %s: %v", addr, err)
			}
		}
		p.kill()
	}
}

// TestPathMTU: a link further away takes smaller packets than ours. The kernel
// hears of it, and the server gets the news.
func TestPathMTU(t *testing.T) {
	testnet.Need(t, testnet.Root)
	n := testnet.New(t)
	s := &site{T: t, client: n.Host("client"), server: n.Host("server")}
	router := n.Host("router")
	s.ci, _ = n.Connect(s.client, router, testnet.Wire{})
	var near *testnet.Interface
	near, s.si = n.Connect(router, s.server, testnet.Wire{})
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		router.Sysctl(key, "1")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// The router sends no more than 1400 bytes to the client, who does not know.
	toClient, err := router.Netlink.LinkByName("eth0")
	must(err)
	must(router.Netlink.LinkSetMTU(toClient, 1400))
	for _, r := range []struct {
		host *testnet.Host
		via  *testnet.Interface
		dst  string
		gw   string
	}{
		{s.client, s.ci, "10.99.2.0/24", "10.99.1.2"}, {s.client, s.ci, "fd99:2::/64", "fd99:1::2"},
		{s.server, s.si, "10.99.1.0/24", near.IPv4.Addr().String()}, {s.server, s.si, "fd99:1::/64", near.IPv6.Addr().String()},
	} {
		_, dst, err := net.ParseCIDR(r.dst)
		must(err)
		must(r.host.Netlink.RouteAdd(&netlink.Route{LinkIndex: r.via.Index, Dst: dst, Gw: net.ParseIP(r.gw)}))
	}
	p := s.start(port)
	addr4, addr6 := at(s.si, port)
	for _, addr := range []string{addr4, addr6} {
		start := time.Now()
		c, err := dial(s.client, addr)
		must(err)
		if err := bulk(c, 10<<20); err != nil {
			t.Errorf("10 MB from %s: %v", addr, err)
		}
		c.Close()
		t.Logf("10 MB from %s in %v", addr, time.Since(start))
	}
	p.kill()
}

// TestGateway: clients behind a router, whose address moves to another one while
// they are served.
func TestGateway(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ipNet := func(a netip.Addr, bits int) *net.IPNet {
		return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
	}
	lo, err := s.client.Netlink.LinkByName("lo")
	must(err)
	eth, err := s.client.Netlink.LinkByName(s.ci.Name)
	must(err)
	p := s.start(port)
	for _, tt := range []struct {
		name                  string
		behind                netip.Addr
		nobody, gateway, next netip.Addr
		server                netip.Addr
		prefix                int
	}{
		{"IPv4", netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("10.99.1.99"), s.ci.IPv4.Addr(), netip.MustParseAddr("10.99.1.200"), s.si.IPv4.Addr(), 24},
		{"IPv6", netip.MustParseAddr("fd00:200::1"), netip.MustParseAddr("fd99:1::99"), s.ci.IPv6.Addr(), netip.MustParseAddr("fd99:1::200"), s.si.IPv6.Addr(), 64},
	} {
		must(s.client.Netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(tt.behind, tt.behind.BitLen()), Flags: unix.IFA_F_NODAD}))
		must(s.client.Netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(tt.next, tt.prefix), Flags: unix.IFA_F_NODAD}))
		route := func(gw netip.Addr) {
			t.Helper()
			must(s.server.Netlink.RouteReplace(&netlink.Route{
				LinkIndex: s.si.Index, Dst: ipNet(tt.behind, tt.behind.BitLen()), Gw: gw.AsSlice(),
			}))
		}
		route(tt.nobody)
		route(tt.gateway)
		var c net.Conn
		s.eventually("connection by the gateway", func() (err error) {
			s.client.Do(func() {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: tt.behind.AsSlice()}, Timeout: 5 * time.Second}
				c, err = d.Dial("tcp", netip.AddrPortFrom(tt.server, port).String())
			})
			return err
		})
		defer c.Close()
		l := s.ask(func() error { return ping(c) })
		more := func(what string) {
			t.Helper()
			from := l.requests.Load()
			s.eventually(what, func() error {
				if n := l.requests.Load() - from; n < 200 && l.failures.Load() == 0 {
					return fmt.Errorf("%d requests", n)
				}
				return nil
			})
		}
		more(tt.name + ", requests by the gateway")
		route(tt.next)
		s.eventually(tt.name+", new gateway known", func() error {
			all, err := s.server.Netlink.NeighList(s.si.Index, 0)
			for _, n := range all {
				if n.IP.Equal(tt.next.AsSlice()) && len(n.HardwareAddr) == 6 {
					return nil
				}
			}
			return fmt.Errorf("not among %d neighbours, %v", len(all), err)
		})
		more(tt.name + ", requests by the new gateway")
		l.stop()
		l.ok(t, tt.name)
	}
	p.kill()
}
