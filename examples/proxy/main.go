// Proxy forwards TCP connections to a backend, both ways. It keeps half-closed
// connections half open, as protocols such as HTTP/1.0 and PostgreSQL's COPY
// expect.
//
//	go run ./examples/proxy -addr :5433 -backend 127.0.0.1:5432
//
// Clients arrive through accel. The backend is dialled through the kernel, for it
// is often on this host; -accel-backend dials it through accel.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"
	"os/signal"
	"sync"
	"syscall"

	"github.com/gotpa/tpa/accel"
)

func main() {
	addr := flag.String("addr", ":5433", "where to listen")
	backend := flag.String("backend", "127.0.0.1:5432", "where to forward to")
	accelerated := flag.Bool("accel-backend", false, "dial the backend through accel")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	dial := net.Dial
	if *accelerated {
		dial = accel.Dial
	}
	ln, err := accel.Listen("tcp", *addr) // was net.Listen
	if err != nil {
		log.Fatal(err)
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	log.Printf("forwarding %v to %s", ln.Addr(), *backend)
	for {
		client, err := ln.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer client.Close()
			server, err := dial("tcp", *backend)
			if err != nil {
				log.Print(err)
				return
			}
			defer server.Close()
			var both sync.WaitGroup
			both.Go(func() { forward(server, client) })
			both.Go(func() { forward(client, server) })
			both.Wait()
		}()
	}
	if rt := accel.SetDefault(nil); rt != nil {
		rt.Close() // gives the device back and removes the debug socket
	}
}

// forward copies until src ends, and then ends that half of dst.
func forward(dst, src net.Conn) {
	io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
