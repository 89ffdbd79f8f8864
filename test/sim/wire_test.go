package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
)

// A wire is the cable between the two cards. It sees every frame as a card sent
// it, checks it, and keeps a digest of all of them.
type wire struct {
	start  time.Time
	mtu    int
	report func(format string, args ...any)

	frames int
	digest *xxhash.Digest // of all frames, their directions and times
	pcap   *pcapgo.Writer
	// damage is set when cards send frames that are corrupted already.
	damage bool
	// gaps is set once frames may be lost before the wire sees them.
	gaps bool
	// apart is set once hosts may not find each other again: a connection ends
	// without a word.
	apart bool
	// flows holds what each direction of each connection sent so far, by the key
	// that its receiver sees.
	flows map[flow.Key]*sent
}

// sent is one direction of a connection.
type sent struct {
	isn   uint32 // of the SYN
	bytes []byte // the stream so far, from isn+1 on
	fin   int    // its place in the stream, -1 for none
	gap   bool   // bytes are missing: no more checks
	reset bool   // it sent a RST
}

func newWire(mtu int, report func(string, ...any)) *wire {
	w := &wire{start: time.Now(), mtu: mtu, report: report, digest: xxhash.New(), flows: map[flow.Key]*sent{}}
	if name := os.Getenv("PCAP"); name != "" {
		file, err := os.Create(name)
		if err != nil {
			report("%v", err)
			return w
		}
		w.pcap = pcapgo.NewWriterNanos(file)
		if err := w.pcap.WriteFileHeader(1<<16, layers.LinkTypeEthernet); err != nil {
			report("%v", err)
		}
	}
	return w
}

// carry returns the way of frames in one direction: observed, then delivered.
func (w *wire) carry(direction byte, deliver func([]byte)) func([]byte) {
	return func(frame []byte) {
		at := time.Since(w.start)
		w.frames++
		p, ip := offload.Parse(frame)
		w.record(at, direction, frame)
		if len(frame) > w.mtu+14 {
			w.report("at %v: a frame of %d bytes, the MTU is %d", at, len(frame), w.mtu)
		}
		if ip && p.Protocol == offload.TCP && !p.Fragment && !w.damage {
			if offload.Verify(frame) != link.Good {
				w.report("at %v: a wrong checksum left a card: %x", at, frame)
			} else if err := w.segment(frame, &p); err != nil {
				w.report("at %v: %v", at, err)
			}
		}
		deliver(frame)
	}
}

// record adds a frame to the digest.
func (w *wire) record(at time.Duration, direction byte, frame []byte) {
	var head [9]byte
	binary.BigEndian.PutUint64(head[:], uint64(at))
	head[8] = direction
	w.digest.Write(head[:])
	w.digest.Write(frame)
	if w.pcap != nil {
		info := gopacket.CaptureInfo{Timestamp: w.start.Add(at), CaptureLength: len(frame), Length: len(frame)}
		if err := w.pcap.WritePacket(info, frame); err != nil {
			w.report("%v", err)
			w.pcap = nil
		}
	}
}

const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
)

// ended checks, once all is closed, that both sides of each connection said so, by
// a FIN or a RST, or were reset.
func (w *wire) ended() {
	for key, s := range w.flows {
		peer := w.flows[flow.Key{
			SrcHi: key.DstHi, SrcLo: key.DstLo, DstHi: key.SrcHi, DstLo: key.SrcLo,
			Ports: key.Ports<<16 | key.Ports>>16,
		}]
		if peer != nil && !w.gaps && !w.apart && s.fin < 0 && !s.reset && !peer.reset {
			w.report("a side of a connection closed without a FIN or a RST: %+v, %d bytes sent", key, len(s.bytes))
		}
	}
}

// segment checks a TCP segment against what its direction sent before.
func (w *wire) segment(frame []byte, p *offload.Packet) error {
	tcp := frame[p.L4:p.End]
	if len(tcp) < 20 || int(tcp[12]>>4)*4 > len(tcp) {
		return fmt.Errorf("a TCP header that is cut off: %x", tcp)
	}
	var key flow.Key
	if p.IPv6 {
		key = flow.Key6(p.Addrs(frame), p.Ports(frame))
	} else {
		key = flow.Key4(p.Addrs(frame), p.Ports(frame))
	}
	payload := tcp[int(tcp[12]>>4)*4:]
	seq, flags := binary.BigEndian.Uint32(tcp[4:]), tcp[13]
	s := w.flows[key]
	switch {
	case flags&flagRST != 0:
		if s != nil {
			s.reset = true
		}
		return nil
	case flags&flagSYN != 0:
		if s == nil || s.isn != seq {
			w.flows[key] = &sent{isn: seq, fin: -1}
		}
		return nil
	case s == nil && w.gaps, s != nil && s.gap:
		return nil
	case s == nil:
		return fmt.Errorf("a segment of a connection that sent no SYN: %x", tcp[:20])
	}
	at := int(int32(seq - s.isn - 1))
	switch {
	case at < 0 && len(payload) <= 1:
		return nil // a keep-alive (RFC 1122 section 4.2.3.6)
	case at > len(s.bytes) && w.gaps:
		s.gap = true
		return nil
	case at < 0 || at > len(s.bytes) && (len(payload) > 0 || at > len(s.bytes)+1):
		return fmt.Errorf("sequence number %d of the stream after %d bytes", at, len(s.bytes))
	case s.fin >= 0 && at+len(payload) > s.fin && len(payload) > 0:
		return fmt.Errorf("data up to %d behind the FIN at %d", at+len(payload), s.fin)
	}
	if len(payload) == 1 && payload[0] == 0 && at < len(s.bytes) {
		return nil // a zero-window probe: gVisor sends a 0 in place of the last acknowledged byte
	}
	if len(payload) > 0 {
		again := min(len(s.bytes)-at, len(payload))
		if !bytes.Equal(payload[:again], s.bytes[at:at+again]) {
			return fmt.Errorf("bytes %d to %d of the stream are other ones than before", at, at+again)
		}
		s.bytes = append(s.bytes, payload[again:]...)
	}
	if flags&flagFIN != 0 {
		end := at + len(payload)
		if s.fin >= 0 && s.fin != end {
			return fmt.Errorf("a second FIN at %d, the first was at %d", end, s.fin)
		}
		s.fin = end
	}
	return nil
}
