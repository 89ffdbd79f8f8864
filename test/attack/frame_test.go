package attack

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
)

// parse returns the destination and the TCP segment of a frame, whose checksums
// it does not look at.
func parse(frame []byte) (dst netip.Addr, tcp header.TCP, ok bool) {
	p, err := testframe.ParseUnchecked(frame)
	return p.Dst, p.TCP(), err == nil && p.TCP() != nil
}

// A wire is a packet socket at the attacker's end.
type wire struct {
	t    *testing.T
	site *site
	fd   int
	to   unix.SockaddrLinklayer
	buf  []byte      // out
	in   [65536]byte // in
}

// open opens the wire. capture also receives packets of the site's IP version.
func (s *site) open(capture bool) *wire {
	w := &wire{t: s.t, site: s, fd: -1, to: unix.SockaddrLinklayer{Ifindex: s.from.Index, Halen: 6}}
	copy(w.to.Addr[:], s.to.MAC)
	s.outside.Do(func() {
		proto := 0
		if capture {
			if proto = unix.ETH_P_IP; s.way.ipv6 {
				proto = unix.ETH_P_IPV6
			}
			proto = proto>>8 | proto&0xff<<8
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			s.t.Fatal(err)
		}
		w.fd = fd
	})
	s.t.Cleanup(func() { unix.Close(w.fd) })
	unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	return w
}

// send sends a segment to the server. A full queue is waited for.
func (w *wire) send(g *testframe.TCP) {
	g.DstMAC, g.SrcMAC = w.site.to.MAC, w.site.from.MAC
	w.buf = g.AppendFrame(w.buf[:0])
	if err := w.raw(w.buf); err != nil {
		w.t.Errorf("send %d bytes: %v", len(w.buf), err)
	}
}

func (w *wire) raw(frame []byte) error {
	for {
		err := unix.Sendto(w.fd, frame, 0, &w.to)
		if err != unix.ENOBUFS && err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
	}
}

// receive returns the next frame that the server sends, nil when none comes for a
// tenth of a second.
func (w *wire) receive() []byte {
	for {
		switch n, _, err := unix.Recvfrom(w.fd, w.in[:], 0); err {
		case nil:
			return w.in[:n]
		case unix.EINTR:
		default:
			return nil
		}
	}
}

// poll returns a frame that the server has sent, nil if there is none.
func (w *wire) poll() []byte {
	if n, _, err := unix.Recvfrom(w.fd, w.in[:], unix.MSG_DONTWAIT); err == nil {
		return w.in[:n]
	}
	return nil
}

// answer returns the next segment that the server sends to an address and port,
// nil when none comes in time. It is valid until the next one.
func (w *wire) answer(addr netip.Addr, port uint16, timeout time.Duration) (header.TCP, bool) {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		if dst, tcp, ok := parse(w.receive()); ok && dst == addr && tcp.DestinationPort() == port {
			return tcp, true
		}
	}
	return nil, false
}

// spoofed is an address far away.
func (s *site) spoofed() netip.Addr {
	n := rand.Uint64()
	if s.way.ipv6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: byte(n >> 16), 7: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})
}

// A puppet is a connection whose end out here is made of frames.
type puppet struct {
	w        *wire
	addr     netip.Addr
	port, to uint16
	seq, ack uint32 // the next ones to send
}

// connect finishes a handshake from a spoofed address.
func (w *wire) connect(to uint16, window uint16, options []byte) *puppet {
	p := &puppet{w: w, addr: w.site.spoofed(), port: uint16(1024 + rand.IntN(60000)), to: to, seq: rand.Uint32()}
	for range 60 {
		p.send(header.TCPFlagSyn, p.seq, window, options, nil)
		if h, ok := w.answer(p.addr, p.port, 500*time.Millisecond); ok && h.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
			p.seq, p.ack = p.seq+1, h.SequenceNumber()+1
			p.send(header.TCPFlagAck, p.seq, window, nil, nil)
			return p
		}
	}
	w.t.Fatalf("no SYN-ACK; the server: %+v", w.site.report())
	return nil
}

// read waits for bytes in order, which must be these, and acknowledges them.
func (p *puppet) read(want []byte) {
	p.w.t.Helper()
	var got []byte
	for len(got) < len(want) {
		tcp, ok := p.w.answer(p.addr, p.port, testTimeout)
		if !ok {
			p.w.t.Fatalf("read %q, want %q", got, want)
		}
		if tcp.Flags().Contains(header.TCPFlagRst) {
			p.w.t.Fatalf("reset after %q, want %q", got, want)
		}
		if tcp.SequenceNumber() == p.ack && len(tcp.Payload()) > 0 {
			got = append(got, tcp.Payload()...)
			p.ack += uint32(len(tcp.Payload()))
			p.send(header.TCPFlagAck, p.seq, 65535, nil, nil)
		}
	}
	if !bytes.Equal(got, want) {
		p.w.t.Fatalf("read %q, want %q", got, want)
	}
}

func (p *puppet) send(flags header.TCPFlags, seq uint32, window uint16, options, payload []byte) {
	p.w.send(&testframe.TCP{
		Src: netip.AddrPortFrom(p.addr, p.port), Dst: netip.AddrPortFrom(p.w.site.addr, p.to),
		Seq: seq, Ack: p.ack, Flags: flags, Window: window, Options: options, Payload: payload,
	})
}
