package accel

import (
	"io"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/gotpa/tpa/internal/limits"
)

// FuzzConfig feeds environments, as lines NAME=VALUE.
func FuzzConfig(f *testing.F) {
	f.Add("TPA_DEV=eth0\nTPA_ADDR=10.0.0.2/24, fd00::2/64\nTPA_GATEWAY=10.0.0.1\nTPA_MTU=1500\nTPA_QUEUES=2\nTPA_CPUS=1,2")
	f.Add("TPA_DEV=net_memif0,role=server,socket=/x.sock\nTPA_FALLBACK=never\nTPA_SPIN=-1s\nTPA_MAX_SLEEP=1ms")
	f.Add("TPA_DEV=0000:3b:00.0\nTPA_HUGEPAGES=always\nTPA_MEMORY_MB=64\nTPA_RECORD=off\nTPA_SOCKET=off")
	f.Add("TPA_MAX_CONNS=100\nTPA_MAX_MEMORY_MB=549755813887\nTPA_ADDR=::ffff:1.2.3.4/96")
	f.Fuzz(func(t *testing.T, env string) {
		c, err := configFrom(strings.Split(env, "\n"))
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a word")
			}
			return
		}
		if l := limits.Limits(c.Limits).WithDefaults(); l.Check() != nil || l.Memory < 0 {
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

// FuzzSocketRequest feeds what comes at the debug socket.
func FuzzSocketRequest(f *testing.F) {
	rt, err := New(Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	defer rt.Close()
	for _, line := range []string{"GET /status.json HTTP/1.1", "GET /recording", "HEAD / HTTP/1.0", "POST /status.json HTTP/1.1", "POST /settings/log_level/debug HTTP/1.1", "POST /settings/", "GET", ""} {
		f.Add([]byte(line + "\r\nHost: localhost\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		ours, theirs := net.Pipe()
		go func() {
			defer ours.Close()
			rt.answer(ours)
		}()
		go func() {
			theirs.Write(request)
			theirs.Write([]byte("\r\n\r\n")) // it may wait for the end of the header
		}()
		answer, _ := io.ReadAll(theirs)
		theirs.Close()
		if len(answer) > 0 && !regexp.MustCompile("^HTTP/1.0 (200|400|404|405) ").Match(answer) {
			t.Errorf("%q: got %.40q", request, answer)
		}
	})
}
