package tpanet_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

func TestNettest(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	for _, ip := range []string{server.ip4, server.ip6} {
		t.Run(ip, func(t *testing.T) {
			ln := server.listen(t, "tcp", net.JoinHostPort(ip, "0"))
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := pairTo(t, ln, client)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// TestEndWithData reads a stream whose end arrives together with its last bytes.
func TestEndWithData(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	for range 200 {
		a, b := pair(t, server, client)
		if _, err := b.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.SetReadDeadline(time.Now().Add(testTimeout))
		if got, err := io.ReadAll(a); err != nil || string(got) != "last words" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// TestDataWhileExpired lets data arrive while the read deadline has passed, and
// a read fail for that. The data must be there once the deadline is lifted.
func TestDataWhileExpired(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	buf := make([]byte, 10)
	for range 1000 {
		b.Write([]byte("x"))
		if n, err := a.Read(buf); n != 1 || err != nil {
			t.Fatalf("got %d, %v; want 1 byte", n, err)
		}
		a.SetReadDeadline(time.Unix(1, 0))
		b.Write([]byte("y"))
		if n, err := a.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %d, %v; want %v", n, err, os.ErrDeadlineExceeded)
		}
		a.SetReadDeadline(time.Now().Add(testTimeout))
		if n, err := a.Read(buf); n != 1 || err != nil {
			t.Fatalf("got %d, %v; want 1 byte", n, err)
		}
	}
}

// TestExpiringBulk has bulk reads fail for their deadlines again and again: nothing of
// the stream is lost, and nothing is written to a buffer whose read has returned.
func TestExpiringBulk(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	want := pattern(8 << 20)
	sent := make(chan error, 1)
	go func() {
		var err error
		for at := 0; at < len(want) && err == nil; at += 16 << 10 {
			_, err = b.Write(want[at : at+16<<10])
			runtime.Gosched()
		}
		sent <- errors.Join(err, b.CloseWrite())
	}()
	var got []byte
	var old [2][]byte // buffers of the two reads before, with their first bytes taken out
	expired := 0
	for i := 0; ; i++ {
		buf := make([]byte, 24<<10)
		a.SetReadDeadline(time.Now().Add(time.Duration(i%50) * time.Microsecond))
		n, err := a.Read(buf)
		got = append(got, buf[:n]...)
		clear(buf[:n])
		for _, o := range old {
			if slices.ContainsFunc(o, func(b byte) bool { return b != 0 }) {
				t.Fatal("a buffer was written to after its read")
			}
		}
		old[i%2] = buf
		if errors.Is(err, os.ErrDeadlineExceeded) {
			expired++
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want the %d sent; %d reads expired", len(got), len(want), expired)
	}
	if expired == 0 {
		t.Error("no read expired")
	}
}

// echo sends back what it reads until the end.
func echo(c *tpanet.Conn) error {
	defer c.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	server, client := newHosts(t, memory.Options{})
	a, b := pair(t, server, client)
	go echo(a)
	request, reply := make([]byte, 64), make([]byte, 64)
	deadline := time.Now().Add(time.Hour)
	roundTrip := func() {
		deadline = deadline.Add(time.Second)
		if err := b.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, reply); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 { // fill the pools
		roundTrip()
	}
	if n := testing.AllocsPerRun(2000, roundTrip); n != 0 {
		t.Errorf("a request and its reply allocate %v times, both ends together; want 0", n)
	}
}

// TestIdleMemory measures what one end of a connection costs while nothing
// happens, endpoint and all.
func TestIdleMemory(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("10,000 connections")
	}
	const (
		conns = 10_000
		limit = 8 << 10 // bytes of heap for each end
	)
	server, client := newHosts(t, memory.Options{})
	ln := server.listen(t, "tcp", ":0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ends := make([]*tpanet.Conn, 0, 2*conns)
	before := heap()
	for range conns {
		dialled := client.dial(t, net.JoinHostPort(server.ip4, port))
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, dialled, accepted.(*tpanet.Conn))
	}
	each := (heap() - before) / uint64(len(ends))
	t.Logf("%d bytes of heap for each end of an idle connection", each)
	if each > limit {
		t.Errorf("want at most %d", limit)
	}
	for _, c := range ends {
		c.SetLinger(0)
		c.Close()
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestNothingStays opens and closes connections and looks for what is left.
func TestNothingStays(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	ln := server.listen(t, "tcp", ":0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	conns := 10_000
	if testing.Short() || raceEnabled {
		conns = 1000
	}
	round := func(n int) {
		served := make(chan error, 1)
		go func() {
			var errs error
			for range n {
				c, err := ln.Accept()
				if err != nil {
					served <- err
					return
				}
				errs = errors.Join(errs, echo(c.(*tpanet.Conn)))
			}
			served <- errs
		}()
		for range n {
			c := client.dial(t, net.JoinHostPort(server.ip4, port))
			c.SetDeadline(time.Now().Add(testTimeout))
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			c.CloseWrite()
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("read: %v, want the end", err)
			}
			c.Close()
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	}
	left := func() (conns int) {
		for _, h := range []host{server, client} {
			for _, s := range h.Stats().Shards {
				conns += s.Flows + int(s.TCP.Connected)
			}
		}
		return conns
	}
	round(100) // fill the pools
	eventually(t, "no connection is left", func() bool { return left() == 0 })
	before, goroutines := heap(), runtime.NumGoroutine()
	round(conns)
	eventually(t, "no connection is left", func() bool { return left() == 0 })
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "no memory is left", func() bool {
		return int64(heap()-before) < 64*int64(conns)+1<<20
	})
}

// TestStress drives connections with all that can happen to them at once, and
// checks that every byte arrives and nobody sleeps for ever.
func TestStress(t *testing.T) {
	server, client := newHosts(t, memory.Options{Queues: 2})
	ln := server.listen(t, "tcp", ":0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	rounds, conns := 400, 8
	if raceEnabled {
		rounds = 100
	}
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				if err := echo(c.(*tpanet.Conn)); err != nil {
					t.Errorf("echo: %v", err)
				}
			})
		}
	})
	var clients sync.WaitGroup
	for i := range conns {
		c := client.dial(t, net.JoinHostPort(server.ip4, port))
		r := rand.New(rand.NewPCG(1, uint64(i)))
		clients.Go(func() { converse(t, c, r, rounds) })
	}
	clients.Wait()
	ln.Close()
	servers.Wait()
}

// converse sends messages of all sizes in pieces of all sizes and reads them
// back the same way, while deadlines come and go.
func converse(t *testing.T, c *tpanet.Conn, r *rand.Rand, rounds int) {
	stop := make(chan struct{})
	var nuisance sync.WaitGroup
	nuisance.Go(func() {
		r := rand.New(rand.NewPCG(2, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			switch r.IntN(3) {
			case 0:
				c.SetReadDeadline(time.Unix(1, 0))
			case 1:
				c.SetDeadline(time.Now().Add(time.Duration(r.IntN(1000)) * time.Microsecond))
			default:
				c.SetDeadline(time.Time{})
			}
			time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		}
	})
	for range rounds {
		message := make([]byte, 1+r.IntN(1<<r.IntN(18)))
		for i := range message {
			message[i] = byte(r.Uint32())
		}
		piece := 1 + r.IntN(len(message))
		var wg sync.WaitGroup
		wg.Go(func() {
			for rest := message; len(rest) > 0; {
				n, err := c.Write(rest[:min(piece, len(rest))])
				rest = rest[n:]
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
		var got []byte
		for b := make([]byte, piece); len(got) < len(message); {
			n, err := c.Read(b)
			got = append(got, b[:n]...)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v", err)
				break
			}
		}
		wg.Wait()
		if !bytes.Equal(got, message) {
			t.Errorf("%d bytes came back other than they went", len(message))
			break
		}
	}
	close(stop)
	nuisance.Wait()
	c.SetDeadline(time.Time{})
	c.CloseWrite()
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %d, %v, want the end", n, err)
	}
	c.Close()
}

// TestCloseRaces closes connections under running reads, writes and copies.
func TestCloseRaces(t *testing.T) {
	server, client := newHosts(t, memory.Options{})
	rounds := 200
	if raceEnabled {
		rounds = 50
	}
	for i := range rounds {
		a, b := pair(t, server, client)
		var wg sync.WaitGroup
		for _, c := range []*tpanet.Conn{a, b} {
			wg.Go(func() { io.Copy(io.Discard, c) })
			wg.Go(func() { io.Copy(c, zeros{}) })
			wg.Go(func() {
				for c.SetDeadline(time.Now().Add(time.Hour)) == nil {
					runtime.Gosched()
				}
			})
			wg.Go(func() {
				time.Sleep(time.Duration(i%20) * 50 * time.Microsecond)
				if i%3 == 0 {
					c.SetLinger(0)
				}
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	}
}

// TestCloseRuntime closes both hosts while connections come, carry data and go.
// The panic on leaked segments in TestMain is a part of the test.
func TestCloseRuntime(t *testing.T) {
	rounds := 60
	if raceEnabled {
		rounds = 15
	}
	for i := range rounds {
		server, client := newHosts(t, memory.Options{Queues: 1 + i%2})
		ln := server.listen(t, "tcp", ":0")
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		var busy sync.WaitGroup
		copyUntilEnd := func(c net.Conn) {
			busy.Go(func() { io.Copy(io.Discard, c); c.Close() })
			busy.Go(func() { io.Copy(c, zeros{}) })
		}
		busy.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				copyUntilEnd(c)
			}
		})
		for range 4 {
			copyUntilEnd(client.dial(t, net.JoinHostPort(server.ip4, port)))
		}
		busy.Go(func() {
			for {
				c, err := (&accel.Dialer{Runtime: client.Runtime, Timeout: time.Second}).Dial("tcp", net.JoinHostPort(server.ip4, port))
				if err != nil {
					return
				}
				c.Close()
			}
		})
		time.Sleep(time.Duration(i%10) * 100 * time.Microsecond)
		busy.Go(func() { server.Close() })
		busy.Go(func() { client.Close() })
		busy.Wait()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
