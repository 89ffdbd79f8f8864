package tcp

import (
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

func TestTooBig(t *testing.T) {
	frag := func(h *host, size uint16, seq uint32) {
		h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4FragmentationNeeded, size, seq)
	}
	for _, test := range []struct {
		name string
		size uint16
		off  uint32 // of the quoted sequence number
		want []string
		mss  int
	}{
		{"in flight", 1000, 1460, []string{"A960", "A960", "A960", "A40"}, 960},
		{"slow past", 1000, 1<<32 - 5000, nil, 1460},
		{"not sent yet", 1000, 5000, nil, 1460},
		{"incredibly small", 68, 0, []string{"A512", "A512", "A512", "A512", "A512", "A360"}, 512},
		{"greater than ours", 9000, 0, nil, 1460},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, false)
			h.accept(shape{})
			una := h.acked
			h.write(2920)
			h.expect("two segments", "A1460", "A1460")
			frag(h, test.size, una+test.off)
			h.expect("the news", test.want...)
			if h.ep.mss != test.mss {
				t.Errorf("the MSS is %d, want %d", h.ep.mss, test.mss)
			}
		})
	}
}

// TestSoftError: what ICMP says of an established connection is no
// more than a hint.
func TestSoftError(t *testing.T) {
	h := newHost(t, false)
	h.accept(shape{})
	h.write(10)
	h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable, 0, h.ep.unacknowledged)
	h.state(transport.StateEstablished)
	if err := h.ep.LastError(); err != syscall.ECONNREFUSED {
		t.Errorf("SO_ERROR is %v, want connection refused", err)
	}
}

// The device.
