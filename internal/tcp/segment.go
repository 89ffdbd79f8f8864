package tcp

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
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
	case len(s.options) == 12 && binary.BigEndian.Uint32(s.options) == 0x0101080a: // no-op, no-op, timestamps
		s.timestamp = true
		s.tsVal, s.tsEcr = binary.BigEndian.Uint32(s.options[4:]), binary.BigEndian.Uint32(s.options[8:])
	default:
		o := header.ParseTCPOptions(s.options)
		s.timestamp, s.tsVal, s.tsEcr, s.sack = o.TS, o.TSVal, o.TSEcr, o.SACKBlocks
	}
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

// insertSpan adds a span to a sorted list of spans that neither touch nor
// overlap, and keeps it such. It returns the list and the span that holds the new
// one now.
func insertSpan(list []span, x span) ([]span, span) {
	i := 0
	for i < len(list) && before(list[i].end, x.first) {
		i++
	}
	j := i
	for j < len(list) && !after(list[j].first, x.end) {
		if before(list[j].first, x.first) {
			x.first = list[j].first
		}
		if after(list[j].end, x.end) {
			x.end = list[j].end
		}
		j++
	}
	if i == j {
		list = append(list, span{})
		copy(list[i+1:], list[i:])
	} else {
		list = append(list[:i+1], list[j:]...)
	}
	list[i] = x
	return list, x
}

// trimSpans removes what lies before seq.
func trimSpans(list []span, seq uint32) []span {
	i := 0
	for i < len(list) && !after(list[i].end, seq) {
		i++
	}
	list = append(list[:0], list[i:]...)
	if len(list) > 0 && before(list[0].first, seq) {
		list[0].first = seq
	}
	return list
}
