// Grpc serves gRPC's health service, or asks a server for its health. Both sides
// use accel: the server by its listener, the client by its dialer.
//
//	go run ./examples/grpc
//	go run ./examples/grpc -ask localhost:50051
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gotpa/tpa/accel"
)

func main() {
	addr := flag.String("addr", ":50051", "where to listen")
	ask := flag.String("ask", "", "ask the server at this address, and do not serve")
	flag.Parse()
	if *ask != "" {
		check(*ask)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	ln, err := accel.Listen("tcp", *addr) // was net.Listen
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	log.Printf("serving %v", ln.Addr())
	defer context.AfterFunc(ctx, srv.GracefulStop)()
	if err := srv.Serve(ln); err != nil {
		log.Fatal(err)
	}
	if rt := accel.SetDefault(nil); rt != nil {
		rt.Close() // gives the device back and removes the debug socket
	}
}

func check(addr string) {
	var d accel.Dialer
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("%s is %v", addr, r.Status)
}
