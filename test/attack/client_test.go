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

	"github.com/gotpa/tpa/internal/testnet"
)

// clients is how many clients have to be served during each attack.
const clients = 20

// visitEvery is the time between two clients: all of them come within a second.
const visitEvery = 50 * time.Millisecond

// gateway makes everything far away reachable through an interface's address.
func gateway(t *testing.T, h *testnet.Host, via *testnet.Interface) {
	t.Helper()
	_, everything, _ := net.ParseCIDR("0.0.0.0/0")
	if err := h.Netlink.RouteAdd(&netlink.Route{Dst: everything, Gw: via.IPv4.Addr().AsSlice()}); err != nil {
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
	c.SetDeadline(time.Now().Add(patience))
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
		d := net.Dialer{Timeout: patience}
		c, err = d.DialContext(s.t.Context(), "tcp", netip.AddrPortFrom(s.to.IPv4.Addr(), port).String())
	})
	return c, err
}

// visits lets all clients visit, one after the other, and reports how long they
// took.
func (s *site) visits() {
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
	slices.Sort(took)
	if len(took) > 0 {
		s.t.Logf("%d of %d clients served, median %v, slowest %v", len(took), clients, took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
	}
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
	for time.Since(start) < time.Second && s.report().RxFrames < before.RxFrames+100 {
		time.Sleep(10 * time.Millisecond) // until it has begun
	}
	s.visits()
	after = s.report()
	close(stop)
	<-ended
	s.t.Logf("%d frames in %v, heap %+.1f MB", after.RxFrames-before.RxFrames, time.Since(start).Round(time.Millisecond), mb(after.Heap-before.Heap))
	return before, after
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }
