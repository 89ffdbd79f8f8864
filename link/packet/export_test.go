package packet

import "github.com/gotpa/tpa/internal/bpf"

// Filter returns the filter of the device.
func (d *Device) Filter() *bpf.Filter { return d.filter }
