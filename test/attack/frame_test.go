package attack

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A segment describes a frame with a TCP segment.
type segment struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	seq, ack         uint32
	flags            header.TCPFlags
	window           uint16
	options, payload []byte
}

const eth = header.EthernetMinimumSize

// frame appends the segment as an Ethernet frame, with the right checksums.
func (g *segment) frame(b []byte, dst, src []byte) []byte {
	size := header.TCPMinimumSize + len(g.options)
	length := size + len(g.payload)
	from, to := tcpip.AddrFromSlice(g.src.AsSlice()), tcpip.AddrFromSlice(g.dst.AsSlice())
	b = append(append(b, dst...), src...)
	at := len(b) + 2
	if g.dst.Is4() {
		b = append(append(b, 0x08, 0x00), make([]byte, header.IPv4MinimumSize+length)...)
		ip := header.IPv4(b[at:])
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: from, DstAddr: to})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		b = append(append(b, 0x86, 0xdd), make([]byte, header.IPv6MinimumSize+length)...)
		header.IPv6(b[at:]).Encode(&header.IPv6Fields{PayloadLength: uint16(length), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: from, DstAddr: to})
	}
	tcp := header.TCP(b[len(b)-length:])
	tcp.Encode(&header.TCPFields{
		SrcPort: g.srcPort, DstPort: g.dstPort, SeqNum: g.seq, AckNum: g.ack,
		DataOffset: uint8(size), Flags: g.flags, WindowSize: g.window,
	})
	copy(tcp[header.TCPMinimumSize:], g.options)
	copy(tcp[size:], g.payload)
	tcp.SetChecksum(^checksum.Checksum(tcp, header.PseudoHeaderChecksum(header.TCPProtocolNumber, from, to, uint16(len(tcp)))))
	return b
}

// A wire is a packet socket at the attacker's end.
type wire struct {
	t    *testing.T
	site *site
	fd   int
	to   unix.SockaddrLinklayer
	buf  []byte
}

// open opens the wire. capture also receives.
func (s *site) open(capture bool) *wire {
	w := &wire{t: s.t, site: s, fd: -1, to: unix.SockaddrLinklayer{Ifindex: s.from.Index, Halen: 6}}
	copy(w.to.Addr[:], s.to.MAC)
	s.outside.Do(func() {
		proto := 0
		if capture {
			proto = int(unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8)
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
func (w *wire) send(g *segment) {
	w.buf = g.frame(w.buf[:0], w.site.to.MAC, w.site.from.MAC)
	w.raw(w.buf)
}

func (w *wire) raw(frame []byte) {
	for {
		err := unix.Sendto(w.fd, frame, 0, &w.to)
		if err != unix.ENOBUFS && err != unix.EAGAIN && err != unix.EINTR {
			return
		}
	}
}

// answer returns the next segment that the server sends to an address and port,
// nil when none comes in time.
func (w *wire) answer(addr netip.Addr, port uint16, timeout time.Duration) (header.TCP, bool) {
	buf := make([]byte, 65536)
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil || n < eth+header.IPv4MinimumSize+header.TCPMinimumSize {
			continue
		}
		ip := header.IPv4(buf[eth:n])
		if ip.TransportProtocol() != header.TCPProtocolNumber || ip.DestinationAddress() != tcpip.AddrFrom4(addr.As4()) {
			continue
		}
		if tcp := header.TCP(ip.Payload()); tcp.DestinationPort() == port {
			return tcp, true
		}
	}
	return nil, false
}

// spoofed is an address far away.
func spoofed() netip.Addr {
	n := rand.Uint32()
	return netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})
}

// spoofed6 is an IPv6 address far away.
func spoofed6() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 12: byte(rand.Uint32()), 13: byte(rand.Uint32()), 14: byte(rand.Uint32()), 15: 1})
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
	p := &puppet{w: w, addr: spoofed(), port: uint16(1024 + rand.IntN(60000)), to: to, seq: rand.Uint32()}
	for range 5 {
		p.send(header.TCPFlagSyn, p.seq, window, options, nil)
		if h, ok := w.answer(p.addr, p.port, 2*time.Second); ok && h.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
			p.seq, p.ack = p.seq+1, h.SequenceNumber()+1
			p.send(header.TCPFlagAck, p.seq, window, nil, nil)
			return p
		}
	}
	w.t.Fatal("no SYN-ACK")
	return nil
}

func (p *puppet) send(flags header.TCPFlags, seq uint32, window uint16, options, payload []byte) {
	p.w.send(&segment{
		src: p.addr, dst: p.w.site.to.IPv4.Addr(), srcPort: p.port, dstPort: p.to,
		seq: seq, ack: p.ack, flags: flags, window: window, options: options, payload: payload,
	})
}
