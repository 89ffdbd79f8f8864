package xdp

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// A virtio is what a virtio device and its driver have agreed on: a digit for each
// bit, from the lowest, as sysfs prints it. It is empty for other devices, and where
// the file is not to be seen.
type virtio []byte

// Features by bit, of the virtio specification.
const (
	virtioControlOffloads = 2 // VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
	virtioTSO4            = 7 // VIRTIO_NET_F_GUEST_TSO4
	virtioTSO6            = 8 // VIRTIO_NET_F_GUEST_TSO6
	virtioPlatform        = 33
)

func virtioOf(attrs *netlink.LinkAttrs) virtio {
	dir := "/sys/class/net/" + attrs.Name
	// sysfs shows the network namespace that mounted it, which may have another
	// interface of the name.
	if index, _ := os.ReadFile(dir + "/ifindex"); strings.TrimSpace(string(index)) != strconv.Itoa(attrs.Index) {
		return nil
	}
	if address, _ := os.ReadFile(dir + "/address"); strings.TrimSpace(string(address)) != attrs.HardwareAddr.String() {
		return nil
	}
	b, _ := os.ReadFile(dir + "/device/features")
	if slices.ContainsFunc(b, func(c byte) bool { return c != '0' && c != '1' && c != '\n' }) {
		return nil
	}
	return b
}

func (v virtio) has(bit int) bool { return bit < len(v) && v[bit] == '1' }

// physical tells whether the device reads and writes physical addresses, past the
// kernel's DMA mapping (without VIRTIO_F_ACCESS_PLATFORM).
func (v virtio) physical() bool { return len(v) > virtioPlatform && !v.has(virtioPlatform) }

// joins tells whether the host sends segments of up to 64 KB, and the driver cannot
// have it stop.
func (v virtio) joins() bool {
	return (v.has(virtioTSO4) || v.has(virtioTSO6)) && !v.has(virtioControlOffloads)
}
