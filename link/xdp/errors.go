package xdp

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/link"
)

// ErrOccupied is wrapped by errors of Open where another program has the
// interface's XDP.
var ErrOccupied = bpf.ErrOccupied

// ErrJoined is wrapped by errors of Open where segments arrive joined to ones of up
// to 64 KB, which fit no chunk: the host of a virtual machine does that, and the
// device does not let it be switched off; or an interface below a VLAN, a bond or a
// bridge does, before Linux 6.6. A packet socket takes them.
var ErrJoined = errors.New("segments are larger than a chunk")

// whyJoined is the problem behind ErrJoined.
const whyJoined = "the host joins segments, and does not offer the guest to switch that off (VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)"

// errJoined is for interfaces where generic mode alone is left.
func errJoined(name string, notNative error) error {
	return &link.InterfaceError{
		Interface: name, Problem: "AF_XDP would lose most of what arrives: " + whyJoined,
		Remedy: "use a packet socket: TPA_DEV=packet:" + name + "; or start the virtual machine without guest_tso4, guest_tso6 and guest_ufo",
		Err:    fmt.Errorf("%w; in native mode: %w", ErrJoined, cmp.Or(notNative, errors.ErrUnsupported)),
	}
}

// errLowerGRO is for interfaces made of others.
func errLowerGRO(name string, f facts) error {
	return &link.InterfaceError{
		Interface: name, Problem: "AF_XDP would lose most of what arrives: " + whyLowerGRO(f.lowerGRO),
		Remedy: lowerGRORemedy(f.lowerGRO), Err: ErrJoined,
	}
}

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
		e.Err = fmt.Errorf("%w: %w", ErrOccupied, err)
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
