package coexistence

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// BenchmarkPassing is what the filter costs the kernel's own traffic: requests of
// one kernel connection between two hosts, in rounds with a filter that passes
// them and rounds with none in turn. It reports the medians of both, and by how
// many percent of it the filter lessens the rate of requests.
func BenchmarkPassing(b *testing.B) {
	attach := func(mode xdp.Attach) func(string) (io.Closer, link.Filter, error) {
		return func(name string) (io.Closer, link.Filter, error) {
			dev, err := xdp.Open(xdp.Config{Interface: name, Attach: mode})
			if err != nil {
				return nil, nil, err
			}
			sharing, _ := dev.Sharing()
			return dev, sharing.Filter, nil
		}
	}
	for _, tt := range []struct {
		name string
		open func(string) (io.Closer, link.Filter, error)
	}{
		{"generic", attach(xdp.AttachGeneric)},
		{"native", attach(xdp.AttachNative)},
		{"ingress", func(name string) (io.Closer, link.Filter, error) {
			dev, err := packet.Open(packet.Config{Interface: name})
			if err != nil {
				return nil, nil, err
			}
			sharing, _ := dev.Sharing()
			return dev, sharing.Filter, nil
		}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			testnet.Need(b, testnet.Root)
			n := testnet.New(b)
			client, server := n.Host("client"), n.Host("server")
			_, si := n.Connect(client, server, testnet.Wire{})
			c := connect(b, client, server, netip.AddrPortFrom(si.IPv4.Addr(), port+1).String())
			round := func() time.Duration {
				const requests = 5000
				start := time.Now()
				for range requests {
					if err := echo(c); err != nil {
						b.Fatal(err)
					}
				}
				return time.Since(start) / requests
			}
			round()
			var without, with []time.Duration
			for b.Loop() {
				without = append(without, round())
				var dev io.Closer
				var filter link.Filter
				var err error
				server.Do(func() { dev, filter, err = tt.open(si.Name) })
				if err != nil {
					b.Fatal(err)
				}
				if err := filter.Claim(si.IPv4.Addr(), port, 1); err != nil {
					b.Fatal(err)
				}
				with = append(with, round())
				if err := dev.Close(); err != nil {
					b.Fatal(err)
				}
			}
			slices.Sort(without)
			slices.Sort(with)
			none, passing := without[len(without)/2], with[len(with)/2]
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(none.Nanoseconds()), "ns/request-without")
			b.ReportMetric(float64(passing.Nanoseconds()), "ns/request-with")
			b.ReportMetric(100*(1-float64(none)/float64(passing)), "%-less")
		})
	}
}

// connect returns a connection from one host to an echo server of the kernel's on
// the other.
func connect(b *testing.B, from, to *testnet.Host, addr string) net.Conn {
	b.Helper()
	var ln net.Listener
	var err error
	to.Do(func() { ln, err = net.Listen("tcp", addr) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			c.Write(buf[:n])
		}
	}()
	c, err := dial(from, addr)
	if err != nil {
		b.Fatal(fmt.Errorf("connect to the kernel's server: %w", err))
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkFirstDial is a program's first connection to another host, from the start of
// its runtime on.
func BenchmarkFirstDial(b *testing.B) {
	for _, dev := range []string{"kernel", "xdp:", "packet:"} {
		b.Run(dev, func(b *testing.B) {
			testnet.Need(b, testnet.Root)
			n := testnet.New(b)
			client, server := n.Host("client"), n.Host("server")
			ci, si := n.Connect(client, server, testnet.Wire{})
			addr := netip.AddrPortFrom(si.IPv4.Addr(), port).String()
			var ln net.Listener
			server.Do(func() {
				var err error
				if ln, err = net.Listen("tcp", addr); err != nil {
					b.Fatal(err)
				}
			})
			b.Cleanup(func() { ln.Close() })
			go echoserver.Run(ln)
			client.Do(func() {
				for b.Loop() {
					if dev == "kernel" {
						c, err := net.Dial("tcp", addr)
						if err != nil {
							b.Fatal(err)
						}
						c.Close()
						continue
					}
					rt, err := accel.New(accel.Config{Device: dev + ci.Name, Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler)})
					if err != nil {
						b.Fatal(err)
					}
					c, err := (&accel.Dialer{Runtime: rt}).DialContext(b.Context(), "tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					c.Close()
					rt.Close()
					b.StartTimer()
				}
			})
		})
	}
}
