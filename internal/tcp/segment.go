package tcp

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/transport"
)

// Sequence numbers wrap around: they are compared by their distance.

func before(a, b uint32) bool { return int32(a-b) < 0 }

func after(a, b uint32) bool { return int32(a-b) > 0 }

const (
	fin = header.TCPFlagFin
	syn = header.TCPFlagSyn
	rst = header.TCPFlagRst
	psh = header.TCPFlagPsh
	ack = header.TCPFlagAck
)

// segment is a received segment. It and what it points to are valid during one
// call only.
type segment struct {
	seq, ack uint32
	flags    header.TCPFlags
	window   uint32 // as it stands in the header
	options  []byte
	payload  []byte

	timestamp    bool
	tsVal, tsEcr uint32
	sack         []header.SACKBlock
}

// parse reads a header, whose data offset fits its length.
func (s *segment) parse(b header.TCP, payload []byte) {
	s.seq, s.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	s.flags = header.TCPFlags(b[13])
	s.window = uint32(binary.BigEndian.Uint16(b[14:]))
	s.options, s.payload = b[header.TCPMinimumSize:], payload
	s.timestamp, s.sack = false, nil
	switch {
	case len(s.options) == 0 || s.flags&syn != 0:
	case len(s.options) == 12 && binary.BigEndian.Uint32(s.options) == timestampOption:
		s.timestamp = true
		s.tsVal, s.tsEcr = binary.BigEndian.Uint32(s.options[4:]), binary.BigEndian.Uint32(s.options[8:])
	default:
		o := header.ParseTCPOptions(s.options)
		s.timestamp, s.tsVal, s.tsEcr, s.sack = o.TS, o.TSVal, o.TSEcr, o.SACKBlocks
	}
}

// synOptions reads the options of a SYN. Without one for the MSS it is the least
// that any host takes (RFC 9293 section 3.7.1).
func synOptions(s *segment, proto tcpip.NetworkProtocolNumber) header.TCPSynOptions {
	o := header.ParseSynOptions(s.options, s.flags&ack != 0)
	if o.MSS == header.TCPDefaultMSS && proto == header.IPv6ProtocolNumber && !hasOption(s.options, header.TCPOptionMSS) {
		o.MSS = transport.MinMTU6 - header.IPv6MinimumSize - header.TCPMinimumSize
	}
	return o
}

// hasOption tells whether an option of some kind is among well-formed ones.
func hasOption(b []byte, kind byte) bool {
	for len(b) > 0 && b[0] != header.TCPOptionEOL {
		switch {
		case b[0] == kind:
			return true
		case b[0] == header.TCPOptionNOP:
			b = b[1:]
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return false
		default:
			b = b[b[1]:]
		}
	}
	return false
}

// length is what the segment takes of the sequence space.
func (s *segment) length() uint32 {
	n := uint32(len(s.payload))
	if s.flags&syn != 0 {
		n++
	}
	if s.flags&fin != 0 {
		n++
	}
	return n
}

// A span is the part of the sequence space from first up to, not including, end.
type span struct{ first, end uint32 }
