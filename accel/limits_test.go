package accel_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

// engines runs a test with each TCP.
func engines(t *testing.T, test func(t *testing.T, engine accel.Engine)) {
	for _, engine := range []accel.Engine{accel.EngineTPA, accel.EngineGVisor} {
		t.Run(engine.String(), func(t *testing.T) { test(t, engine) })
	}
}

// limited returns a client and a server with limits, joined in memory.
func limited(t *testing.T, engine accel.Engine, clientLimits, serverLimits accel.Limits) (client, server *accel.Runtime) {
	t.Helper()
	cd, sd, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, cd, sd)
	start := func(d *memory.Device, addr string, l accel.Limits) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Limits: l, TCP: accel.TCP{Engine: engine},
			Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	return start(cd, "10.0.0.1/24", clientLimits), start(sd, "10.0.0.2/24", serverLimits)
}

// TestAllowFrom: on a device without a filter of its own, the shards refuse other sources.
func TestAllowFrom(t *testing.T) {
	engines(t, func(t *testing.T, engine accel.Engine) {
		cd, sd, err := memory.Pair(memory.Options{})
		if err != nil {
			t.Fatal(err)
		}
		leak.Check(t, cd, sd)
		start := func(d *memory.Device, allow []netip.Prefix, addrs ...string) *accel.Runtime {
			c := accel.Config{
				Link: d, AllowFrom: allow, TCP: accel.TCP{Engine: engine},
				Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
			}
			for _, a := range addrs {
				c.Addrs = append(c.Addrs, netip.MustParsePrefix(a))
			}
			rt, err := accel.New(c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { rt.Close() })
			return rt
		}
		client := start(cd, nil, "10.0.0.1/24", "10.0.0.3/24", "fd00::1/64", "fd00::3/64")
		server := start(sd, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/31"), netip.MustParsePrefix("fd00::/127")}, "10.0.0.2/24", "fd00::2/64")
		ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		for from, allowed := range map[string]bool{"10.0.0.1": true, "10.0.0.3": false, "fd00::1": true, "fd00::3": false} {
			to := "10.0.0.2:7000"
			if from[0] == 'f' {
				to = "[fd00::2]:7000"
			}
			d := accel.Dialer{Runtime: client, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
			if !allowed {
				d.Timeout = 200 * time.Millisecond
			}
			c, err := d.Dial("tcp", to)
			if err == nil {
				c.Close()
			}
			if (err == nil) != allowed {
				t.Errorf("from %s: %v, want allowed %v", from, err, allowed)
			}
		}
		if c, err := (&accel.Dialer{Runtime: server, Timeout: 5 * time.Second}).Dial("tcp", "10.0.0.2:7000"); err != nil {
			t.Errorf("from the program itself: %v", err)
		} else {
			c.Close()
		}
		if n := server.Stats().Shards[0].Limits.RefusedSource; n < 2 {
			t.Errorf("%d SYNs are counted, want 2 at least", n)
		}
	})
}

// serve gives each connection to handle, in a goroutine of its own.
func serve(t *testing.T, rt *accel.Runtime, lc accel.ListenConfig, handle func(net.Conn)) string {
	t.Helper()
	lc.Runtime = rt
	ln, err := lc.Listen(t.Context(), "tcp", "10.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go handle(c)
		}
	}()
	return ln.Addr().String()
}

func dial(t *testing.T, rt *accel.Runtime, addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	c, err := (&accel.Dialer{Runtime: rt}).DialContext(ctx, "tcp", addr)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestConnectionLimit(t *testing.T) { engines(t, connectionLimit) }

func connectionLimit(t *testing.T, engine accel.Engine) {
	const limit = 4
	client, server := limited(t, engine, accel.Limits{}, accel.Limits{Connections: limit})
	addr := serve(t, server, accel.ListenConfig{}, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	var conns []net.Conn
	for range limit {
		c, err := dial(t, client, addr, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if _, err := dial(t, client, addr, 100*time.Millisecond); err == nil {
		t.Error("one more than the limit came in")
	}
	if n := server.Stats().Shards[0].Limits.RefusedConnections; n == 0 {
		t.Error("no SYN was counted as refused")
	}
	// The client closes first, so the server keeps nothing in TIME-WAIT.
	conns[0].Close()
	if _, err := dial(t, client, addr, 30*time.Second); err != nil {
		t.Errorf("after a connection ended: %v", err)
	}
}

func TestDialLimit(t *testing.T) { engines(t, dialLimit) }

func dialLimit(t *testing.T, engine accel.Engine) {
	client, server := limited(t, engine, accel.Limits{Connections: 1}, accel.Limits{})
	addr := serve(t, server, accel.ListenConfig{}, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	if _, err := dial(t, client, addr, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	_, err := dial(t, client, addr, 30*time.Second)
	var op *net.OpError
	if !errors.Is(err, syscall.ENOBUFS) || !errors.As(err, &op) {
		t.Errorf("got %v, want a *net.OpError that is ENOBUFS", err)
	}
}

// TestMemoryLimit has peers send what the server does not read.
func TestMemoryLimit(t *testing.T) { engines(t, memoryLimit) }

func memoryLimit(t *testing.T, engine accel.Engine) {
	const memory, peers = 16 << 20, 48
	release := make(chan struct{})
	client, server := limited(t, engine, accel.Limits{}, accel.Limits{Memory: memory})
	addr := serve(t, server, accel.ListenConfig{}, func(c net.Conn) { <-release; c.Close() })
	var conns [peers]net.Conn
	for i := range conns {
		var err error
		if conns[i], err = dial(t, client, addr, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	var writers sync.WaitGroup
	for _, c := range conns {
		writers.Go(func() {
			c.SetWriteDeadline(time.Now().Add(2 * time.Second))
			io.Copy(c, zeros{})
		})
	}
	limits := func() accel.ShardStats { return server.Stats().Shards[0] }
	eventually(t, "memory is found to be short", func() bool { return limits().Limits.Cut > 0 })
	writers.Wait()
	// Nobody writes any more. What is held must be under the limit by the next
	// census, and no connection may come in while more than three quarters are used.
	eventually(t, "the buffers are under the limit", func() bool {
		c := limits().Limits.Census
		return c.ReceiveBytes+c.SendBytes <= memory
	})
	if c := limits().Limits.Census; c.ReceiveBytes > memory/4*3 {
		if _, err := dial(t, client, addr, 50*time.Millisecond); err == nil && limits().Limits.RefusedMemory == 0 {
			t.Errorf("a connection came in with %d bytes of %d held", c.ReceiveBytes, memory)
		}
	}
	close(release)
	eventually(t, "connections come in again", func() bool {
		_, err := dial(t, client, addr, 100*time.Millisecond)
		return err == nil
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestServerSpeaksFirst has more clients than the accept queue holds wait for the
// server's first word, most of them let in by SYN cookies: a client whose last
// segment of the handshake is lost never says anything again.
func TestServerSpeaksFirst(t *testing.T) { engines(t, serverSpeaksFirst) }

func serverSpeaksFirst(t *testing.T, engine accel.Engine) {
	const clients, backlog = 64, 16
	client, server := limited(t, engine, accel.Limits{}, accel.Limits{HalfOpen: 1})
	lc := accel.ListenConfig{Runtime: server, Backlog: backlog}
	ln, err := lc.Listen(t.Context(), "tcp", "10.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c, err := dial(t, client, ln.Addr().String(), time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if got, err := io.ReadAll(c); string(got) != "hello" {
				t.Errorf("read %q, %v; want hello", got, err)
			}
		})
	}
	// The queue is full before the first is let in.
	stats := func() accel.ShardStats { return server.Stats().Shards[0] }
	eventually(t, "the accept queue is full", func() bool { return server.Stats().Listeners[0].Queues[0].Waiting >= backlog })
	ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(time.Minute))
	for i := range clients {
		c, err := ln.Accept()
		if err != nil {
			t.Errorf("after %d of %d: %v; %+v", i, clients, err, stats().Limits)
			break
		}
		io.WriteString(c, "hello")
		c.Close()
	}
	wg.Wait()
	if s := stats(); s.TCP.CookiesValid == 0 || s.TCP.OverflowACKs > 0 {
		t.Errorf("%d cookies came back, of which %d found the queue full; want some and none",
			s.TCP.CookiesValid, s.TCP.OverflowACKs)
	}
}

// TestTimeWaitLimit closes connections at the server, which leaves it in
// TIME-WAIT.
func TestTimeWaitLimit(t *testing.T) { engines(t, timeWaitLimit) }

func timeWaitLimit(t *testing.T, engine accel.Engine) {
	const limit = 8
	client, server := limited(t, engine, accel.Limits{}, accel.Limits{TimeWait: limit})
	addr := serve(t, server, accel.ListenConfig{}, func(c net.Conn) { c.Close() })
	handshake := func() {
		c, err := dial(t, client, addr, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, c)
		c.Close()
	}
	waits := func() int { return server.Stats().Shards[0].Limits.Census.TimeWait }
	eventually(t, "the limit is reached", func() bool { handshake(); return waits() >= limit })
	before := waits()
	for range limit {
		handshake()
	}
	// Those wait for a second instead of a minute.
	eventually(t, "the last ones are gone", func() bool { handshake(); return waits() <= before+limit })
}
