package main

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/debug"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
	"github.com/gotpa/tpa/metrics"
)

// servePages serves metrics and status of an accelerated transport until stop is
// called.
func servePages(tr transport.Transport, addr string) (stop func(), err error) {
	a, ok := tr.(interface{ Runtime() *accel.Runtime })
	if !ok {
		return nil, usageError{errors.New("--http shows the accelerated side: want --transport accel")}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics.Handler(a.Runtime()))
	mux.Handle("/debug/tpa/", debug.Handler(a.Runtime(), debug.Options{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	return func() {
		srv.Close()
		<-done
	}, nil
}
