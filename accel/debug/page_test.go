package debug_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/debug"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/link/memory"
)

// program returns a runtime with three connections to an echo server, which have
// carried 100, 200 and 300 bytes each way.
func program(t testing.TB) *accel.Runtime {
	t.Helper()
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a, b)
	start := func(d *memory.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Fallback: accel.FallbackNever,
			DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	client, server := start(a, "10.0.0.1/24"), start(b, "10.0.0.2/24")
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	go echoserver.Run(ln)
	for i := range 3 {
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
	}
	return client
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

func TestPage(t *testing.T) {
	client := program(t)
	h := debug.Handler(client, debug.Options{})
	w := get(h, "/debug/tpa/?sort=read&conns=2&refresh=5", nil)
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("status %d, %s", w.Code, w.Header().Get("Content-Type"))
	}
	body := w.Body.String()
	for _, want := range []string{"accelerated", "memory0", "10.0.0.2:7", "02:00:00:00:00:02", "nothing was lost", "half-open", "connections recorded", "polling.spin", "2 of 3", `content="5"`} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(body, "ring full") {
		t.Error("the page has places that lost nothing")
	}
	// Once two seconds have passed there is a history.
	for deadline := time.Now().Add(20 * time.Second); len(client.History()) < 3 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if later := get(h, "/", nil).Body.String(); strings.Count(later, "<svg") != 5 || strings.Contains(later, "NaN") {
		t.Errorf("%d charts of the last minutes, want 5 without NaN", strings.Count(later, "<svg"))
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

	rt, err := accel.New(accel.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if body := get(debug.Handler(rt, debug.Options{}), "/", nil).Body.String(); !strings.Contains(body, "not accelerated") || !strings.Contains(body, "no device") {
		t.Errorf("after a fallback the page does not say why:\n%s", body)
	}
}

// TestStaysLocal checks who gets an answer.
func TestStaysLocal(t *testing.T) {
	client := program(t)
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
		if got := get(debug.Handler(client, debug.Options{}), "/status.json", change).Code; got != tt.want {
			t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
		}
		if got := get(debug.Handler(client, debug.Options{Remote: true}), "/status.json", change).Code; got != tt.open {
			t.Errorf("%s, with Remote: got status %d, want %d", tt.name, got, tt.open)
		}
	}
}

// TestDocuments checks what is there for tools.
func TestDocuments(t *testing.T) {
	h := debug.Handler(program(t), debug.Options{})
	var s accel.Status
	if err := json.Unmarshal(get(h, "/debug/tpa/status.json", nil).Body.Bytes(), &s); err != nil || len(s.Conns) != 3 {
		t.Errorf("status.json: got %d connections and %v, want 3", len(s.Conns), err)
	}
	rec, err := recorder.Decode(get(h, "/debug/tpa/recording", nil).Body.Bytes())
	if err != nil || len(rec.Conns) != 3 {
		t.Errorf("recording: %v", err)
	}
}

// FuzzRequest feeds HTTP requests.
func FuzzRequest(f *testing.F) {
	rt, err := accel.New(accel.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	defer rt.Close()
	h := debug.Handler(rt, debug.Options{Remote: true})
	for _, line := range []string{"GET /status.json", "GET /?refresh=1&conns=7", "HEAD /recording", "POST /", "GET /%2e%2e/x", "GET /a/status.json?x=%zz"} {
		f.Add([]byte(line + " HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		default:
			t.Errorf("%q: status %d", request, w.Code)
		}
	})
}
