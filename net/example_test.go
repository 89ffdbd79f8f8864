package tpanet_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// exampleHosts are two runtimes joined by a wire in memory, in place of a
// network device.
func exampleHosts() (server, client *accel.Runtime) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		log.Fatal(err)
	}
	start := func(d *memory.Device, addr string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)},
			Fallback: accel.FallbackNever, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			log.Fatal(err)
		}
		return rt
	}
	return start(a, "10.0.0.1/24"), start(b, "10.0.0.2/24")
}

// One server for clients on the network, over the device, and for those on its
// own machine, over the kernel's loopback.
func ExampleMerge() {
	server, client := exampleHosts()
	defer server.Close()
	defer client.Close()

	remote, err := (&accel.ListenConfig{Runtime: server}).Listen(context.Background(), "tcp", "10.0.0.1:6379")
	if err != nil {
		log.Fatal(err)
	}
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ln := tpanet.Merge(remote, local)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, tpanet.OriginOf(c))
			c.Close()
		}
	}()

	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.1:6379") },
		func() (net.Conn, error) { return net.Dial("tcp", local.Addr().String()) },
	} {
		c, err := dial()
		if err != nil {
			log.Fatal(err)
		}
		origin, err := io.ReadAll(c)
		if err != nil {
			log.Fatal(err)
		}
		c.Close()
		fmt.Printf("%s\n", origin)
	}
	// Output:
	// accelerated
	// kernel
}

// A connection tells about itself.
func ExampleConn_Info() {
	server, client := exampleHosts()
	defer server.Close()
	defer client.Close()

	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(context.Background(), "tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
		c.Close()
	}()

	c, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.1:7")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		log.Fatal(err)
	}
	info := c.(*tpanet.Conn).Info()
	fmt.Println("shard:", info.Shard)
	fmt.Println("written, read:", info.BytesWritten, info.BytesRead)
	fmt.Println("retransmits:", info.Retransmits)
	// Output:
	// shard: 0
	// written, read: 5 5
	// retransmits: 0
}

// Several buffers leave as one stream that fills whole segments.
func ExampleConn_WriteBuffers() {
	server, client := exampleHosts()
	defer server.Close()
	defer client.Close()

	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(context.Background(), "tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	c, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.1:7")
	if err != nil {
		log.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer accepted.Close()

	header, body := []byte("$5\r\n"), []byte("hello\r\n")
	n, err := c.(*tpanet.Conn).WriteBuffers(&net.Buffers{header, body})
	c.Close()
	if err != nil {
		log.Fatal(err)
	}
	got, err := io.ReadAll(accepted)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes: %q\n", n, got)
	// Output:
	// 11 bytes: "$5\r\nhello\r\n"
}
