package tpanet

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Server serves connections in the pollers of their shards, without a goroutine
// that has to be woken for each request. One of its two fields must be set.
// Connections that the kernel accepted, and those of other listeners, have a
// goroutine each, with the same outcomes. All methods may be called by any
// goroutine.
type Server struct {
	// Handler runs for each connection, as Conn.Go runs it. Nobody closes the
	// connection when it returns.
	Handler func(net.Conn)
	// Open is called for each connection and returns the callbacks that handle it
	// from then on, as with Conn.Handle.
	Open func(*CallbackConn) Callbacks

	closing atomic.Bool
	handled atomic.Int64 // connections that handlers have
	// shards are the connections of each shard, by its number: shards share no lock.
	shards [16]serverConns

	// mu guards the following field.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
}

type serverConns struct {
	mu  sync.Mutex
	all map[net.Conn]struct{}
}

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("server closed")

// Serve accepts connections until ln is closed and returns Accept's error, or
// ErrServerClosed. One Server may serve several listeners.
func (s *Server) Serve(ln net.Listener) error {
	if (s.Handler == nil) == (s.Open == nil) {
		return errors.New("tpanet: Server needs either Handler or Open")
	}
	if !s.add(ln) {
		ln.Close()
		return ErrServerClosed
	}
	defer s.remove(ln)
	err := s.accept(ln)
	if s.closing.Load() {
		return ErrServerClosed
	}
	return err
}

func (s *Server) accept(ln net.Listener) error {
	if l, ok := ln.(interface{ AcceptFunc(func(*Conn)) error }); ok {
		return l.AcceptFunc(func(c *Conn) { s.start(c) })
	}
	for pause := time.Millisecond; ; {
		c, err := ln.Accept()
		if err == nil {
			pause = time.Millisecond
			s.start(c)
			continue
		}
		//lint:ignore SA1019 nothing else tells what passes, such as too many open files
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Temporary() || ne.Timeout() {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Second)
	}
}

// start has a connection handled.
func (s *Server) start(c net.Conn) {
	conn, _ := c.(*Conn)
	shard := 0
	if conn != nil {
		shard = conn.Shard()
	}
	at := &s.shards[shard%len(s.shards)]
	at.mu.Lock()
	if s.closing.Load() {
		at.mu.Unlock()
		c.Close()
		return
	}
	if at.all == nil {
		at.all = make(map[net.Conn]struct{})
	}
	at.all[c] = struct{}{}
	s.handled.Add(1)
	at.mu.Unlock()
	done := func() {
		at.mu.Lock()
		delete(at.all, c)
		at.mu.Unlock()
		s.handled.Add(-1)
	}
	switch {
	case s.Open != nil:
		handle(c, s.Open, done)
	case conn != nil:
		start(conn.stack.RunQueue(), nameOf(s.Handler), func() {
			defer done()
			s.Handler(c)
		})
	default:
		go func() {
			defer done()
			s.Handler(c)
		}()
	}
}

func (s *Server) add(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	if s.listeners == nil {
		s.listeners = make(map[net.Listener]struct{})
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) remove(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

// closeListeners ends Serve.
func (s *Server) closeListeners() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	var errs []error
	for ln := range s.listeners {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Shutdown closes the listeners and waits until the handlers of all connections
// have returned, or were told Closed. It returns ctx's error if that comes first.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.closeListeners()
	for pause := time.Millisecond; s.handled.Load() > 0; pause = min(2*pause, 500*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return err
}

// Close closes the listeners and all connections that handlers have.
func (s *Server) Close() error {
	err := s.closeListeners()
	for i := range s.shards {
		at := &s.shards[i]
		at.mu.Lock()
		conns := slices.Collect(maps.Keys(at.all))
		at.mu.Unlock()
		// Not under the lock, which pollers take: SetLinger has Close wait for them.
		for _, c := range conns {
			c.Close()
		}
	}
	return err
}
