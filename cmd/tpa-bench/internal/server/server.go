package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/redis"
)

// Protocols lists what New takes.
var Protocols = []string{"resp", "echo", "discard", "digest", "http"}

// closeTimeout is how long Serve waits for connections that it has closed.
const closeTimeout = 2 * time.Second

// New returns the handler of a protocol.
func New(protocol string) (Handler, error) {
	switch protocol {
	case "resp":
		return perConn(redis.NewStore().Serve), nil
	case "echo":
		return perConn(echo), nil
	case "discard":
		return perConn(discard), nil
	case "digest":
		return perConn(digest), nil
	case "http":
		return web, nil
	}
	return nil, fmt.Errorf("unknown protocol %q: want one of %s", protocol, strings.Join(Protocols, ", "))
}

// Handler serves a listener until ctx is done, then closes the listener and all
// connections. It returns nil when ctx ended it.
type Handler func(ctx context.Context, ln net.Listener) error

// perConn makes a Handler that runs serve in one goroutine per connection.
// serve closes the connection.
func perConn(serve func(net.Conn) error) Handler {
	return func(ctx context.Context, ln net.Listener) error {
		var s conns
		defer s.close()
		defer context.AfterFunc(ctx, func() { ln.Close() })()
		pause := time.Millisecond
		for {
			conn, err := ln.Accept()
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				if errors.Is(err, net.ErrClosed) {
					return err
				}
				// Such as too many open files: it passes.
				slog.Warn("accept", "error", err, "retry", pause)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
				pause = min(2*pause, time.Second)
				continue
			}
			pause = time.Millisecond
			s.add(conn)
			go func() {
				defer s.remove(conn)
				if err := serve(conn); err != nil {
					slog.Debug("connection ended", "peer", conn.RemoteAddr(), "error", err)
				}
			}()
		}
	}
}

// conns are the open connections of a server.
type conns struct {
	mu sync.Mutex
	// mu guards the following fields
	open map[net.Conn]struct{}

	wg sync.WaitGroup
}

func (s *conns) add(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[net.Conn]struct{})
	}
	s.open[c] = struct{}{}
	s.wg.Add(1)
}

func (s *conns) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.wg.Done()
}

// close closes the connections and waits for their goroutines, but not for ever.
func (s *conns) close() {
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		slog.Warn("connections did not end in time", "timeout", closeTimeout)
	}
}

// page is what the http protocol serves on every path.
var page = slices.Concat([]byte("tpa-bench\n"), slices.Repeat([]byte("."), 53), []byte("\n"))

func web(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
			w.Write(page)
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	err := srv.Serve(ln)
	if ctx.Err() != nil {
		return nil
	}
	return err
}
