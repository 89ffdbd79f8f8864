package accel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

const testTimeout = 30 * time.Second

// serveOrigin answers each connection with its origin until ln is closed.
func serveOrigin(t *testing.T, ln net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v", err)
				}
				return
			}
			io.WriteString(c, tpanet.OriginOf(c).String())
			c.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// inside is package net's dial in a host.
func inside(h *testnet.Host) dialFunc {
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		h.Do(func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
		return c, err
	}
}

func ask(t *testing.T, dial dialFunc, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// listenIn listens inside a host.
func listenIn(t *testing.T, h *testnet.Host, lc accel.ListenConfig, address string) net.Listener {
	t.Helper()
	var ln net.Listener
	var err error
	h.Do(func() { ln, err = lc.Listen(context.Background(), "tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// TestKernelShared serves remote clients on a shared interface, those on another
// network, and those on the same host, from one listener, again and again.
func TestKernelShared(t *testing.T) {
	n := testnet.New(t)
	server, remote, other := n.Host("server"), n.Host("remote"), n.Host("other")
	si, _ := n.Connect(server, remote, testnet.Wire{})
	so, _ := n.Connect(server, other, testnet.Wire{})
	leak.Check(t)
	var rt *accel.Runtime
	var err error
	server.Do(func() {
		rt, err = accel.New(accel.Config{Device: si.Name, Kernel: true, Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler)})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	own := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		server.Do(func() { c, err = (&accel.Dialer{Runtime: rt}).DialContext(ctx, network, address) })
		return c, err
	}
	port := "0"
	for round := range 3 {
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
			ln := listenIn(t, server, accel.ListenConfig{Runtime: rt}, ":"+port)
			serveOrigin(t, ln)
			_, port, _ = net.SplitHostPort(ln.Addr().String())
			for _, tt := range []struct {
				client string
				dial   dialFunc
				host   string
				want   tpanet.Origin
			}{
				{"remote", inside(remote), si.IPv4.Addr().String(), tpanet.Accelerated},
				{"remote", inside(remote), si.IPv6.Addr().String(), tpanet.Accelerated},
				{"another network's", inside(other), so.IPv4.Addr().String(), tpanet.Kernel},
				{"same host's", inside(server), "127.0.0.1", tpanet.Kernel},
				{"same host's", inside(server), "::1", tpanet.Kernel},
				{"same host's", inside(server), si.IPv4.Addr().String(), tpanet.Kernel},
				{"same runtime's", own, "127.0.0.1", tpanet.Kernel},
				{"same runtime's", own, si.IPv4.Addr().String(), tpanet.Kernel},
			} {
				if got := ask(t, tt.dial, net.JoinHostPort(tt.host, port)); got != tt.want.String() {
					t.Errorf("the %s client to %s: %s, want %s", tt.client, tt.host, got, tt.want)
				}
			}
			if _, err := (&accel.ListenConfig{Runtime: rt}).Listen(t.Context(), "tcp", ":"+port); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a second listener: %v, want %v", err, syscall.EADDRINUSE)
			}
			ln.Close()
			if got := ask(t, inside(server), net.JoinHostPort("127.0.0.1", port)); !strings.Contains(got, "refused") {
				t.Errorf("after close: %s, want a refusal", got)
			}
		})
	}
}

// TestKernelOwnDevice does the same where the kernel has other addresses.
func TestKernelOwnDevice(t *testing.T) {
	host := testnet.New(t).Host("server")
	client, server := newPair(t, memory.Options{}, accel.Config{})
	lc := accel.ListenConfig{Runtime: server, Kernel: true}
	ln := listenIn(t, host, lc, ":0")
	serveOrigin(t, ln)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	own := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		host.Do(func() { c, err = (&accel.Dialer{Runtime: server}).DialContext(ctx, network, address) })
		return c, err
	}
	for _, tt := range []struct {
		client string
		dial   dialFunc
		host   string
		want   tpanet.Origin
	}{
		{"remote", (&accel.Dialer{Runtime: client}).DialContext, "10.0.0.2", tpanet.Accelerated},
		{"remote", (&accel.Dialer{Runtime: client}).DialContext, "fd00::2", tpanet.Accelerated},
		{"same host's", inside(host), "127.0.0.1", tpanet.Kernel},
		{"same host's", inside(host), "::1", tpanet.Kernel},
		{"same runtime's", own, "127.0.0.1", tpanet.Kernel},
		{"same runtime's", own, "10.0.0.2", tpanet.Accelerated},
	} {
		if got := ask(t, tt.dial, net.JoinHostPort(tt.host, port)); got != tt.want.String() {
			t.Errorf("the %s client to %s: %s, want %s", tt.client, tt.host, got, tt.want)
		}
	}
	host.Do(func() {
		if _, err := net.Listen("tcp", ":"+port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("the kernel's port: %v, want %v", err, syscall.EADDRINUSE)
		}
		_, err := lc.Listen(t.Context(), "tcp", "10.0.0.2:80")
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), `":80"`) {
			t.Errorf("an address that the kernel has not: %v, want %v and what to do", err, syscall.EADDRNOTAVAIL)
		}
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, port, _ := net.SplitHostPort(taken.Addr().String())
		if _, err := lc.Listen(t.Context(), "tcp", ":"+port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that the kernel has given away: %v, want %v", err, syscall.EADDRINUSE)
		}
		taken.Close()
		again, err := lc.Listen(t.Context(), "tcp", ":"+port)
		if err != nil {
			t.Fatalf("nothing must stay of listeners that failed: %v", err)
		}
		again.Close()
	})
	server.Close() // ends both sides
	if got := ask(t, inside(host), net.JoinHostPort("127.0.0.1", port)); !strings.Contains(got, "refused") {
		t.Errorf("the kernel's side of a closed runtime: %s, want a refusal", got)
	}
}

// TestDialOwnHost dials addresses of the runtime's own host, whose listener the
// kernel knows nothing of.
func TestDialOwnHost(t *testing.T) {
	_, server := newPair(t, memory.Options{Queues: 2}, accel.Config{})
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	serveOrigin(t, ln)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost", "10.0.0.2", "fd00::2"} {
		if got := ask(t, (&accel.Dialer{Runtime: server}).DialContext, net.JoinHostPort(host, port)); got != "accelerated" {
			t.Errorf("dial %q: %s, want an accelerated connection", host, got)
		}
	}
	if got := ask(t, (&accel.Dialer{Runtime: server}).DialContext, "10.0.0.2:1"); !strings.Contains(got, "refused") {
		t.Errorf("dial a port without a listener: %s, want a refusal", got)
	}
	// What the kernel serves on this host is reached through the kernel.
	kernel, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOrigin(t, kernel)
	if got := ask(t, (&accel.Dialer{Runtime: server}).DialContext, kernel.Addr().String()); got != "kernel" {
		t.Errorf("dial the kernel's listener: %s", got)
	}
}
