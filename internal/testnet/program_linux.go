package testnet

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TCX is the kernel's way to attach programs behind XDP, without which there are no
// packet sockets for us.
var TCX = Requirement{
	Name: "Linux 6.6 or newer, which attaches programs behind XDP (tcx)",
	Probe: sync.OnceValue(func() error {
		_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
		if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) {
			return nil // Root is another requirement
		}
		return fmt.Errorf("the kernel: %w", err)
	}),
	Fix: "a newer kernel",
}

// Filtered tells whether a program is attached to the interface, as XDP or behind
// it.
func (i *Interface) Filtered() (bool, error) {
	l, err := i.Host.Netlink.LinkByName(i.Name)
	if err != nil {
		return false, err
	}
	if hasXDP(l) || TCX.Probe() != nil {
		return hasXDP(l), nil
	}
	var behind *link.QueryResult
	i.Host.Do(func() {
		behind, err = link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: ebpf.AttachTCXIngress})
	})
	if err != nil {
		return false, err
	}
	return len(behind.Programs) > 0, nil
}

func hasXDP(l netlink.Link) bool {
	x := l.Attrs().Xdp
	return x != nil && x.Attached
}
