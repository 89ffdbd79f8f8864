package tpanet

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// DialOptions are what a dial needs besides addresses.
type DialOptions struct {
	// KeepAlive is the keep-alive of the connection. The zero value turns it off;
	// package net's default is Enable alone.
	KeepAlive net.KeepAliveConfig
}

var errMissingAddress = errors.New("missing address")

// Dial connects to raddr from laddr, which may be nil, on one shard. network is
// "tcp", "tcp4" or "tcp6". Errors are those of net.Dialer.
func Dial(ctx context.Context, stack Stack, laddr, raddr *net.TCPAddr, network string, opts DialOptions) (*Conn, error) {
	c, err := dial(ctx, stack, laddr, raddr, network, opts)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Source: opAddr(laddr), Addr: opAddr(raddr), Err: err}
	}
	return c, nil
}

func dial(ctx context.Context, stack Stack, laddr, raddr *net.TCPAddr, network string, opts DialOptions) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	if raddr == nil {
		return nil, errMissingAddress
	}
	f := dialFamily(network, laddr, raddr)
	remote, err := f.address(raddr)
	if err != nil {
		return nil, err
	}
	zone := stack.Zone()
	if err := cmp.Or(zone.bind(laddr), zone.connect(laddr, raddr)); err != nil {
		return nil, err
	}
	ep, queue, terr := stack.Socket(f.ipv6)
	if terr != nil {
		return nil, sysError("socket", terr)
	}
	if f.ipv6 {
		ep.SocketOptions().SetV6Only(f.v6Only)
	}
	c := newConn(stack, ep, queue, network)
	if err := c.connect(ctx, f, laddr, remote); err != nil {
		queue.EventUnregister(&c.entry)
		ep.Close()
		return nil, err
	}
	local, _ := ep.GetLocalAddress()
	if !linkLocal(laddr) && !linkLocal(raddr) {
		zone.Name = "" // Linux knows none of a connection by way of a router
	}
	c.start(f.endpoints(local, remote, zone.Name), opts.KeepAlive)
	return c, nil
}

// connect does the handshake. ctx ends it early.
func (c *Conn) connect(ctx context.Context, f family, laddr *net.TCPAddr, remote tcpip.FullAddress) error {
	var local tcpip.FullAddress
	call := "connect" // the stack may bind, where package net leaves it to connect
	if laddr != nil {
		var err error
		if local, err = f.address(laddr); err != nil {
			return err
		}
		call = "bind"
	}
	if terr := c.stack.Bind(c.ep, local, remote); terr != nil {
		return sysError(call, terr)
	}
	stop := context.AfterFunc(ctx, c.wr.waker.Assert)
	defer stop()
	terr := c.ep.Connect(remote)
	if _, started := terr.(*tcpip.ErrConnectStarted); !started {
		return sysError("connect", terr)
	}
	for {
		c.wr.wait()
		if err := ctx.Err(); err != nil {
			return contextError(err)
		}
		if _, terr := c.ep.GetRemoteAddress(); terr == nil {
			return nil
		}
		if terr := c.ep.LastError(); terr != nil {
			return sysError("connect", terr)
		}
		if c.dead() {
			return os.NewSyscallError("connect", syscall.ECONNABORTED)
		}
	}
}
