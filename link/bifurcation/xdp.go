package bifurcation

import (
	"fmt"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
)

// XDP is the filter of an interface shared by AF_XDP or by packet sockets.
type XDP struct{ *xdp.Filter }

var _ Sharer = XDP{}

// Verdicts implements Filter.
func (x XDP) Verdicts() []Verdict {
	v := x.Filter.Verdicts()
	return []Verdict{
		{"redirected", v.Redirected, "accel"},
		{"no socket", v.NoSocket, "kernel"},
		{"not IP", v.NotIP, "kernel"},
		{"not TCP", v.NotTCP, "kernel"},
		{"fragment", v.Fragment, "kernel"},
		{"IP options", v.IPOptions, "kernel"},
		{"malformed", v.Malformed, "kernel"},
		{"other address", v.OtherAddress, "kernel"},
		{"other port", v.OtherPort, "kernel"},
		{"SYN answered", v.Answered, "filter"},
		{"SYN dropped", v.Dropped, "filter"},
	}
}

func (x XDP) String() string { return fmt.Sprintf("XDP filter, %v", x.Attach()) }

// Of returns the filter that goes with a device: the XDP filter where it shares an
// interface, flow rules for a port in isolated mode, else Whole.
func Of(d link.Device) Filter {
	switch d := d.(type) {
	case *xdp.Device:
		return XDP{d.Filter()}
	case *packet.Device:
		return XDP{d.Filter()}
	case *dpdk.Port:
		if d.Isolated() {
			return FlowRules(d)
		}
	}
	return Whole{}
}
