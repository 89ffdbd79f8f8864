package accel_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
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

// get asks a handler as a client on this host would, unless change says
// otherwise.
func get(h http.Handler, target string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "http://localhost:6060"+target, nil)
	r.RemoteAddr = "127.0.0.1:50000"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
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

func status(t testing.TB, h http.Handler) accel.Status {
	t.Helper()
	w := get(h, "/debug/tpa/status.json", nil)
	var s accel.Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != 200 {
		t.Fatalf("status %d, %v: %s", w.Code, err, w.Body)
	}
	return s
}

func TestStatus(t *testing.T) {
	client, server := newPair(t, memory.Options{Queues: 2}, accel.Config{})
	conns := echoes(t, client, server, 4)
	s := status(t, accel.DebugHandler(client))
	if !s.Accelerated || s.Device.Name != "memory0" || !s.Device.LinkUp || len(s.Shards) != 2 {
		t.Errorf("got %+v on %d shards, want memory0 up on 2", s.Device, len(s.Shards))
	}
	var frames uint64
	for _, sh := range s.Shards {
		frames += sh.RxFrames
		if sh.Counters["queue.rx_frames"] != sh.RxFrames || sh.Counters["stack.tcp.active_connection_openings"] != 2 {
			t.Errorf("shard %d: %v", sh.Index, sh.Counters)
		}
		if sh.Busy <= 0 || sh.Busy+sh.Idle > time.Since(s.Program.Started) {
			t.Errorf("shard %d was busy for %v and idle for %v", sh.Index, sh.Busy, sh.Idle)
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
	remote := accel.DebugHandler(server)
	if l := status(t, remote).Listeners; len(l) != 1 || l[0] != (accel.ListenStatus{Addr: "[::]:7", Accepted: 4}) {
		t.Errorf("listeners: got %v", l)
	}
	client.Close()
	if s := status(t, accel.DebugHandler(client)); len(s.Shards) != 2 {
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
	rt, err := accel.New(accel.Config{Link: a, Addrs: prefixes("10.0.0.1/24"), Fallback: accel.Never, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ethernet := func(dst byte, etherType uint16, payload ...byte) []byte {
		frame := append([]byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, 2, byte(etherType >> 8), byte(etherType)}, payload...)
		return append(frame, make([]byte, 60-len(frame))...)
	}
	h := accel.DebugHandler(rt)
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
			for _, d := range status(t, h).Drops {
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

func TestDebugPage(t *testing.T) {
	client, server := newPair(t, memory.Options{}, accel.Config{})
	echoes(t, client, server, 3)
	h := accel.DebugHandler(client)
	w := get(h, "/debug/tpa/?sort=read&conns=2&refresh=5", nil)
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("status %d, %s", w.Code, w.Header().Get("Content-Type"))
	}
	body := w.Body.String()
	for _, want := range []string{"accelerated", "memory0", "10.0.0.2:7", "02:00:00:00:00:02", "ring full", "2 of 3", `content="5"`} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	// The greatest first, and no more than asked for.
	first, second := strings.Index(body, "300 B"), strings.Index(body, "200 B")
	if first < 0 || second < first || strings.Contains(body, "100 B") {
		t.Errorf("sorted by bytes read, 300 B stands at %d and 200 B at %d; want them in this order, and no 100 B", first, second)
	}
	for _, target := range []string{"/debug/tpa/?sort=<script>&conns=-1&refresh=x", "/"} {
		if w := get(h, target, nil); w.Code != 200 || strings.Contains(w.Body.String(), "<script>") {
			t.Errorf("%s: status %d, or an unescaped parameter", target, w.Code)
		}
	}
	if w := get(h, "/debug/tpa/nothing", nil); w.Code != 404 {
		t.Errorf("unknown page: got status %d, want 404", w.Code)
	}

	rt, err := accel.New(accel.Config{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if body := get(accel.DebugHandler(rt), "/", nil).Body.String(); !strings.Contains(body, "not accelerated") || !strings.Contains(body, "no device") {
		t.Errorf("after a fallback the page does not say why:\n%s", body)
	}
}

// TestDebugStaysLocal checks who gets an answer.
func TestDebugStaysLocal(t *testing.T) {
	client, _ := newPair(t, memory.Options{}, accel.Config{})
	open, _ := newPair(t, memory.Options{}, accel.Config{DebugRemote: true})
	for _, tt := range []struct {
		name, from, host, method string
		want, open               int
	}{
		{"loopback", "127.0.0.1:1", "127.0.0.1:6060", "GET", 200, 200},
		{"loopback by name", "127.0.0.1:1", "localhost:6060", "GET", 200, 200},
		{"loopback IPv6", "[::1]:1", "[::1]:6060", "GET", 200, 200},
		{"mapped loopback", "[::ffff:127.0.0.1]:1", "127.0.0.2", "GET", 200, 200},
		{"another host", "10.1.2.3:1", "localhost:6060", "GET", 403, 200},
		{"a browser misled by DNS", "127.0.0.1:1", "example.com:6060", "GET", 403, 200},
		{"nobody", "", "localhost", "GET", 403, 200},
		{"a write", "127.0.0.1:1", "localhost", "POST", 405, 405},
	} {
		change := func(r *http.Request) { r.RemoteAddr, r.Host, r.Method = tt.from, tt.host, tt.method }
		if got := get(accel.DebugHandler(client), "/status.json", change).Code; got != tt.want {
			t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
		}
		if got := get(accel.DebugHandler(open), "/status.json", change).Code; got != tt.open {
			t.Errorf("%s, with DebugRemote: got status %d, want %d", tt.name, got, tt.open)
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
