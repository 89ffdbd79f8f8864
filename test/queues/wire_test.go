package queues

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

// fragmenting returns a wire that cuts TCP packets with data into fragments of
// size bytes, a multiple of 8.
func fragmenting(deliver func([]byte), size int) func([]byte) {
	id := uint32(0)
	return func(frame []byte) {
		p, ok := offload.Parse(frame)
		if !ok || p.Protocol != offload.TCP || p.End-p.L3 <= size {
			deliver(frame)
			return
		}
		id++
		payload := frame[p.L3+header.IPv4MinimumSize : p.End]
		if p.IPv6 {
			payload = frame[p.L3+header.IPv6MinimumSize : p.End]
		}
		for at := 0; at < len(payload); at += size {
			part := payload[at:min(at+size, len(payload))]
			more := at+size < len(payload)
			b := append([]byte(nil), frame[:link.EthernetHeaderLen]...)
			if p.IPv6 {
				h := append(header.IPv6(nil), frame[p.L3:p.L3+header.IPv6MinimumSize]...)
				next := h.NextHeader()
				h.SetNextHeader(uint8(header.IPv6FragmentHeader))
				h.SetPayloadLength(uint16(header.IPv6FragmentHeaderSize + len(part)))
				ext := make([]byte, header.IPv6FragmentHeaderSize)
				ext[0] = next
				offset := uint16(at)
				if more {
					offset |= 1
				}
				binary.BigEndian.PutUint16(ext[2:], offset)
				binary.BigEndian.PutUint32(ext[4:], id)
				b = append(append(b, h...), ext...)
			} else {
				h := append(header.IPv4(nil), frame[p.L3:p.L3+header.IPv4MinimumSize]...)
				h.SetTotalLength(uint16(header.IPv4MinimumSize + len(part)))
				h.SetID(uint16(id))
				flags := uint8(0)
				if more {
					flags = header.IPv4FlagMoreFragments
				}
				h.SetFlagsFragmentOffset(flags, uint16(at))
				h.SetChecksum(0)
				h.SetChecksum(^h.CalculateChecksum())
				b = append(b, h...)
			}
			deliver(append(b, part...))
		}
	}
}
