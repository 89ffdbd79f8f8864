package overhead

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/acceltest"
	tpanet "github.com/gotpa/tpa/net"
)

const (
	// idleConns is how many connections wait for their next request.
	idleConns = 2000
	// idleMemory is what one end of such a connection may keep, in bytes.
	idleMemory = 3 << 10
)

// TestIdleMemory measures what one end of a connection keeps in memory after a request,
// while it waits for the next: with callbacks at one end and at the other a goroutine
// that is gone, so that no stack is in it.
func TestIdleMemory(t *testing.T) {
	network := acceltest.New(t, acceltest.Options{
		Client: accel.Config{Record: -1}, Server: accel.Config{Record: -1},
	})
	server := tpanet.Server{Open: func(c *tpanet.CallbackConn) tpanet.Callbacks { return echo{c} }}
	go server.Serve(network.Listener)
	defer server.Close()
	request, reply := make([]byte, 64), make([]byte, 64)
	open := func() io.Closer {
		t.Helper()
		c, err := network.Dialer.DialContext(context.Background(), "tcp", network.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatal(err)
		}
		return c
	}
	open().Close() // what a process has once
	before := live()
	conns := make([]io.Closer, idleConns)
	for i := range conns {
		conns[i] = open()
	}
	var got int64
	for range 100 { // they count as idle after a second
		if got = (live() - before) / idleConns / 2; got <= idleMemory {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("one end of an idle connection keeps %d bytes", got)
	if got > idleMemory {
		t.Errorf("one end of an idle connection keeps %d bytes, want at most %d", got, idleMemory)
	}
	for _, c := range conns {
		c.Close()
	}
}

// live is what is in use of the heap, in bytes.
func live() int64 {
	var m runtime.MemStats
	for range 3 { // what sync.Pool keeps goes with the second collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// echo sends back what it reads.
type echo struct{ c *tpanet.CallbackConn }

func (e echo) Data() {
	var b [64]byte
	n, err := e.c.TryRead(b[:])
	if err == nil {
		_, err = e.c.TryWrite(b[:n])
	}
	if err != nil && !errors.Is(err, tpanet.ErrWouldBlock) {
		e.c.Close()
	}
}

func (echo) Closed() {}
