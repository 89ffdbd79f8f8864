package follower

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// ICMP errors that quote a segment of another stack's mean nothing to the kernel,
// which has no socket for it. Raw sockets get a copy.

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	icmpHeaderLen = 8
	protocolTCP   = 6

	unreachable   = 3 // ICMP: includes "fragmentation needed", RFC 1191
	unreachable6  = 1 // ICMPv6
	packetTooBig6 = 2 // RFC 8201
)

// openICMP starts listening for errors that arrive at the interface.
func (m *Follower) openICMP(name string) error {
	for _, v := range []struct {
		network string
		filter  func(fd int) error
		wrap    func(message []byte, from netip.Addr) []byte
	}{
		// The kernel keeps pings and the like from us: a set bit blocks a type.
		{"ip4:icmp", func(fd int) error {
			// SOL_RAW, ICMP_FILTER: struct icmp_filter, one word for types 0 to 31.
			return unix.SetsockoptInt(fd, unix.SOL_RAW, 1, ^(1 << unreachable))
		}, wrap4},
		{"ip6:ipv6-icmp", func(fd int) error {
			f := unix.ICMPv6Filter{}
			for i := range f.Data {
				f.Data[i] = ^uint32(0)
			}
			f.Data[0] &^= 1<<unreachable6 | 1<<packetTooBig6
			return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, 1, &f)
		}, wrap6},
	} {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			if cerr := c.Control(func(fd uintptr) {
				if err = unix.BindToDevice(int(fd), name); err == nil {
					err = v.filter(int(fd))
				}
			}); cerr != nil {
				return cerr
			}
			return err
		}}
		conn, err := lc.ListenPacket(context.Background(), v.network, "")
		if v.network == "ip6:ipv6-icmp" && err != nil {
			m.log.Debug("no ICMPv6", "err", err) // a host without IPv6
			continue
		}
		if err != nil {
			return fmt.Errorf("listen for ICMP errors: %w", err)
		}
		m.icmp = append(m.icmp, conn)
		m.running.Add(1)
		go m.readICMP(conn, v.wrap)
	}
	return nil
}

func (m *Follower) readICMP(conn net.PacketConn, wrap func([]byte, netip.Addr) []byte) {
	defer m.running.Done()
	buf := make([]byte, 2048) // errors quote 1232 bytes at most
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if m.closed() {
				return
			}
			continue
		}
		addr, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if !ok {
			continue
		}
		packet := wrap(buf[:n], addr.Unmap())
		if packet == nil {
			continue
		}
		m.stats.icmp.Add(1)
		select {
		case m.packets <- packet:
		default:
			m.stats.icmpDropped.Add(1)
		}
	}
}

// wrap4 puts an ICMP error about a TCP segment back behind an IPv4 header, which
// the socket took off. It returns nil for anything else.
func wrap4(message []byte, from netip.Addr) []byte {
	if len(message) < icmpHeaderLen+ipv4HeaderLen || !from.Is4() {
		return nil
	}
	quoted := message[icmpHeaderLen:]
	if quoted[0]>>4 != 4 || quoted[9] != protocolTCP {
		return nil
	}
	p := make([]byte, ipv4HeaderLen, ipv4HeaderLen+len(message))
	p[0], p[8], p[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4HeaderLen+len(message)))
	copy(p[12:], from.AsSlice())
	copy(p[16:], quoted[12:16]) // the error went to the sender of the segment
	binary.BigEndian.PutUint16(p[10:], ^checksum.Checksum(p, 0))
	return append(p, message...)
}

// wrap6 is wrap4 for ICMPv6.
func wrap6(message []byte, from netip.Addr) []byte {
	if len(message) < icmpHeaderLen+ipv6HeaderLen || !from.Is6() {
		return nil
	}
	quoted := message[icmpHeaderLen:]
	if quoted[0]>>4 != 6 || quoted[6] != protocolTCP {
		return nil
	}
	p := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(message))
	p[0], p[6], p[7] = 0x60, unix.IPPROTO_ICMPV6, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(message)))
	copy(p[8:], from.AsSlice())
	copy(p[24:], quoted[8:24])
	return append(p, message...)
}
