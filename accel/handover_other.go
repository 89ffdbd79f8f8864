//go:build !linux

package accel

import (
	"net"
	"net/netip"

	"github.com/gotpa/tpa/internal/ports"
	"github.com/gotpa/tpa/link"
)

// Interfaces are shared with the kernel on Linux only, and so are their ports.

type messages struct{}

func (*messages) ended([]link.Flow) {}

type predecessor struct{}

func (*sharing) askForPort(string, netip.AddrPort) (*predecessor, *ports.Reservation) {
	return nil, nil
}

func (*predecessor) flows() ([]link.Flow, error) { return nil, nil }

func (*predecessor) claimed(*lease) {}

func (*predecessor) close() {}

type offer struct{}

func (*listener) offer(string, *net.TCPAddr) {}

func (*offer) close() {}

func (*Runtime) offerInterface() {}
