package bifurcation

import (
	"net/netip"

	"github.com/gotpa/tpa/link"
)

// Of returns the filter that goes with a device: Whole where it is not shared.
func Of(d link.Device) link.Filter {
	if s, ok := d.(link.Sharer); ok {
		if sharing, ok := s.Sharing(); ok {
			return sharing.Filter
		}
	}
	return Whole{}
}

// Whole is the filter of a device that nobody else has: a virtual device, or a
// port that the kernel let go of.
type Whole struct{}

var _ link.Filter = Whole{}

// Claim implements link.Filter: everything is ours already.
func (Whole) Claim(netip.Addr, uint16, int) error { return nil }

// Release implements link.Filter.
func (Whole) Release(netip.Addr, uint16, int) error { return nil }

// Stats implements link.Filter.
func (Whole) Stats() link.FilterStats { return link.FilterStats{Backend: "none"} }

func (Whole) String() string { return "whole device" }
