//go:build !linux

package ports

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// errSystem: no device is shared with the kernel here, so nothing asks for ports.
var errSystem = fmt.Errorf("ports are reserved with the kernel on Linux only: %w", errors.ErrUnsupported)

// A Reservation cannot be had on this system.
type Reservation struct{}

// Reserve fails, as do ReserveBlock, ReserveMore and Connections.
func Reserve(string, netip.AddrPort) (*Reservation, error) { return nil, errSystem }

// ReserveBlock fails.
func ReserveBlock(int) (*Reservation, error) { return nil, errSystem }

// ReserveMore fails.
func ReserveMore(int) (*Reservation, error) { return nil, errSystem }

// Connections fails.
func Connections(uint16) ([]Connection, error) { return nil, errSystem }

// First is never called, because there is no Reservation; nor are the others.
func (*Reservation) First() uint16 { return 0 }

// Count returns 0.
func (*Reservation) Count() int { return 0 }

// Listen fails.
func (*Reservation) Listen(int) (*net.TCPListener, error) { return nil, errSystem }

// Unlisten fails.
func (*Reservation) Unlisten() error { return errSystem }

// Close does nothing.
func (*Reservation) Close() error { return nil }
