package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Dials says whether connections of ours begin at n ports from first on, at whatever
// address: answers to SYNs are ours there. At other claimed ports they are the kernel's,
// which has connections from there behind NAT, and so is what follows them. A new filter
// has no such port.
func (f *Filter) Dials(first uint16, n int, yes bool) error {
	if first == 0 || n < 1 || int(first)+n > 65536 {
		return fmt.Errorf("filter: %d ports from %d: want 1 to 65535", n, first)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errFilterClosed
	}
	for port, end := int(first), int(first)+n; port < end; {
		i := port / 64
		old := f.dials[i]
		for ; port < end && port/64 == i; port++ {
			f.dials[i] &^= 1 << (port % 64)
			if yes {
				f.dials[i] |= 1 << (port % 64)
			}
		}
		if f.dials[i] == old {
			continue
		}
		if err := f.maps.Dials.Update(uint32(i), f.dials[i], ebpf.UpdateAny); err != nil {
			return fmt.Errorf("filter: ports to dial from: %w", err)
		}
	}
	return nil
}
