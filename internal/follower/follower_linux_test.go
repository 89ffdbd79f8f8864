package follower_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/follower"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bench is a follower of one end of a wire, and what it reported.
type bench struct {
	*testing.T
	far, near *testnet.Interface // near is followed
	follower  *follower.Follower

	mu          sync.Mutex
	state       follower.State
	neighbours  map[netip.Addr][6]byte
	unreachable map[netip.Addr]int
	packets     [][]byte
	gone        bool
	hold        chan struct{} // while open, events wait
}

func newBench(t *testing.T) *bench {
	t.Helper()
	n := testnet.New(t)
	b := &bench{T: t, neighbours: map[netip.Addr][6]byte{}, unreachable: map[netip.Addr]int{}, hold: make(chan struct{})}
	close(b.hold)
	b.far, b.near = n.Connect(n.Host("far"), n.Host("near"), testnet.Wire{})
	locked := func(f func()) {
		b.mu.Lock()
		hold := b.hold
		b.mu.Unlock()
		<-hold
		b.mu.Lock()
		defer b.mu.Unlock()
		f()
	}
	events := follower.Events{
		Changed: func(s follower.State) { locked(func() { b.state = s }) },
		Neighbour: func(a netip.Addr, mac [6]byte) {
			locked(func() { b.neighbours[a] = mac })
		},
		Unreachable: func(a netip.Addr) {
			locked(func() { delete(b.neighbours, a); b.unreachable[a]++ })
		},
		ICMP: func(p []byte) { locked(func() { b.packets = append(b.packets, p) }) },
		Gone: func() { locked(func() { b.gone = true }) },
	}
	var err error
	b.near.Host.Do(func() {
		b.follower, err = follower.New(b.near.Name, events, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.follower.Close() })
	b.mu.Lock()
	b.state = b.follower.State()
	b.mu.Unlock()
	return b
}

// until polls a condition on what was reported.
func (b *bench) until(what string, condition func() bool) {
	b.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		b.mu.Lock()
		ok := condition()
		state := fmt.Sprintf("%+v, %d neighbours, unreachable %v", b.state, len(b.neighbours), b.unreachable)
		b.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("not in 10 s: %s; %s; %+v", what, state, b.follower.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) link(i *testnet.Interface) netlink.Link {
	b.Helper()
	l, err := i.Host.Netlink.LinkByName(i.Name)
	b.must(err)
	return l
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hasRoute is for conditions of until.
func (b *bench) hasRoute(r follower.Route) bool { return slices.Contains(b.state.Routes, r) }

func TestState(t *testing.T) {
	b := newBench(t)
	nl, l := b.near.Host.Netlink, b.link(b.near)
	s := b.follower.State()
	if s.Name != b.near.Name || s.Index != b.near.Index || s.MTU != 1500 || !s.Up || s.HardwareAddr.String() != b.near.MAC.String() {
		t.Errorf("first state %+v, want that of %+v", s, b.near)
	}
	for _, p := range []netip.Prefix{b.near.IPv4, b.near.IPv6} {
		if !slices.Contains(s.Addrs, p) {
			t.Errorf("first state %+v lacks %v", s, p)
		}
		if !slices.Contains(s.Routes, follower.Route{Destination: p.Masked(), Metric: metric(p)}) {
			t.Errorf("first state %+v has no route on the link for %v", s, p)
		}
	}

	b.must(nl.LinkSetMTU(l, 1400))
	b.until("MTU 1400", func() bool { return b.state.MTU == 1400 })

	extra := netip.MustParsePrefix("10.1.2.3/25")
	b.must(nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(extra)}))
	b.until("address added", func() bool {
		return slices.Contains(b.state.Addrs, extra) && b.hasRoute(follower.Route{Destination: extra.Masked()})
	})
	b.must(nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(extra)}))
	b.until("address deleted", func() bool {
		return !slices.Contains(b.state.Addrs, extra) && !b.hasRoute(follower.Route{Destination: extra.Masked()})
	})

	for _, v := range []struct {
		everything string
		first, to  netip.Addr
		metric     int
	}{
		{"0.0.0.0/0", b.far.IPv4.Addr(), netip.MustParseAddr("10.99.1.77"), 0},
		{"::/0", b.far.IPv6.Addr(), netip.MustParseAddr("fe80::77"), 1024},
	} {
		everything := netip.MustParsePrefix(v.everything)
		route := func(gw netip.Addr) *netlink.Route {
			return &netlink.Route{LinkIndex: b.near.Index, Dst: ipNet(everything), Gw: gw.AsSlice()}
		}
		b.must(nl.RouteAdd(route(v.first)))
		b.until("gateway "+v.first.String(), func() bool { return b.hasRoute(follower.Route{everything, v.first, v.metric}) })
		b.must(nl.RouteReplace(route(v.to)))
		b.until("gateway moved to "+v.to.String(), func() bool {
			return b.hasRoute(follower.Route{everything, v.to, v.metric}) && !b.hasRoute(follower.Route{everything, v.first, v.metric})
		})
		b.must(nl.RouteDel(route(v.to)))
		b.until("no gateway", func() bool { return !b.hasRoute(follower.Route{everything, v.to, v.metric}) })
	}

	// Routes in order: what a look-up takes first comes first.
	b.must(nl.RouteAdd(&netlink.Route{LinkIndex: b.near.Index, Dst: ipNet(netip.MustParsePrefix("10.50.0.0/16")), Gw: b.far.IPv4.Addr().AsSlice(), Priority: 7}))
	b.must(nl.RouteAdd(&netlink.Route{LinkIndex: b.near.Index, Dst: ipNet(netip.MustParsePrefix("10.50.0.0/16")), Gw: b.far.IPv4.Addr().AsSlice(), Priority: 3}))
	b.until("two routes by metric", func() bool {
		var metrics []int
		for _, r := range b.state.Routes {
			if r.Destination == netip.MustParsePrefix("10.50.0.0/16") {
				metrics = append(metrics, r.Metric)
			}
		}
		return slices.Equal(metrics, []int{3, 7})
	})
	routes := b.follower.State().Routes
	if !slices.IsSortedFunc(routes, func(a, b follower.Route) int { return b.Destination.Bits() - a.Destination.Bits() }) {
		t.Errorf("routes are not most specific first: %v", routes)
	}

	b.must(nl.LinkSetDown(l))
	b.until("down", func() bool { return !b.state.Up && len(b.state.Routes) == 0 })
	b.must(nl.LinkSetUp(l))
	b.until("up", func() bool { return b.state.Up && b.hasRoute(follower.Route{Destination: b.near.IPv4.Masked()}) })

	b.must(nl.LinkDel(l))
	b.until("gone", func() bool { return b.gone })
}

// metric is what the kernel gives to routes for the prefixes of addresses.
func metric(p netip.Prefix) int {
	if p.Addr().Is6() {
		return 256
	}
	return 0
}

// A route through another interface is no route here, and one over both is.
func TestTwoInterfaces(t *testing.T) {
	b := newBench(t)
	nl := b.near.Host.Netlink
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "other"
	other := netlink.NewVeth(attrs)
	other.PeerName = "othermate"
	b.must(nl.LinkAdd(other))
	for _, name := range []string{"other", "othermate"} {
		l, err := nl.LinkByName(name)
		b.must(err)
		b.must(nl.LinkSetUp(l))
	}
	l, err := nl.LinkByName("other")
	b.must(err)
	b.must(nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.7.0.1/24"))}))
	everything := netip.MustParsePrefix("0.0.0.0/0")
	gateway := b.far.IPv4.Addr()
	b.must(nl.RouteAdd(&netlink.Route{Dst: ipNet(everything), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: b.near.Index, Gw: gateway.AsSlice()},
		{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 7, 0, 2)},
	}}))
	b.until("one next hop of two", func() bool { return b.hasRoute(follower.Route{Destination: everything, Gateway: gateway}) })
	state := b.follower.State()
	for _, r := range state.Routes {
		if r.Destination == netip.MustParsePrefix("10.7.0.0/24") || r.Gateway == netip.MustParseAddr("10.7.0.2") {
			t.Errorf("route %v is another interface's", r)
		}
	}
	if slices.Contains(state.Addrs, netip.MustParsePrefix("10.7.0.1/24")) {
		t.Errorf("addresses %v are not all of this interface", state.Addrs)
	}
}

func TestNeighbours(t *testing.T) {
	b := newBench(t)
	nl, l := b.near.Host.Netlink, b.link(b.near)
	farMAC := [6]byte(b.far.MAC)
	for _, addr := range []netip.Addr{b.far.IPv4.Addr(), b.far.IPv6.Addr()} {
		// Not asked for, not known; asked for, known.
		b.follower.Resolve(addr)
		b.until("resolved "+addr.String(), func() bool { return b.neighbours[addr] == farMAC })
		// Known already: told again.
		b.mu.Lock()
		delete(b.neighbours, addr)
		b.mu.Unlock()
		b.follower.Resolve(addr)
		b.until("told again", func() bool { return b.neighbours[addr] == farMAC })
	}
	var nobody []netip.Addr
	for _, s := range []string{"10.99.1.200", "fd99:1::200"} {
		addr := netip.MustParseAddr(s)
		nobody = append(nobody, addr)
		b.follower.Resolve(addr)
	}
	b.until("nobody there", func() bool { return b.unreachable[nobody[0]] > 0 && b.unreachable[nobody[1]] > 0 })

	// Another MAC address, by hand and by an announcement.
	addr := b.far.IPv4.Addr()
	moved := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	b.must(nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: moved, State: netlink.NUD_REACHABLE}))
	b.until("moved", func() bool { return b.neighbours[addr] == [6]byte(moved) })
	b.must(nl.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice()}))
	b.until("deleted by hand", func() bool { _, known := b.neighbours[addr]; return !known })
	b.follower.Resolve(addr)
	b.until("resolved again", func() bool { return b.neighbours[addr] == farMAC })
}

// TestManyNeighbours: of a flood of neighbours, a limited number is remembered, and
// each is still found when it is asked for.
func TestManyNeighbours(t *testing.T) {
	b := newBench(t)
	nl, index := b.near.Host.Netlink, b.link(b.near).Attrs().Index
	const flood = 10_000
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}) }
	mac := func(i int) [6]byte { return [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)} }
	for i := range flood {
		m := mac(i)
		b.must(nl.NeighSet(&netlink.Neigh{LinkIndex: index, IP: addr(i).AsSlice(), HardwareAddr: m[:], State: netlink.NUD_PERMANENT}))
	}
	b.until("the last one", func() bool { return b.neighbours[addr(flood-1)] == mac(flood-1) })
	if n := b.follower.Stats().Known; n > 4096 {
		t.Errorf("%d neighbours are remembered, want 4096 at most", n)
	}
	for i := 0; i < flood; i += 997 {
		b.mu.Lock()
		delete(b.neighbours, addr(i))
		b.mu.Unlock()
		b.follower.Resolve(addr(i))
		b.until("found again", func() bool { return b.neighbours[addr(i)] == mac(i) })
	}
	b.follower.Resolve(b.far.IPv4.Addr())
	b.until("a neighbour that answers", func() bool { return b.neighbours[b.far.IPv4.Addr()] == [6]byte(b.far.MAC) })
	if n := b.follower.Stats().Known; n > 4096 {
		t.Errorf("%d neighbours are remembered, want 4096 at most", n)
	}
}

// A neighbour that is asked for in time never lacks an answer, and one whose MAC
// address changes without an announcement is found again.
func TestConfirm(t *testing.T) {
	b := newBench(t)
	for _, key := range []string{"net/ipv4/neigh/" + b.near.Name, "net/ipv6/neigh/" + b.near.Name} {
		b.near.Host.Sysctl(key+"/base_reachable_time_ms", "200")
		b.near.Host.Sysctl(key+"/delay_first_probe_time", "0")
		b.near.Host.Sysctl(key+"/retrans_time_ms", "100")
	}
	addr := b.far.IPv4.Addr()
	b.follower.Resolve(addr)
	b.until("resolved", func() bool { return len(b.neighbours) > 0 })
	moved := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	b.far.Host.Sysctl("net/ipv4/conf/all/arp_notify", "0")
	b.must(b.far.Host.Netlink.LinkSetHardwareAddr(b.link(b.far), moved))
	deadline := time.Now().Add(10 * time.Second)
	for done := false; !done; time.Sleep(20 * time.Millisecond) {
		b.follower.Resolve(addr)
		b.mu.Lock()
		done = b.neighbours[addr] == [6]byte(moved)
		b.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("not found at %v after 10 s", moved)
		}
	}
}

// When notifications are lost, the follower takes everything anew.
func TestResync(t *testing.T) {
	b := newBench(t)
	nl, l := b.near.Host.Netlink, b.link(b.near)
	b.mu.Lock()
	b.hold = make(chan struct{})
	b.mu.Unlock()
	const flood = 900 // below the kernel's limit of 1024 entries
	want := map[netip.Addr][6]byte{}
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 1 + byte(i>>8), byte(i)}) }
	rounds := 0
	for ; b.follower.Stats().Resyncs == 0 && rounds < 100; rounds++ {
		for i := range flood {
			mac := [6]byte{2, 0, byte(rounds), 0, byte(i >> 8), byte(i)}
			want[addr(i)] = mac
			b.must(nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr(i).AsSlice(), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}))
		}
	}
	extra := netip.MustParsePrefix("10.1.2.3/25")
	b.must(nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(extra)}))
	close(b.hold)
	b.until("everything, after news were lost", func() bool {
		for a, mac := range want {
			if b.neighbours[a] != mac {
				return false
			}
		}
		return slices.Contains(b.state.Addrs, extra)
	})
	if b.follower.Stats().Resyncs == 0 {
		t.Errorf("no news were lost in %d rounds", rounds)
	}
}

// Errors about TCP segments arrive, others do not.
func TestICMP(t *testing.T) {
	b := newBench(t)
	near4, far4 := b.near.IPv4.Addr(), b.far.IPv4.Addr()
	near6, far6 := b.near.IPv6.Addr(), b.far.IPv6.Addr()
	elsewhere4, elsewhere6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	ports := []byte{0x18, 0xeb, 0x9c, 0x40, 1, 2, 3, 4}
	quote4 := func(protocol byte) []byte { return testframe.IP(near4, elsewhere4, protocol, ports) }
	quote6 := func(protocol byte) []byte { return testframe.IP(near6, elsewhere6, protocol, ports) }
	const mtu = 1400
	error4 := func(kind, code byte, quote []byte) []byte {
		return testframe.ICMP(far4, near4, kind, code, mtu, quote)[header.IPv4MinimumSize:]
	}
	error6 := func(kind byte, quote []byte) []byte {
		return testframe.ICMP(far6, near6, kind, 0, mtu, quote)[header.IPv6MinimumSize:] // the kernel makes the checksum anew
	}
	send := func(network string, to netip.Addr, message []byte) {
		t.Helper()
		b.far.Host.Do(func() {
			c, err := net.ListenPacket(network, "")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
				t.Fatal(err)
			}
		})
	}
	// What is not reported goes first: nothing overtakes.
	send("ip4:icmp", near4, error4(8, 0, quote4(6)))  // echo request
	send("ip4:icmp", near4, error4(3, 4, quote4(17))) // about UDP
	send("ip4:icmp", near4, []byte{3, 4, 0xfc, 0xfb, 0, 0, 0, 0})
	send("ip6:ipv6-icmp", near6, error6(128, quote6(6)))
	send("ip6:ipv6-icmp", near6, error6(2, quote6(17)))
	tooBig4, tooBig6 := error4(3, 4, quote4(6)), error6(2, quote6(6))
	send("ip4:icmp", near4, tooBig4)
	send("ip6:ipv6-icmp", near6, tooBig6)
	b.until("two errors", func() bool { return len(b.packets) >= 2 })
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.packets) != 2 {
		t.Fatalf("%d packets, want 2: %x", len(b.packets), b.packets)
	}
	for _, p := range b.packets {
		packet, err := testframe.ParseIP(p)
		from, to, want := far4, near4, tooBig4
		if packet.Dst.Is6() {
			from, to, want = far6, near6, tooBig6
		}
		if err != nil || packet.Src != from || packet.Dst != to || string(packet.Payload) != string(want) {
			t.Errorf("an ICMP error arrived as %x (%v)", p, err)
		}
	}
}

func TestNoInterface(t *testing.T) {
	h := testnet.New(t).Host("host")
	h.Do(func() {
		if m, err := follower.New("nowhere", follower.Events{}, slog.Default()); err == nil {
			m.Close()
			t.Error("follower of an interface that is not there")
		}
	})
}
