package tpanet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/internal/transport"
)

func TestSysError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error
		text string
	}{
		{nil, nil, ""},
		{syscall.ECONNRESET, syscall.ECONNRESET, "read: connection reset by peer"},
		{transport.ErrWouldBlock, syscall.EAGAIN, "read: resource temporarily unavailable"},
		{io.EOF, io.EOF, "EOF"},
	} {
		err := sysError("read", tt.err)
		if !errors.Is(err, tt.want) {
			t.Errorf("sysError(%v) = %v, want %v", tt.err, err, tt.want)
		}
		if err != nil && err.Error() != tt.text {
			t.Errorf("sysError(%v) says %q, want %q", tt.err, err, tt.text)
		}
	}
}

func TestContextError(t *testing.T) {
	canceled := contextError(context.Canceled)
	if !errors.Is(canceled, context.Canceled) || canceled.Error() != "operation was canceled" {
		t.Errorf("contextError(Canceled) = %v", canceled)
	}
	late := contextError(context.DeadlineExceeded)
	if !errors.Is(late, context.DeadlineExceeded) || !errors.Is(late, os.ErrDeadlineExceeded) || late.Error() != "i/o timeout" {
		t.Errorf("contextError(DeadlineExceeded) = %v", late)
	}
	if ne, ok := errors.AsType[net.Error](late); !ok || !ne.Timeout() {
		t.Errorf("contextError(DeadlineExceeded) is no timeout")
	}
}
