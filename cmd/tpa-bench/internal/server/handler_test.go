package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
)

// TestHandlers asks servers in the poller, and in goroutines, for more than the
// buffers hold.
func TestHandlers(t *testing.T) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	host := func(d *memory.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Fallback: accel.FallbackNever,
			Logger: slog.New(slog.DiscardHandler), DebugSocket: "off",
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	server, client := host(a, "10.0.0.1/24"), host(b, "10.0.0.2/24")
	const gets, size = 2000, 10_000
	value := strings.Repeat("v", size)
	request := func(args ...string) string {
		text := fmt.Sprintf("*%d\r\n", len(args))
		for _, a := range args {
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
		}
		return text
	}
	bulk := fmt.Sprintf("$%d\r\n%s\r\n", size, value)
	for _, tt := range []struct{ protocol, send, want string }{
		{"echo", strings.Repeat(value, gets), strings.Repeat(value, gets)},
		{"resp", request("SET", "k", value) + strings.Repeat(request("GET", "k"), gets) + request("QUIT"), "+OK\r\n" + strings.Repeat(bulk, gets) + "+OK\r\n"},
		{"resp", "*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
	} {
		for _, handler := range Handlers {
			t.Run(tt.protocol+"/"+handler, func(t *testing.T) {
				serve, err := New(tt.protocol, handler)
				if err != nil {
					t.Fatal(err)
				}
				ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", "10.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- serve(ctx, ln) }()
				c, err := (&accel.Dialer{Runtime: client}).Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				go func() {
					io.WriteString(c, tt.send)
					if tt.protocol == "echo" {
						c.(interface{ CloseWrite() error }).CloseWrite()
					}
				}()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, []byte(tt.want)) {
					t.Errorf("got %d bytes, %v; want %d", len(got), err, len(tt.want))
				}
				// One that is open ends with the server.
				d, err := (&accel.Dialer{Runtime: client}).Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				d.SetDeadline(time.Now().Add(30 * time.Second))
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("serve: %v", err)
				}
				if _, err := d.Read(make([]byte, 1)); err == nil {
					t.Error("an open connection does not end with the server")
				}
			})
		}
	}
}
