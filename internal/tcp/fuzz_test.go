package tcp

import (
	"bytes"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/transport"
)

// The kinds of steps that FuzzSegments reads: a byte each, with its arguments
// behind it.
const (
	stepSegment = iota // flags, seq, ack, window, length, options
	stepNear           // the same, close to what is expected
	stepWrite          // length
	stepRead
	stepTime   // how slow
	stepDevice // room
	stepClose  // how
	stepTooBig // size
	steps
)

// bytesIn hands out a fuzzer's input, zeros behind its end.
type bytesIn []byte

func (b *bytesIn) byte() byte {
	if len(*b) == 0 {
		return 0
	}
	x := (*b)[0]
	*b = (*b)[1:]
	return x
}

func (b *bytesIn) word() uint16 { return uint16(b.byte())<<8 | uint16(b.byte()) }

// FuzzSegments plays foreign segments, and what a program and a device do, to an
// established connection. Its numbers must hold together after each.
func FuzzSegments(f *testing.F) {
	near := func(flags header.TCPFlags, seq, ack int16, n uint16, options ...byte) []byte {
		b := []byte{stepNear, byte(flags), byte(seq >> 8), byte(seq), byte(ack >> 8), byte(ack), 0xff, byte(n >> 8), byte(n), byte(len(options))}
		return append(b, options...)
	}
	write := []byte{stepWrite, 40, 0}
	for _, shape := range []byte{0, 1, 2, 3, 7} {
		join := func(parts ...[]byte) []byte { return append([]byte{shape}, bytes.Join(parts, nil)...) }
		f.Add(join(near(ack|psh, 0, 0, 100), []byte{stepRead}, write, near(ack, 0, 1000, 0), []byte{stepTime, 40}))
		f.Add(join(near(ack, 100, 0, 100), near(ack, 300, 0, 100), near(ack, 50, 0, 300), near(ack|fin, 400, 0, 10), near(ack, 0, 0, 60)))
		f.Add(join(write, near(ack, 0, 0, 0, 5, 10, 0, 0, 5, 180, 0, 0, 11, 104), near(ack, 0, 0, 0), near(ack, 0, 0, 0), near(ack, 0, 5000, 0)))
		f.Add(join([]byte{stepDevice, 1}, write, []byte{stepTime, 90, stepDevice, 255, stepTime, 90}, near(ack, 0, 1460, 0)))
		f.Add(join(near(rst, 1, 0, 0), near(syn, 0, 0, 0), near(ack|fin, 0, 0, 0), []byte{stepClose, 0}, near(ack, 0, 1, 0), near(syn, 9, 0, 0)))
		f.Add(join([]byte{stepClose, 1}, near(ack, 0, 1, 0), near(ack|fin, 0, 1, 0), []byte{stepTime, 200}))
		f.Add(join(write, []byte{stepTooBig, 2}, []byte{stepTime, 250, stepTime, 250}, write, near(ack, 0, 20000, 20)))
		f.Add(join([]byte{stepSegment, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 4, 1, 2, 3, 4}, near(0x3f, 0, 0, 9)))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 4096 {
			t.Skip("slow inputs find no more")
		}
		in := bytesIn(input)
		kind := in.byte()
		send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 32 << 10, Max: 32 << 10}
		receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 16 << 10, Max: 64 << 10}
		h := newHost(t, kind&16 != 0, &send, &receive)
		s := shape{sack: kind&1 != 0, stamp: kind&2 != 0}
		if kind&4 != 0 {
			s.shift = 7
		}
		ep := h.accept(s)
		for range 200 {
			if len(in) == 0 {
				break
			}
			h.step(&in)
			h.sent = h.sent[:0]
			if err := ep.invariant(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// step does what the next bytes say.
func (h *host) step(in *bytesIn) {
	e := h.ep
	switch kind := in.byte() % steps; kind {
	case stepSegment, stepNear:
		var o out
		o.asIs = true
		o.flags = header.TCPFlags(in.byte() & 0x3f)
		if kind == stepNear {
			o.seq = e.receiveNext + uint32(int16(in.word()))
			o.ack = e.unacknowledged + uint32(int32(int16(in.word())))
		} else {
			o.seq = uint32(in.word())<<16 | uint32(in.word())
			o.ack = uint32(in.word())<<16 | uint32(in.word())
		}
		if o.window = int(in.byte()) << 6; o.window == 0 {
			o.window = -1
		}
		o.data = string(make([]byte, in.word()%3000))
		for n := in.byte() % 40; n > 0 && len(*in) > 0; n-- {
			o.options = append(o.options, in.byte())
		}
		if kind == stepNear && len(o.options) == 10 && o.options[0] == header.TCPOptionSACK {
			// A block close to what is in flight.
			first := uint32(o.options[4])<<8 | uint32(o.options[5])
			end := uint32(o.options[8])<<8 | uint32(o.options[9])
			o.options = blocks(e.unacknowledged+first, e.unacknowledged+end)
		}
		if h.stamp && o.flags&syn == 0 {
			o.options = append(stamps(h.millis(), h.echo), o.options[:min(len(o.options), 28)]...)
		}
		b := h.encode(o)
		if o.flags&syn != 0 || h.slow {
			h.inject(testframe.IP(peerIP, localIP, testframe.ProtocolTCP, b))
			break
		}
		n := b.DataOffset()
		if e.Input(b[:n], b[n:]) && o.flags&psh != 0 {
			e.Acknowledge()
		}
	case stepWrite:
		_, _ = e.Write(make([]byte, in.word()))
	case stepRead:
		h.read()
	case stepTime:
		e.Acknowledge()
		h.clock.Advance(time.Duration(in.byte()) * 8 * time.Millisecond)
		h.p.Retry()
	case stepDevice:
		if h.room = int(in.byte()) % 8; h.room == 7 {
			h.room = -1
		}
		h.p.Retry()
	case stepClose:
		switch in.byte() % 4 {
		case 0:
			e.Close()
		case 1, 2:
			_ = e.CloseWrite()
		default:
			h.clock.Advance(2 * time.Minute)
		}
	case stepTooBig:
		size := uint16(in.byte()) << 3
		if s := e.current(); s != transport.StateClosed && s != transport.StateError {
			h.icmp(header.ICMPv4DstUnreachable, header.ICMPv4FragmentationNeeded, size, e.unacknowledged)
		}
	}
}
