package tpanet

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/transport"
)

var errMissingAddress = errors.New("missing address")

func init() { transport.Dial, transport.Listen, transport.Pending = dialConn, listenOn, pending }

// dialConn is transport.Dial.
func dialConn(ctx context.Context, stack transport.Stack, laddr, raddr *net.TCPAddr, network string, opts transport.DialOptions) (net.Conn, error) {
	c, err := dial(ctx, stack, laddr, raddr, network, opts)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Source: opAddr(laddr), Addr: opAddr(raddr), Err: err}
	}
	return c, nil
}

func dial(ctx context.Context, stack transport.Stack, laddr, raddr *net.TCPAddr, network string, opts transport.DialOptions) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	if !opts.Deadline.IsZero() && time.Until(opts.Deadline) <= 0 {
		return nil, contextError(context.DeadlineExceeded)
	}
	if raddr == nil {
		return nil, errMissingAddress
	}
	f := dialFamily(network, laddr, raddr)
	remote, err := f.address(raddr)
	if err != nil {
		return nil, err
	}
	z := zone(stack.Zone())
	if err := cmp.Or(z.bind(laddr), z.connect(laddr, raddr)); err != nil {
		return nil, err
	}
	ep, err := stack.Socket(f.ipv6, f.v6Only)
	if err != nil {
		return nil, sysError("socket", err)
	}
	c := newConn(stack, ep, network)
	if !opts.Deadline.IsZero() {
		c.wr.setDeadline(opts.Deadline)
	}
	if err := c.connect(ctx, f, laddr, remote); err != nil {
		c.wr.close() // ends its timer
		ep.Close()
		return nil, err
	}
	if !opts.Deadline.IsZero() {
		c.wr.setDeadline(time.Time{})
	}
	if !linkLocal(laddr) && !linkLocal(raddr) {
		z.Name = "" // Linux knows none of a connection by way of a router
	}
	c.start(f.endpoints(ep.LocalAddr(), remote, z.Name), opts.KeepAlive)
	return c, nil
}

// connect does the handshake. ctx ends it early, as does the deadline of writing.
func (c *Conn) connect(ctx context.Context, f family, laddr *net.TCPAddr, remote netip.AddrPort) error {
	var local netip.AddrPort
	call := "connect" // the stack may bind, where package net leaves it to connect
	if laddr != nil {
		var err error
		if local, err = f.address(laddr); err != nil {
			return err
		}
		call = "bind"
	}
	if err := c.stack.Bind(c.ep, local, remote); err != nil {
		return sysError(call, err)
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.wr.wake)
		defer stop()
	}
	if err := c.ep.Connect(remote); err != nil {
		return sysError("connect", err)
	}
	for {
		if err := c.wr.waitLocked(); err != nil { // nobody else has the connection
			return sysError("connect", err)
		}
		if err := ctx.Err(); err != nil {
			return contextError(err)
		}
		if c.wr.err() != nil { // nobody else closes it
			return contextError(context.DeadlineExceeded)
		}
		if _, ok := c.ep.RemoteAddr(); ok {
			return nil
		}
		if err := c.ep.LastError(); err != nil {
			return sysError("connect", err)
		}
		if c.ep.State() == transport.StateClosed {
			return os.NewSyscallError("connect", syscall.ECONNABORTED)
		}
	}
}
