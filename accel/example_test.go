package accel_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// exampleRuntimes are two hosts joined by a wire in memory, in place of a network
// device: 10.0.0.1 and 10.0.0.2.
func exampleRuntimes() (server, client *accel.Runtime) {
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

// A server of net/http and its client, each on a runtime of its own.
func Example() {
	server, client := exampleRuntimes()
	defer server.Close()
	defer client.Close()

	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(context.Background(), "tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s", r.URL.Path[1:])
	}))

	transport := &http.Transport{DialContext: (&accel.Dialer{Runtime: client}).DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://10.0.0.1/gopher")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: hello, gopher <nil>
}

// One listener for clients on the network and for those on the same host.
func ExampleListenConfig_kernel() {
	server, client := exampleRuntimes()
	defer server.Close()
	defer client.Close()

	lc := accel.ListenConfig{Runtime: server, Kernel: true}
	ln, err := lc.Listen(context.Background(), "tcp", ":0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())

	go func() {
		remote, err := (&accel.Dialer{Runtime: client}).Dial("tcp", net.JoinHostPort("10.0.0.1", port))
		if err != nil {
			log.Fatal(err)
		}
		remote.Close()
	}()
	c, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	c.Close()
	fmt.Println("over the network:", tpanet.OriginOf(c))

	go func() {
		local, err := net.Dial("tcp", net.JoinHostPort("localhost", port))
		if err != nil {
			log.Fatal(err)
		}
		local.Close()
	}()
	if c, err = ln.Accept(); err != nil {
		log.Fatal(err)
	}
	c.Close()
	fmt.Println("on the same host:", tpanet.OriginOf(c))
	// Output:
	// over the network: accelerated
	// on the same host: kernel
}

// A program with a configuration of its own. This one has no device, and so serves
// through the kernel.
func ExampleNew() {
	rt, err := accel.New(accel.Config{
		Device:   "", // such as "eth0"
		Fallback: accel.FallbackAuto,
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	ln, err := (&accel.ListenConfig{Runtime: rt}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	ok, why := rt.Accelerated()
	fmt.Println(ok, why)
	// Output: false no device is configured: set TPA_DEV or Config.Device
}

// A loop of Accept for each shard, which shares nothing with the others.
func ExampleListenConfig_PerShard() {
	server, client := exampleRuntimes()
	defer server.Close()
	defer client.Close()

	lc := accel.ListenConfig{Runtime: server}
	listeners, err := lc.PerShard(context.Background(), "tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	for shard, ln := range listeners {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "shard %d", shard)
				c.Close()
			}
		}()
	}

	c, err := (&accel.Dialer{Runtime: client}).Dial("tcp", "10.0.0.1:7")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	greeting, err := io.ReadAll(c)
	fmt.Printf("%s %v\n", greeting, err)
	for _, ln := range listeners {
		ln.Close()
	}
	// Output: shard 0 <nil>
}

// A dial that takes too long is told as package net tells it.
func ExampleDialer() {
	server, client := exampleRuntimes()
	defer server.Close()
	defer client.Close()

	d := accel.Dialer{Runtime: client, Timeout: 50 * time.Millisecond}
	_, err := d.Dial("tcp", "10.0.0.9:80") // no such host
	fmt.Println(err)
	fmt.Println("timeout:", err.(net.Error).Timeout())
	// Output:
	// dial tcp 10.0.0.9:80: i/o timeout
	// timeout: true
}
