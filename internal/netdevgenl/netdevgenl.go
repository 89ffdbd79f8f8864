// Package netdevgenl asks the kernel what an interface can do with XDP and AF_XDP,
// and which NAPI contexts serve its queues, by the netlink family "netdev"
// (Documentation/netlink/specs/netdev.yaml). The family is in Linux from 6.3 on,
// and grew: what a kernel does not know is an error, which callers take as unknown.
package netdevgenl

import (
	"errors"
	"fmt"

	"github.com/gotpa/tpa/internal/genetlink"
)

const family = "netdev"

// Commands and attributes of <linux/netdev.h>.
const (
	cmdDevGet  = 1
	cmdNAPIGet = 11
	cmdNAPISet = 14

	devIfindex      = 1
	devXDPFeatures  = 3
	devZeroCopySegs = 4
	devXSKFeatures  = 6

	napiIfindex      = 1
	napiID           = 2
	napiDeferIRQs    = 5
	napiFlushTimeout = 6

	napiSuspendTimeout = 7
)

// Features are bits of what a driver does with XDP (NETDEV_XDP_ACT_*).
type Features uint64

// Features that this library asks for.
const (
	// Basic: the driver runs programs before the kernel has made a packet of the
	// frame, which may pass, drop and send back frames.
	Basic Features = 1 << 0
	// Redirect: programs may redirect frames, to AF_XDP sockets among others.
	Redirect Features = 1 << 1
	// ZeroCopy: the device reads and writes the memory of AF_XDP sockets.
	ZeroCopy Features = 1 << 3
	// Fragments: programs that know of fragments get frames in several buffers.
	Fragments Features = 1 << 5
)

// Has tells whether all bits of b are set.
func (f Features) Has(b Features) bool { return f&b == b }

// A Device is what the kernel tells about an interface.
type Device struct {
	Features Features
	// ZeroCopySegments is the most buffers that a frame may have in zero-copy mode;
	// 0 where the kernel does not tell (before Linux 6.6).
	ZeroCopySegments int
	// TxChecksum: the device fills in checksums of frames that AF_XDP sockets send
	// in zero-copy mode (Linux 6.8).
	TxChecksum bool
}

// txChecksum is NETDEV_XSK_FLAGS_TX_CHECKSUM.
const txChecksum = 1 << 1

// Get asks about an interface.
func Get(c *genetlink.Conn, ifindex int) (Device, error) {
	a, err := c.Ask(family, cmdDevGet, genetlink.Uint32(devIfindex, uint32(ifindex)))
	if err != nil {
		return Device{}, err
	}
	features, ok := a.Uint(devXDPFeatures)
	if !ok {
		return Device{}, fmt.Errorf("the kernel does not tell the XDP features: %w", errors.ErrUnsupported)
	}
	segments, _ := a.Uint(devZeroCopySegs)
	xsk, _ := a.Uint(devXSKFeatures)
	return Device{Features(features), int(segments), xsk&txChecksum != 0}, nil
}
