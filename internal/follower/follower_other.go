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

// Close does nothing.
func (*Follower) Close() error { return nil }
