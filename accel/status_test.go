package accel_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
)

var silent = slog.New(slog.DiscardHandler)

var noOffload link.TxOffload

func prefixes(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// echoes returns a number of open connections to an echo server, with some
// bytes exchanged on each: 100 on the first, 200 on the second, and so on.
func echoes(t testing.TB, client, server *accel.Runtime, n int) []net.Conn {
	t.Helper()
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go echoserver.Run(ln)
	var conns []net.Conn
	for i := range n {
		c, err := (&accel.Dialer{Runtime: client, Timeout: 10 * time.Second}).Dial("tcp", "10.0.0.2:7")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 100*(i+1))
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// status is what comes of a status that went through JSON.
func status(t testing.TB, rt *accel.Runtime) (s accel.Status) {
	t.Helper()
	b, err := json.Marshal(rt.Status())
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatus(t *testing.T) {
	client, server := newPair(t, memory.Options{Queues: 2}, accel.Config{})
	conns := echoes(t, client, server, 4)
	s := status(t, client)
	if !s.Accelerated || s.Device.Name != "memory0" || !s.Device.LinkUp || len(s.Shards) != 2 {
		t.Errorf("got %+v on %d shards, want memory0 up on 2", s.Device, len(s.Shards))
	}
	var frames uint64
	for i, sh := range s.Shards {
		frames += sh.Queue.RxFrames
		if sh.TCP.ActiveOpens != 2 {
			t.Errorf("shard %d: got %d connections dialed, want 2", i, sh.TCP.ActiveOpens)
		}
		if p := sh.Poller; p.Busy <= 0 || p.Busy+p.Idle > time.Since(s.Program.Started) {
			t.Errorf("shard %d was busy for %v and idle for %v", i, p.Busy, p.Idle)
		}
	}
	if frames == 0 {
		t.Error("no frames")
	}
	if len(s.Conns) != len(conns) {
		t.Fatalf("got %d connections, want %d", len(s.Conns), len(conns))
	}
	for i, c := range conns {
		at := slices.IndexFunc(s.Conns, func(s accel.ConnStatus) bool { return s.Local == c.LocalAddr().String() })
		if at < 0 {
			t.Errorf("connection %v is missing", c.LocalAddr())
			continue
		}
		got := s.Conns[at]
		want := uint64(100 * (i + 1))
		if got.Remote != "10.0.0.2:7" || got.State != "ESTABLISHED" || got.Read != want || got.Written != want ||
			got.RTT <= 0 || got.Cwnd == 0 || got.Age <= 0 || got.Age > time.Since(s.Program.Started) {
			t.Errorf("connection %d: got %+v, want %d bytes each way", i, got, want)
		}
	}
	if len(s.Neighbours) != 1 || s.Neighbours[0] != (accel.NeighbourStatus{Addr: "10.0.0.2", HardwareAddr: "02:00:00:00:00:02"}) {
		t.Errorf("neighbours: got %v", s.Neighbours)
	}
	for _, want := range []string{"10.0.0.0/24", "fd00::/64"} {
		if len(s.Routes) != 2 || !slices.Contains(s.Routes, accel.RouteStatus{Destination: want}) {
			t.Errorf("routes: got %v, want %s among two", s.Routes, want)
		}
	}
	if got := fmt.Sprint(s.Addrs); got != "[10.0.0.1/24 fd00::1/64]" {
		t.Errorf("addresses: got %s", got)
	}
	if slices.ContainsFunc(s.Routes, func(r accel.RouteStatus) bool { return r.Gateway != "" }) {
		t.Errorf("routes: got %v", s.Routes)
	}
	if !slices.ContainsFunc(s.Events, func(e accel.Event) bool { return e.Message == "accelerating" }) {
		t.Errorf("events: got %v, want the start", s.Events)
	}
	if l := status(t, server).Listeners; len(l) != 1 || l[0] != (accel.ListenStatus{Addr: "[::]:7", Accepted: 4}) {
		t.Errorf("listeners: got %v", l)
	}
	client.Close()
	if s := status(t, client); len(s.Shards) != 2 {
		t.Errorf("closed runtime: got %d shards, want 2", len(s.Shards))
	}
}

// TestDrops checks that each lost packet is counted at one place.
func TestDrops(t *testing.T) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a, b)
	defer b.Close()
	rt, err := accel.New(accel.Config{Link: a, Addrs: prefixes("10.0.0.1/24"), Fallback: accel.FallbackNever, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ethernet := func(dst byte, etherType uint16, payload ...byte) []byte {
		frame := append([]byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, 2, byte(etherType >> 8), byte(etherType)}, payload...)
		return append(frame, make([]byte, 60-len(frame))...)
	}
	seen := 0
	for _, tt := range []struct {
		name, place, reason string
		frame               []byte
	}{
		{"for another station", "Ethernet", "not for us", ethernet(9, 0x0800, 0x45)},
		{"in a VLAN", "Ethernet", "VLAN", ethernet(1, 0x8100)},
		{"of an unknown protocol", "Ethernet", "unknown protocol", ethernet(1, 0x88cc)},
		{"of an impossible IP version", "IP", "malformed", ethernet(1, 0x0800, 0x15)},
		{"for another IP address", "IP", "address", ethernet(1, 0x0800,
			0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x26, 0xc6, 10, 0, 0, 2, 10, 0, 0, 9)},
	} {
		q := b.Queue(0)
		copy(q.Reserve(len(tt.frame)), tt.frame)
		q.Commit(len(tt.frame), noOffload)
		q.Flush()
		seen++
		var drops []accel.Drop
		eventually(t, "the frame "+tt.name+" is counted", func() bool {
			drops = nil
			total := uint64(0)
			for _, d := range status(t, rt).Drops {
				if total += d.Packets; d.Packets > 0 {
					drops = append(drops, d)
				}
			}
			return total == uint64(seen)
		})
		if !slices.ContainsFunc(drops, func(d accel.Drop) bool { return d.Place == tt.place && d.Reason == tt.reason && !d.Out }) {
			t.Errorf("a frame %s: got %v, want %s, %s", tt.name, drops, tt.place, tt.reason)
		}
	}
}

// TestPollerLabels checks that a profile tells pollers from the rest.
func TestPollerLabels(t *testing.T) {
	newPair(t, memory.Options{Queues: 2}, accel.Config{})
	eventually(t, "the pollers run", func() bool {
		var b bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		for q := range 2 {
			if !strings.Contains(b.String(), fmt.Sprintf(`"queue":"memory1/%d", "shard":"%d", "tpa":"poller"`, q, q)) {
				return false
			}
		}
		return true
	})
}
