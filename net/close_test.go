package tpanet

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/gotpa/tpa/internal/transport"
)

// slowEnd is an endpoint on which a call that has begun ends long after Close.
type slowEnd struct {
	transport.Endpoint
	entered, closed chan struct{}
	left            atomic.Bool
}

func (*slowEnd) SetSink(transport.Sink) {}

func (s *slowEnd) Close() { close(s.closed) }

func (s *slowEnd) call() error {
	close(s.entered)
	<-s.closed
	for range 1000 {
		runtime.Gosched()
	}
	s.left.Store(true)
	return transport.ErrWouldBlock
}

func (s *slowEnd) Read([]byte) (int, bool, error) { return 0, false, s.call() }

func (s *slowEnd) Write([]byte) (int, error) { return 0, s.call() }

type noStack struct{ transport.Stack }

func (noStack) Closed(transport.Endpoint, transport.User) {}

// TestCloseWaits: as with package net, what was blocked has returned before Close.
func TestCloseWaits(t *testing.T) {
	for name, call := range map[string]func(c *Conn) error{
		"Read":  func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"Write": func(c *Conn) error { _, err := c.Write(make([]byte, 1)); return err },
	} {
		t.Run(name, func(t *testing.T) {
			ep := &slowEnd{entered: make(chan struct{}), closed: make(chan struct{})}
			c := newConn(noStack{}, ep, "tcp")
			c.addrs = &endpoints{}
			end := make(chan error)
			go func() { end <- call(c) }()
			<-ep.entered
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if !ep.left.Load() {
				t.Errorf("Close returns before %s", name)
			}
			if err := <-end; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s returns %v, want net.ErrClosed", name, err)
			}
		})
	}
}
