package offload

import (
	"encoding/binary"

	"github.com/gotpa/tpa/internal/checksum"
)

// tcpChecksum is where TCP's checksum is in its header.
const tcpChecksum = 16

// Partial tells whether the sender of a frame left its TCP checksum to a device: the
// field holds the sum of the pseudo-header then, and the IPv4 header is right.
//
// The kernel at the other end of a veth pair does that (CHECKSUM_PARTIAL), and so
// does the host of a virtual machine, unless `ethtool -K PEER tx off` forbids it:
// no device follows that could fill in the checksum, and none that could damage
// the segment. A segment that came over a wire holds that value by chance once in
// 65,536 times, and was checked by the device that received it.
func Partial(frame []byte) bool {
	tcp, pseudo := tcpOf(frame)
	return tcp != nil && binary.BigEndian.Uint16(tcp[tcpChecksum:]) == pseudo
}

// Complete fills in the TCP checksum of a frame for which Partial holds, and leaves
// others alone.
func Complete(frame []byte) {
	if tcp, pseudo := tcpOf(frame); tcp != nil && binary.BigEndian.Uint16(tcp[tcpChecksum:]) == pseudo {
		// The field itself adds the pseudo-header to the sum.
		binary.BigEndian.PutUint16(tcp[tcpChecksum:], ^checksum.Sum(tcp, 0))
	}
}

// tcpOf returns the TCP segment of a frame and the sum of its pseudo-header, nil if
// it is none, or its IPv4 header is wrong.
func tcpOf(frame []byte) (tcp []byte, pseudo uint16) {
	var addrs []byte
	switch {
	case len(frame) >= 54 && binary.BigEndian.Uint16(frame[12:]) == etherIPv4 && frame[14] == 0x45 && frame[23] == TCP:
		size := int(binary.BigEndian.Uint16(frame[16:]))
		const moreAndOffset = 0x3fff
		if size < 40 || size > len(frame)-14 || binary.BigEndian.Uint16(frame[20:])&moreAndOffset != 0 || checksum.Sum(frame[14:34], 0) != 0xffff {
			return nil, 0
		}
		addrs, tcp = frame[26:34], frame[34:14+size]
	case len(frame) >= 74 && binary.BigEndian.Uint16(frame[12:]) == etherIPv6 && frame[14]>>4 == 6 && frame[20] == TCP:
		size := int(binary.BigEndian.Uint16(frame[18:]))
		if size < tcpMinLen || size > len(frame)-54 {
			return nil, 0
		}
		addrs, tcp = frame[22:54], frame[54:54+size]
	default: // IP options, extension headers
		p, ok := Parse(frame)
		if !ok || p.L3 != ethernetLen || p.Fragment || p.Protocol != TCP || p.End-p.L4 < tcpMinLen ||
			!p.IPv6 && checksum.Sum(frame[p.L3:p.L4], 0) != 0xffff {
			return nil, 0
		}
		addrs, tcp = p.Addrs(frame), frame[p.L4:p.End]
	}
	return tcp, checksum.Combine(checksum.Sum(addrs, TCP), uint16(len(tcp)))
}
