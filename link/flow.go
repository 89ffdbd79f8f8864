package link

import "net/netip"

// A Flow is one TCP connection, seen from this host.
type Flow struct{ Local, Remote netip.AddrPort }

// A FlowRule names TCP segments to ports of one local address: those whose
// destination port equals Port in the bits of Mask.
type FlowRule struct {
	Addr       netip.Addr
	Port, Mask uint16
}

// A FlowRuler is a Device that may be in isolated mode: it then receives what its
// flow rules match, spread over its queues as its RSS says, and the kernel has the
// rest. All rules go when the device is closed or the process ends.
type FlowRuler interface {
	// Isolated tells whether the device is in isolated mode. The other methods need
	// that.
	Isolated() bool
	// ValidateFlowRule asks whether the device would take a rule. The error names
	// what it cannot do.
	ValidateFlowRule(FlowRule) error
	// CreateFlowRule adds a rule and returns a handle for DestroyFlowRule.
	CreateFlowRule(FlowRule) (handle uint64, err error)
	// DestroyFlowRule takes a rule back.
	DestroyFlowRule(handle uint64) error
}
