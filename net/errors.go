package tpanet

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/gotpa/tpa/internal/transport"
)

// sysError is an error of TCP's as package net reports a failed system call: an
// *os.SyscallError that names the call.
func sysError(call string, err error) error {
	switch err {
	case nil, io.EOF:
		return err
	case transport.ErrWouldBlock:
		err = syscall.EAGAIN
	}
	return os.NewSyscallError(call, err)
}

// canceledError is what a cancelled dial reports, worded as package net does.
type canceledError struct{}

func (canceledError) Error() string        { return "operation was canceled" }
func (canceledError) Is(target error) bool { return target == context.Canceled }

// timeoutError is what a dial that took too long reports. Package net answers
// with one of two errors, as its timers race; this one is both.
type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (timeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == os.ErrDeadlineExceeded
}

// contextError is the error of a dial whose context ended with err.
func contextError(err error) error {
	switch err {
	case context.Canceled:
		return canceledError{}
	case context.DeadlineExceeded:
		return timeoutError{}
	}
	return err
}

// opAddr is a as an address that may be nil: a nil *net.TCPAddr in a net.Addr
// would not be.
func opAddr(a *net.TCPAddr) net.Addr {
	if a == nil {
		return nil
	}
	return a
}
