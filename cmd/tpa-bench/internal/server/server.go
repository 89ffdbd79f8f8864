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
	tpanet "github.com/gotpa/tpa/net"
)

// Protocols lists what New takes.
var Protocols = []string{"resp", "echo", "discard", "digest", "http"}

// closeTimeout is how long Serve waits for connections that it has closed.
const closeTimeout = 2 * time.Second

// Handlers are the ways to run the code of a connection: in a goroutine, or in the
// poller of its shard as a coroutine or by callbacks.
var Handlers = []string{"goroutine", "coroutine", "callback"}

// New returns the handler of a protocol. Its connections are handled in one of the
// Handlers' ways.
func New(protocol, handler string) (Handler, error) {
	if !slices.Contains(Handlers, handler) {
		return nil, fmt.Errorf("unknown handler %q: want one of %s", handler, strings.Join(Handlers, ", "))
	}
	var serve func(net.Conn) error
	var open func(*tpanet.CallbackConn) tpanet.Callbacks
	switch protocol {
	case "resp":
		store := redis.NewStore()
		serve, open = store.Serve, store.Open
	case "echo":
		serve, open = echo, openEcho
	case "discard":
		serve = discard
	case "digest":
		serve = digest
	case "http":
		if handler != "goroutine" {
			return nil, fmt.Errorf("protocol http has goroutines of its own: want handler goroutine, not %s", handler)
		}
		return web, nil
	default:
		return nil, fmt.Errorf("unknown protocol %q: want one of %s", protocol, strings.Join(Protocols, ", "))
	}
	switch {
	case handler == "coroutine":
		return inPoller(&tpanet.Server{Handler: func(c net.Conn) { ended(c, serve(c)) }}), nil
	case handler == "callback" && open == nil:
		return nil, fmt.Errorf("protocol %s has no callbacks: want resp or echo", protocol)
	case handler == "callback":
		return inPoller(&tpanet.Server{Open: open}), nil
	}
	return perConn(serve), nil
}

// ended notes why a connection ended, if not in order.
func ended(c net.Conn, err error) {
	if err != nil {
		slog.Debug("connection ended", "peer", c.RemoteAddr(), "error", err)
	}
}

// inPoller makes a Handler of a server in the pollers.
func inPoller(s *tpanet.Server) Handler {
	return func(ctx context.Context, ln net.Listener) error {
		defer context.AfterFunc(ctx, func() { s.Close() })()
		err := s.Serve(ln)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		s.Close()
		if s.Shutdown(limit) != nil {
			slog.Warn("connections did not end in time", "timeout", closeTimeout)
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
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
				ended(conn, serve(conn))
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
