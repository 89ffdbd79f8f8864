package attack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testnet"
)

// clients is how many clients have to be served during each attack.
const clients = 20

// visitEvery is the time between two clients: all of them come within a second.
const visitEvery = 30 * time.Millisecond

// gateways make everything far away reachable through an interface's addresses.
func gateways(t *testing.T, h *testnet.Host, via *testnet.Interface) {
	t.Helper()
	for everything, addr := range map[string]netip.Prefix{"0.0.0.0/0": via.IPv4, "::/0": via.IPv6} {
		_, dst, _ := net.ParseCIDR(everything)
		if err := h.Netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: addr.Addr().AsSlice()}); err != nil {
			t.Fatal(err)
		}
	}
}

// queue gives an interface a queue for sending, as real ones have. Without one, a
// flood that the wire cannot take pushes the clients' frames off it, too, before
// they come near the server. Linux waits for a veth since 6.16.
func queue(t *testing.T, h *testnet.Host, i *testnet.Interface) {
	t.Helper()
	q := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: i.Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}, QdiscType: "pfifo"}
	if err := h.Netlink.QdiscAdd(q); err != nil {
		t.Fatal(err)
	}
}

// silent keeps a host's kernel from telling those who answer spoofed IPv6
// addresses that it has no route there, which would end their handshakes. About
// IPv4 it says nothing.
func silent(t *testing.T, h *testnet.Host) {
	t.Helper()
	_, dst, _ := net.ParseCIDR("2001:db8::/32")
	if err := h.Netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}); err != nil {
		t.Fatal(err)
	}
}

// visit is what a client does: it connects by the kernel's TCP, waits for the
// server's first word, and has bytes sent back.
func (s *site) visit() error {
	c, err := s.dial(7)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	got := make([]byte, len(greeting)+100)
	if _, err := io.ReadFull(c, got[:len(greeting)]); err != nil {
		return fmt.Errorf("waiting for the greeting: %w", err)
	}
	if _, err := c.Write(make([]byte, 100)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got[len(greeting):]); err != nil {
		return fmt.Errorf("waiting for the echo: %w", err)
	}
	return nil
}

func (s *site) dial(port uint16) (c net.Conn, err error) {
	s.outside.Do(func() {
		d := net.Dialer{Timeout: testTimeout}
		c, err = d.DialContext(s.t.Context(), "tcp", netip.AddrPortFrom(s.addr, port).String())
	})
	return c, err
}

// visits lets all clients visit, one after the other, and returns how long the
// slowest took.
func (s *site) visits() (slowest time.Duration) {
	s.t.Helper()
	var took []time.Duration
	pace := time.NewTicker(visitEvery)
	defer pace.Stop()
	for i := range clients {
		<-pace.C
		start := time.Now()
		if err := s.visit(); err != nil {
			s.t.Errorf("client %d: %v\nthe server: %+v", i, err, s.report())
			continue
		}
		took = append(took, time.Since(start))
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	slowest = took[len(took)-1]
	s.t.Logf("%d of %d clients served, median %v, slowest %v", len(took), clients, took[len(took)/2].Round(10*time.Microsecond), slowest.Round(10*time.Microsecond))
	return slowest
}

// under lets the clients visit while an attack runs, and returns the server's
// state before and after.
func (s *site) under(attack func(stop <-chan struct{})) (before, after report) {
	s.t.Helper()
	if err := s.visit(); err != nil {
		s.t.Fatalf("before the attack: %v", err)
	}
	before = s.report()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); attack(stop) }()
	start := time.Now()
	for r := before; time.Since(start) < time.Second && (r.RxFrames < before.RxFrames+100 || s.synFlood && r.Answered == 0); r = s.report() {
		time.Sleep(10 * time.Millisecond) // until it has begun
	}
	s.slowest = s.visits()
	after = s.report()
	close(stop)
	<-ended
	s.t.Logf("%d frames in %v, heap %+.1f MB", after.RxFrames-before.RxFrames, time.Since(start).Round(time.Millisecond), mb(after.Heap-before.Heap))
	return before, after
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }
