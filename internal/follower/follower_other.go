//go:build !linux

package follower

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
)

// A Follower cannot be had on this system.
type Follower struct{}

// New fails.
func New(name string, _ Events, _ *slog.Logger) (*Follower, error) {
	return nil, fmt.Errorf("follower %s: %w: interfaces are shared with the kernel on Linux only", name, errors.ErrUnsupported)
}

// State is never called, because there is no Follower; nor are the others.
func (*Follower) State() State { return State{} }

// Resolve does nothing.
func (*Follower) Resolve(netip.Addr) {}

// Stats returns zeros.
func (*Follower) Stats() Stats { return Stats{} }

// Routes fails.
func (*Follower) Routes() (*Routes, error) { return nil, errors.ErrUnsupported }

// Forget does nothing.
func (*Follower) Forget() {}

// Routes cannot be had on this system.
type Routes struct{}

// Path is never called.
func (*Routes) Path(netip.Addr, netip.Addr) Path { return Path{Exit: Closed} }

// Close does nothing.
func (*Routes) Close() {}

// Close does nothing.
func (*Follower) Close() error { return nil }
