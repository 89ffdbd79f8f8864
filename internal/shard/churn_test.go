package shard

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link/memory"
)

// TestChurn opens and closes many connections, of both ends by turns: neither
// endpoints nor what TIME-WAIT keeps of them are left.
func TestChurn(t *testing.T) {
	a, b := newPair(t, memory.Options{}, TCP{})
	wait := tcpip.TCPTimeWaitTimeoutOption(100 * time.Millisecond)
	for _, s := range []*Shard{a, b} {
		s.stack.SetTransportProtocolOption(header.TCPProtocolNumber, &wait)
	}
	ln, err := transport.Listen([]transport.Stack{b}, &net.TCPAddr{Port: 80}, "tcp", transport.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const conns = 10_000
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	to := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80}
	buf := make([]byte, 64)
	for i := range conns {
		c, err := transport.Dial(context.Background(), a, nil, to, "tcp", transport.DialOptions{})
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c)
		}
		c.Close()
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := 0
		for _, s := range []*Shard{a, b} {
			left += s.engine.TimeWaits() + s.engine.Flows()
			for ep := range s.engine.Endpoints() {
				if id, _ := s.engine.ID(ep); id.RemotePort != 0 {
					left++
				}
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections and waits are left of %d", left, conns)
		}
	}
}

// BenchmarkChurn is what a connection costs both ends: handshake, one exchange, close.
func BenchmarkChurn(bench *testing.B) {
	a, b := newPair(bench, memory.Options{}, TCP{})
	ln, err := transport.Listen([]transport.Stack{b}, &net.TCPAddr{Port: 80}, "tcp", transport.ListenOptions{})
	if err != nil {
		bench.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						break
					}
					c.Write(buf[:n])
				}
				c.Close()
			}()
		}
	}()
	to := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80}
	buf := make([]byte, 64)
	bench.ReportAllocs()
	for bench.Loop() {
		c, err := transport.Dial(context.Background(), a, nil, to, "tcp", transport.DialOptions{})
		if err != nil {
			bench.Fatal(err)
		}
		c.Write(buf)
		io.ReadFull(c, buf)
		c.Close()
	}
}
