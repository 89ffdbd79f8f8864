package accel

import (
	"bufio"
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

// FuzzConfig feeds environments, as lines NAME=VALUE.
func FuzzConfig(f *testing.F) {
	f.Add("TPA_DEV=eth0\nTPA_ADDR=10.0.0.2/24, fd00::2/64\nTPA_GATEWAY=10.0.0.1\nTPA_MTU=1500\nTPA_QUEUES=2\nTPA_CPUS=1,2")
	f.Add("TPA_DEV=net_memif0,role=server,socket=/x.sock\nTPA_FALLBACK=never\nTPA_SPIN=-1s\nTPA_MAX_SLEEP=1ms")
	f.Add("TPA_DEV=0000:3b:00.0\nTPA_HUGEPAGES=always\nTPA_MEMORY_MB=64\nTPA_RECORD=off\nTPA_SOCKET=off")
	f.Add("TPA_MAX_CONNS=100\nTPA_MAX_MEMORY_MB=549755813887\nTPA_ADDR=::ffff:1.2.3.4/96")
	f.Fuzz(func(t *testing.T, env string) {
		vars := make(map[string]string)
		for line := range strings.Lines(env) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			vars[name] = value
		}
		c, err := configFrom(func(name string) string { return vars[name] })
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a word")
			}
			return
		}
		if l := c.Limits.WithDefaults(); l.Check() != nil || l.Memory < 0 {
			t.Errorf("limits that make no sense pass: %+v", l)
		}
		for _, a := range c.Addrs {
			if !a.IsValid() || a.Addr().IsMulticast() || a.Addr().IsUnspecified() || a.Addr().Is4In6() {
				t.Errorf("address %v passes", a)
			}
		}
		if c.Queues < 0 || c.Queues > 256 || c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
			t.Errorf("%d queues and an MTU of %d pass", c.Queues, c.MTU)
		}
	})
}

// FuzzDebugRequest feeds HTTP requests to the debug socket.
func FuzzDebugRequest(f *testing.F) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		f.Fatal(err)
	}
	leak.Check(f, a, b)
	defer b.Close()
	rt, err := New(Config{
		Link: a, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Record: 1,
		DebugSocket: "off", Fallback: Never, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	defer rt.Close()
	// A page of an accelerated runtime takes its time to measure.
	fallback, err := New(Config{DebugSocket: "off", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	defer fallback.Close()
	for _, line := range []string{"GET /status.json", "GET /?refresh=1&conns=7", "HEAD /recording", "POST /", "GET /%2e%2e/x", "GET /a/status.json?x=%zz"} {
		f.Add([]byte(line + " HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
		if err != nil {
			return
		}
		serve := rt
		if r.URL.Path == "" || strings.HasSuffix(r.URL.Path, "/") {
			serve = fallback
		}
		w := httptest.NewRecorder()
		serve.serveDebug(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		default:
			t.Errorf("%q: status %d", request, w.Code)
		}
	})
}
