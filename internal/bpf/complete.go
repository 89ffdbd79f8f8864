package bpf

import (
	"encoding/binary"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// Complete fills in the checksum of a TCP segment whose sender left that to its
// device, and returns Good for it. It leaves other frames alone and returns
// Unchecked.
//
// The kernel at the other end of a veth pair does that (CHECKSUM_PARTIAL), and so
// does the host of a virtual machine, unless `ethtool -K PEER tx off` forbids it:
// no device follows that could fill in the checksum, and none that could damage
// the segment. The field then holds the sum of the pseudo-header. A segment that
// came over a wire holds that value by chance once in 65,536 times, and was
// checked by the device that received it.
func Complete(frame []byte) link.ChecksumStatus {
	var addrs, tcp []byte
	switch {
	case len(frame) >= 54 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14] == 0x45 && frame[23] == 6:
		size := int(binary.BigEndian.Uint16(frame[16:]))
		if size < 40 || size > len(frame)-14 || checksum.Sum(frame[14:34], 0) != 0xffff {
			return link.Unchecked
		}
		addrs, tcp = frame[26:34], frame[34:14+size]
	case len(frame) >= 74 && binary.BigEndian.Uint16(frame[12:]) == 0x86dd && frame[20] == 6:
		size := int(binary.BigEndian.Uint16(frame[18:]))
		if size < 20 || size > len(frame)-54 {
			return link.Unchecked
		}
		addrs, tcp = frame[22:54], frame[54:54+size]
	default:
		return link.Unchecked
	}
	pseudo := checksum.Sum(addrs, 6)
	pseudo = checksum.Combine(pseudo, uint16(len(tcp)))
	if binary.BigEndian.Uint16(tcp[16:]) != pseudo {
		return link.Unchecked
	}
	// The field itself adds the pseudo-header to the sum.
	binary.BigEndian.PutUint16(tcp[16:], ^checksum.Sum(tcp, 0))
	return link.Good
}
