// Http serves a page with net/http. One line differs from a server on the
// kernel's TCP.
//
//	go run ./examples/http                      # through the kernel, and says so
//	go build -tags dpdk ./examples/http
//	TPA_DEV=0000:3b:00.0 TPA_ADDR=10.0.0.2/24 ./http
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/gotpa/tpa/accel"
)

func main() {
	addr := flag.String("addr", ":8080", "where to listen")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	ln, err := accel.Listen("tcp", *addr) // was net.Listen
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving http://%v", ln.Addr())
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s\n", r.RemoteAddr)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
	}()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-ended // requests under way have their answers
	if rt := accel.SetDefault(nil); rt != nil {
		rt.Close() // gives the device back and removes the debug socket
	}
}
