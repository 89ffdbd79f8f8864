package accel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

// newPair returns two runtimes wired to each other: .1 and .2 of 10.0.0.0/24
// and fd00::/64.
func newPair(t testing.TB, o memory.Options, c accel.Config) (a, b *accel.Runtime) {
	t.Helper()
	da, db, err := memory.Pair(o)
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, da, db)
	make := func(d *memory.Device, last string) *accel.Runtime {
		c := c
		c.Link, c.Fallback = d, accel.FallbackNever
		c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0." + last + "/24"), netip.MustParsePrefix("fd00::" + last + "/64")}
		c.Logger = slog.New(slog.DiscardHandler)
		rt, err := accel.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	return make(da, "1"), make(db, "2")
}

func TestHTTP(t *testing.T) {
	for _, queues := range []int{1, 3} {
		for _, host := range []string{"10.0.0.2", "[fd00::2]"} {
			t.Run(fmt.Sprintf("%s %d queues", host, queues), func(t *testing.T) {
				client, server := newPair(t, memory.Options{Queues: queues}, accel.Config{})
				ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":80")
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(w, r.Body)
				})}
				go srv.Serve(ln)
				d := accel.Dialer{Runtime: client}
				tr := &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 8}
				c := http.Client{Transport: tr, Timeout: 20 * time.Second}
				want := bytes.Repeat([]byte("accelerated "), 100_000)
				for range 8 {
					resp, err := c.Post("http://"+host+"/", "text/plain", bytes.NewReader(want))
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
					}
					tr.CloseIdleConnections()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := srv.Shutdown(ctx); err != nil {
					t.Errorf("shutdown: %v", err)
				}
				if s := client.Stats(); s.Dials.OK == 0 || !s.Accelerated || !s.LinkUp {
					t.Errorf("stats: %+v", s.Dials)
				}
			})
		}
	}
}

func TestFallback(t *testing.T) {
	t.Run("never", func(t *testing.T) {
		_, err := accel.New(accel.Config{Fallback: accel.FallbackNever})
		if !errors.Is(err, accel.ErrNoDevice) {
			t.Errorf("got %v, want %v", err, accel.ErrNoDevice)
		}
	})
	for name, c := range map[string]accel.Config{
		"no device":      {},
		"unknown device": {Device: "carrier pigeon"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			leak.Check(t)
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			rt, err := accel.New(c)
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close()
			ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				c, err := ln.Accept()
				if err == nil {
					io.Copy(c, c)
					c.Close()
				}
			}()
			conn, err := (&accel.Dialer{Runtime: rt}).Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			s := rt.Stats()
			if s.Accelerated || s.Reason == nil || s.FallbackListens != 1 || s.FallbackDials != 1 {
				t.Errorf("got %+v, want one listen and one dial through the kernel, with a reason", s)
			}
			if !strings.Contains(log.String(), "kernel") {
				t.Errorf("the fallback was not logged: %q", log.String())
			}
		})
	}
}

func TestClosedRuntime(t *testing.T) {
	client, server := newPair(t, memory.Options{}, accel.Config{})
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { _, err := ln.Accept(); accepted <- err }()
	if err := server.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed runtime: got %v, want net.ErrClosed", err)
	}
	if _, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen on a closed runtime: got %v, want net.ErrClosed", err)
	}
	client.Close()
	if _, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.2:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial on a closed runtime: got %v, want net.ErrClosed", err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
