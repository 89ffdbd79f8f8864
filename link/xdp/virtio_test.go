package xdp

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestVirtio(t *testing.T) {
	features := func(bits ...int) virtio {
		v := virtio(bytes.Repeat([]byte{'0'}, 64))
		for _, b := range bits {
			v[b] = '1'
		}
		return append(v, '\n')
	}
	for _, tt := range []struct {
		name            string
		v               virtio
		physical, joins bool
	}{
		{"another device", nil, false, false},
		{"QEMU as it comes", features(0, 1, 2, 7, 8), true, false},
		{"with DMA mapping", features(0, 1, 2, 7, 8, 33), false, false},
		{"without control of offloads", features(0, 1, 7, 8), true, true},
		{"without control of offloads, IPv6 alone", features(0, 1, 8), true, true},
		{"without segmentation offload", features(0, 1), true, false},
	} {
		if tt.v.physical() != tt.physical || tt.v.joins() != tt.joins {
			t.Errorf("%s: physical %v, joins %v, want %v, %v", tt.name, tt.v.physical(), tt.v.joins(), tt.physical, tt.joins)
		}
	}
	// Another interface of the name: sysfs may show another network namespace.
	if v := virtioOf(&netlink.LinkAttrs{Name: "eth0", Index: 1 << 20}); v != nil {
		t.Errorf("an interface that is not there has virtio features %q", v)
	}
}
