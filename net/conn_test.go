package tpanet_test

import (
	"context"
	"errors"
	"net"
	"testing"

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
