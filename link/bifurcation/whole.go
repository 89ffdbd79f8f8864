package bifurcation

import "net/netip"

// Whole is the filter of a device that nobody else has: a virtual device, or a
// port that the kernel let go of.
type Whole struct{}

// Claim implements Filter: everything is ours already.
func (Whole) Claim(netip.Addr, uint16, int) error { return nil }

// Release implements Filter.
func (Whole) Release(netip.Addr, uint16, int) error { return nil }

// Verdicts implements Filter.
func (Whole) Verdicts() []Verdict { return nil }

func (Whole) String() string { return "whole device" }
