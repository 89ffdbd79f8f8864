package xdp

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/link"
)

// ErrOccupied is wrapped by errors of Open where another program has the
// interface's XDP.
var ErrOccupied = bpf.ErrOccupied

// Capabilities says how to give a program the rights that it needs.
const Capabilities = bpf.Capabilities

// errSocket explains why the socket of a receive queue could not be opened.
func errSocket(name string, queue int, err error) error {
	e := &link.InterfaceError{Interface: name, Err: err}
	switch {
	case errors.Is(err, syscall.EPERM):
		e.Problem = "opening an AF_XDP socket needs CAP_NET_RAW"
		e.Remedy = Capabilities
	case errors.Is(err, syscall.EAFNOSUPPORT):
		e.Problem = "kernel " + bpf.KernelRelease() + " has no AF_XDP"
		e.Remedy = "use Linux 5.10 or newer, built with CONFIG_XDP_SOCKETS=y"
	case errors.Is(err, syscall.ENOBUFS):
		e.Problem = "the limit of locked memory is too low"
		e.Remedy = "ulimit -l unlimited, or " + Capabilities
	case errors.Is(err, syscall.EBUSY):
		e.Problem = fmt.Sprintf("another AF_XDP socket has receive queue %d", queue)
		e.Remedy = "stop its owner: `ss --xdp -ap` may find it"
	case errors.Is(err, syscall.ENODEV):
		e.Problem = "the interface is gone"
		e.Remedy = "`ip link` lists those there are"
	default:
		e.Problem = fmt.Sprintf("cannot open the AF_XDP socket of receive queue %d", queue)
		e.Remedy = "use Linux 5.10 or newer"
	}
	return e
}
