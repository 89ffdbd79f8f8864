package accel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Listening by the kernel's TCP beside our own: what ListenConfig.Kernel asks
// for. On a shared device the socket that reserves the port listens; on a device
// of our own, one of package net does.

// listenKernel opens the kernel's side of l.
func (lc *ListenConfig) listenKernel(ctx context.Context, l *listener, network string, laddr *net.TCPAddr) (net.Listener, error) {
	at := &net.TCPAddr{IP: laddr.IP, Port: l.Addr().(*net.TCPAddr).Port, Zone: laddr.Zone}
	if l.lease != nil {
		kernel, err := l.lease.hold.Listen(lc.backlog())
		if err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Addr: at, Err: err}
		}
		return &kernelListener{kernel, l.lease.hold, keepAlive(lc.KeepAlive, lc.KeepAliveConfig)}, nil
	}
	config := lc.kernelConfig()
	kernel, err := config.Listen(ctx, network, at.String())
	if op, ok := errors.AsType[*net.OpError](err); ok && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EINVAL)) {
		op.Err = fmt.Errorf("with ListenConfig.Kernel the kernel listens as well, and does not have the address; listen on all addresses, as in \":%d\": %w", at.Port, op.Err)
	}
	return kernel, err
}

// kernelConfig is lc as package net knows it.
func (lc *ListenConfig) kernelConfig() net.ListenConfig {
	return net.ListenConfig{KeepAlive: lc.KeepAlive, KeepAliveConfig: lc.KeepAliveConfig}
}

// A kernelListener is the listening socket of a reservation.
type kernelListener struct {
	*net.TCPListener
	hold      *hold
	keepAlive net.KeepAliveConfig
}

func (l *kernelListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err // not c, which would be a net.Conn that is not nil
	}
	c.SetKeepAliveConfig(l.keepAlive) // it cannot fail on a fresh connection
	return c, nil
}

func (l *kernelListener) Close() error {
	if err := l.TCPListener.Close(); err != nil {
		return err
	}
	return l.hold.Unlisten()
}
