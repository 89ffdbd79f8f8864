package tpanet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	tpanet "github.com/gotpa/tpa/net"
)

// connect returns the two ends of a connection.
func connect(t testing.TB, server, client *shard) (accepted, dialled *tpanet.Conn) {
	t.Helper()
	ln, err := tpanet.Listen([]tpanet.Stack{server}, &net.TCPAddr{IP: serverIP4}, "tcp", tpanet.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return connectTo(t, ln, client)
}

func connectTo(t testing.TB, ln *tpanet.Listener, client *shard) (accepted, dialled *tpanet.Conn) {
	t.Helper()
	dialled, err := tpanet.Dial(context.Background(), client, nil, ln.Addr().(*net.TCPAddr), "tcp", tpanet.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(errors.Join(err, dialled.Close()))
	}
	accepted = c.(*tpanet.Conn)
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return accepted, dialled
}

func TestNettest(t *testing.T) {
	server, client := newShards(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := connect(t, server, client)
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// TestEndWithData reads a stream whose end arrives together with its last bytes.
func TestEndWithData(t *testing.T) {
	server, client := newShards(t)
	for range 200 {
		a, b := connect(t, server, client)
		if _, err := b.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadAll(a); err != nil || string(got) != "last words" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// TestDataWhileExpired lets data arrive while the read deadline has passed, and
// a read fail for that. The data must be there once the deadline is lifted.
func TestDataWhileExpired(t *testing.T) {
	server, client := newShards(t)
	a, b := connect(t, server, client)
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
		a.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := a.Read(buf); n != 1 || err != nil {
			t.Fatalf("got %d, %v; want 1 byte", n, err)
		}
	}
}
