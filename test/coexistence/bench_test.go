package coexistence

import (
	"fmt"
	"net"
	"testing"

	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// BenchmarkPassing is what the filter costs the kernel's own traffic: requests of
// one kernel connection between two hosts, with and without a filter that passes
// them. Compare the four on the same machine in the same minute.
func BenchmarkPassing(b *testing.B) {
	for _, filter := range []string{"none", "generic", "native", "ingress"} {
		b.Run(filter, func(b *testing.B) {
			testnet.Need(b, testnet.Root)
			n := testnet.New(b)
			client, server := n.Host("client"), n.Host("server")
			_, si := n.Connect(client, server, testnet.Wire{})
			switch filter {
			case "none":
			case "ingress":
				var dev *packet.Device
				var err error
				server.Do(func() { dev, err = packet.Open(packet.Config{Interface: si.Name}) })
				if err != nil {
					b.Fatal(err)
				}
				defer dev.Close()
				if err := dev.Filter().Claim(si.IPv4.Addr(), port, 1); err != nil {
					b.Fatal(err)
				}
			default:
				cfg := xdp.Config{Interface: si.Name, Attach: xdp.AttachNative}
				if filter == "generic" {
					cfg.Attach = xdp.AttachGeneric
				}
				var dev *xdp.Device
				var err error
				server.Do(func() { dev, err = xdp.Open(cfg) })
				if err != nil {
					b.Fatal(err)
				}
				defer dev.Close()
				if err := dev.Filter().Claim(si.IPv4.Addr(), port, 1); err != nil {
					b.Fatal(err)
				}
			}
			var ln net.Listener
			var err error
			server.Do(func() { ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port+1)) })
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
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
			addr, _ := at(si, port+1)
			c, err := dial(client, addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := echo(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
