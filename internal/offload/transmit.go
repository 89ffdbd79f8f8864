package offload

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/link"
)

// TCP flags that only one segment of a cut frame keeps.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80 // RFC 3168, section 6.1.2: once per window
)

// Errors of Transmit. A real device answers such requests by sending rubbish or
// by stopping its queue.
var (
	ErrNotCapable = errors.New("the device was asked for what it cannot do")
	ErrBadLengths = errors.New("the header lengths do not fit the frame")
)

// Transmit makes the frames that go to the wire out of one that the stack handed
// over with tx, and gives them to emit in order, each valid during the call.
// can is what the device may be asked for. frame is changed in place; segments
// are built in scratch, which must hold a segment with its headers when tx.MSS
// is set.
func Transmit(frame []byte, tx link.TxOffload, can link.Capabilities, scratch []byte, emit func([]byte)) error {
	if tx.Flags&^link.TxIPv6 == 0 && tx.MSS == 0 {
		emit(frame)
		return nil
	}
	if tx.Flags&link.TxIPv4Checksum != 0 && !can.TxIPv4Checksum ||
		tx.Flags&link.TxTCPChecksum != 0 && !can.TxTCPChecksum ||
		tx.MSS != 0 && len(frame) > can.TSO {
		return fmt.Errorf("%w: flags %#x, MSS %d, %d bytes", ErrNotCapable, tx.Flags, tx.MSS, len(frame))
	}
	o, err := layout(frame, tx)
	if err != nil {
		return err
	}
	if tx.MSS != 0 {
		return o.segment(frame, int(tx.MSS), scratch, emit)
	}
	sum := uint16(0)
	if tx.Flags&link.TxTCPChecksum != 0 {
		sum = checksum.Sum(frame[o.payload:], o.partial(frame))
	}
	o.finish(frame, sum)
	emit(frame)
	return nil
}

// offsets are where the headers of an outgoing frame lie by the word of the
// stack: a device does not parse what it sends.
type offsets struct {
	l3, l4, payload int
	tx              link.TxOffload
}

func layout(frame []byte, tx link.TxOffload) (offsets, error) {
	o := offsets{l3: int(tx.L2Len), tx: tx}
	o.l4 = o.l3 + int(tx.L3Len)
	o.payload = o.l4 + int(tx.L4Len)
	version, minimum := byte(4), ipv4MinLen
	if tx.Flags&link.TxIPv6 != 0 {
		version, minimum = 6, ipv6Len
	}
	tcp := tx.Flags&link.TxTCPChecksum != 0 || tx.MSS != 0
	if o.l3 < ethernetLen || int(tx.L3Len) < minimum || tcp && int(tx.L4Len) < tcpMinLen ||
		o.payload > len(frame) || frame[o.l3]>>4 != version {
		return o, fmt.Errorf("%w: L2 %d, L3 %d, L4 %d, IPv%d, %d bytes", ErrBadLengths, tx.L2Len, tx.L3Len, tx.L4Len, version, len(frame))
	}
	return o, nil
}

// partial is the pseudo-header sum that the stack left in the checksum field.
func (o *offsets) partial(frame []byte) uint16 {
	return binary.BigEndian.Uint16(frame[o.l4+16:])
}

// finish fills in the checksums that were asked for. sum is that of the
// pseudo-header and of the payload.
func (o *offsets) finish(frame []byte, sum uint16) {
	if o.tx.Flags&link.TxIPv4Checksum != 0 {
		header := frame[o.l3:o.l4]
		binary.BigEndian.PutUint16(header[10:], 0)
		binary.BigEndian.PutUint16(header[10:], ^checksum.Sum(header, 0))
	}
	if o.tx.Flags&link.TxTCPChecksum != 0 || o.tx.MSS != 0 {
		tcp := frame[o.l4:o.payload]
		binary.BigEndian.PutUint16(tcp[16:], 0)
		binary.BigEndian.PutUint16(tcp[16:], ^checksum.Sum(tcp, sum))
	}
}

// segment cuts the frame into segments of at most mss bytes of payload.
func (o *offsets) segment(frame []byte, mss int, scratch []byte, emit func([]byte)) error {
	header, payload := frame[:o.payload], frame[o.payload:]
	if need := o.payload + min(mss, len(payload)); len(scratch) < need {
		return fmt.Errorf("%w: segments of %d bytes, room for %d", ErrBadLengths, need, len(scratch))
	}
	pseudo := o.partial(frame)
	ipv6 := o.tx.Flags&link.TxIPv6 != 0
	flags := header[o.l4+13]
	seq := binary.BigEndian.Uint32(header[o.l4+4:])
	for sent, i := 0, uint16(0); ; i++ {
		n := min(mss, len(payload)-sent)
		last := sent+n == len(payload)
		out := scratch[:o.payload+n]
		copy(out, header)
		sum := checksum.Copy(out[o.payload:], payload[sent:sent+n], pseudo)

		ip, tcp := out[o.l3:], out[o.l4:]
		if ipv6 {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
		} else {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
			binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+i)
		}
		binary.BigEndian.PutUint32(tcp[4:], seq+uint32(sent))
		tcp[13] = flags
		if !last {
			tcp[13] &^= tcpFIN | tcpPSH
		}
		if i > 0 {
			tcp[13] &^= tcpCWR
		}
		o.finish(out, checksum.Combine(sum, uint16(len(tcp))))
		emit(out)
		if sent += n; last {
			return nil
		}
	}
}
