package tpanet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// TestMergeShards lets connections come in on all shards of one listener.
func TestMergeShards(t *testing.T) {
	const queues, conns = 4, 200
	server, client := newHosts(t, memory.Options{Queues: queues})
	ln := server.listen(t, "tcp", ":0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	go func() {
		for range conns {
			c, err := (&accel.Dialer{Runtime: client.Runtime}).Dial("tcp", net.JoinHostPort(server.ip4, port))
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	shards := map[int]int{}
	for range conns {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		shards[c.(*tpanet.Conn).Info().Shard]++
		c.Close()
	}
	if len(shards) != queues {
		t.Errorf("connections per shard: %v, want some on each of %d", shards, queues)
	}
	stats := ln.(interface{ Stats() []tpanet.AcceptStats }).Stats()
	for i, s := range stats {
		if s.Shard != i || s.Accepted != uint64(shards[i]) || s.Waiting != 0 {
			t.Errorf("stats of shard %d: %+v, want %d accepted", i, s, shards[i])
		}
	}
	if len(stats) != queues {
		t.Errorf("stats of %d shards, want %d", len(stats), queues)
	}
}

// TestAcceptIsFair floods one shard and looks whether the others are served.
func TestAcceptIsFair(t *testing.T) {
	server, client := newHosts(t, memory.Options{Queues: 2})
	ln := server.listen(t, "tcp", ":0").(interface {
		net.Listener
		Stats() []tpanet.AcceptStats
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	waiting := func() (n [2]int) {
		for i, s := range ln.Stats() {
			n[i] = s.Waiting
		}
		return n
	}
	for {
		c := client.dial(t, net.JoinHostPort(server.ip4, port))
		t.Cleanup(func() { c.Close() })
		if w := waiting(); w[0] >= 5 && w[1] >= 5 {
			break
		}
	}
	var served [2]int
	for range 10 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		served[c.(*tpanet.Conn).Info().Shard]++
		c.Close()
	}
	if served != [2]int{5, 5} {
		t.Errorf("10 connections were taken from the shards as %v, want turns", served)
	}
}

func TestBacklog(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	const backlog = 4
	ln, err := (&accel.ListenConfig{Runtime: server.Runtime, Backlog: backlog}).Listen(t.Context(), "tcp", net.JoinHostPort(server.ip4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// More dials than the backlog holds. Those too many wait for room, as with
	// Linux: clients that speak first do not notice.
	const dials = 3 * backlog
	var wg sync.WaitGroup
	for range dials {
		wg.Go(func() {
			d := accel.Dialer{Runtime: client.Runtime, Timeout: testTimeout}
			c, err := d.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(testTimeout))
			if _, err := c.Write([]byte("x")); err != nil {
				t.Errorf("write: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("read: %v", err)
			}
		})
	}
	waiting := func() int { return ln.(interface{ Stats() []tpanet.AcceptStats }).Stats()[0].Waiting }
	eventually(t, "the backlog is full", func() bool { return waiting() >= backlog })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go echo(c.(*tpanet.Conn))
		}
	}()
	wg.Wait()
}

// A fakeStack is a shard whose ports can be taken.
type fakeStack struct {
	transport.Stack
	binds []error
	port  uint16
	open  int
}

type fakeEndpoint struct {
	transport.Endpoint
	stack *fakeStack
	sink  transport.Sink
	port  uint16
}

func (s *fakeStack) Socket(bool, bool) (transport.Endpoint, error) {
	s.open++
	return &fakeEndpoint{stack: s}, nil
}

func (s *fakeStack) Listening(_ transport.Endpoint, backlog int, _ func() int) int { return backlog }
func (s *fakeStack) NotListening(transport.Endpoint)                               {}
func (s *fakeStack) Zone() transport.Zone                                          { return transport.Zone{} }

func (e *fakeEndpoint) SetSink(s transport.Sink) { e.sink = s }
func (e *fakeEndpoint) Listen(int) error         { return nil }
func (e *fakeEndpoint) Close()                   { e.stack.open-- }

func (e *fakeEndpoint) Bind(a netip.AddrPort, _ bool) error {
	s := e.stack
	if len(s.binds) > 0 {
		err := s.binds[0]
		s.binds = s.binds[1:]
		if err != nil {
			return err
		}
	}
	if e.port = a.Port(); e.port == 0 {
		s.port++
		e.port = s.port
	}
	return nil
}

func (e *fakeEndpoint) LocalAddr() netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, e.port) }

// TestPortOnAllShards makes a port that is free on one shard be in use on
// another.
func TestPortOnAllShards(t *testing.T) {
	taken := error(syscall.EADDRINUSE)
	for _, tt := range []struct {
		name     string
		port     int
		binds    []error // on the second shard
		wantPort int     // 0: an error
	}{
		{name: "free", wantPort: 1001},
		{name: "taken twice", binds: []error{taken, taken}, wantPort: 1003},
		{name: "always taken", binds: make16(taken)},
		{name: "given and free", port: 80, wantPort: 80},
		{name: "given and taken", port: 80, binds: []error{taken}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := &fakeStack{port: 1000}, &fakeStack{binds: tt.binds}
			ln, err := transport.Listen([]transport.Stack{a, b}, &net.TCPAddr{Port: tt.port}, "tcp", transport.ListenOptions{})
			if tt.wantPort == 0 {
				if !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("got %v, want EADDRINUSE", err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				if got := ln.Addr().(*net.TCPAddr).Port; got != tt.wantPort {
					t.Errorf("port %d, want %d", got, tt.wantPort)
				}
				if a.open != 1 || b.open != 1 {
					t.Errorf("%d and %d endpoints are open, want one each", a.open, b.open)
				}
				ln.Close()
			}
			if a.open != 0 || b.open != 0 {
				t.Errorf("%d and %d endpoints stay open", a.open, b.open)
			}
		})
	}
}

func make16(err error) (errs []error) {
	for range 16 {
		errs = append(errs, err)
	}
	return errs
}

// TestListenerPerShard has a listener for each shard on the same port.
func TestListenerPerShard(t *testing.T) {
	a, b := &fakeStack{port: 1000}, &fakeStack{}
	first, err := transport.Listen([]transport.Stack{a}, nil, "tcp", transport.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := transport.Listen([]transport.Stack{b}, first.Addr().(*net.TCPAddr), "tcp", transport.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if fmt.Sprint(first.Addr()) != fmt.Sprint(second.Addr()) {
		t.Errorf("addresses %v and %v, want the same", first.Addr(), second.Addr())
	}
}

func TestDialNowhere(t *testing.T) {
	_, err := transport.Dial(context.Background(), &fakeStack{}, nil, nil, "tcp", transport.DialOptions{})
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" || op.Addr != nil {
		t.Errorf("got %#v, want an OpError without an address", err)
	}
}
