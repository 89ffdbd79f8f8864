package follower

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// FuzzICMP feeds ICMP messages of both versions, as raw sockets give them.
func FuzzICMP(f *testing.F) {
	quote4 := append([]byte{unreachable, 4, 0, 0, 0, 0, 5, 0xdc, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, protocolTCP, 0, 0,
		10, 0, 0, 2, 10, 0, 0, 1}, make([]byte, 8)...)
	f.Add(false, quote4)
	f.Add(false, quote4[:27])
	quote6 := make([]byte, icmpHeaderLen+ipv6HeaderLen+8)
	quote6[0], quote6[icmpHeaderLen], quote6[icmpHeaderLen+6] = packetTooBig6, 0x60, protocolTCP
	f.Add(true, quote6)
	from4, from6 := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")
	f.Fuzz(func(t *testing.T, v6 bool, message []byte) {
		if len(message) > 2048 {
			return // readICMP's buffer
		}
		if wrap4(message, from6) != nil || wrap6(message, from4) != nil {
			t.Error("an error of the other IP version passes")
		}
		if v6 {
			if p := wrap6(message, from6); p != nil {
				if h := header.IPv6(p); !h.IsValid(len(p)) || h.NextHeader() != uint8(header.ICMPv6ProtocolNumber) || int(h.PayloadLength()) != len(message) {
					t.Errorf("no IPv6 packet: %x", p)
				}
			}
			return
		}
		if p := wrap4(message, from4); p != nil {
			if h := header.IPv4(p); !h.IsValid(len(p)) || !h.IsChecksumValid() || int(h.TotalLength()) != len(p) {
				t.Errorf("no IPv4 packet: %x", p)
			}
		}
	})
}

// FuzzNetlink feeds the kernel's notifications.
func FuzzNetlink(f *testing.F) {
	const index = 7
	message := func(data ...byte) []byte {
		b := make([]byte, 12)
		binary.NativeEndian.PutUint32(b[4:], index)
		return append(b, data...)
	}
	attribute := func(kind byte, data ...byte) []byte {
		return append([]byte{byte(4 + len(data)), 0, kind, 0}, data...)
	}
	f.Add(uint16(unix.RTM_NEWNEIGH), message(append(attribute(unix.NDA_DST, 10, 0, 0, 1), attribute(unix.NDA_LLADDR, 2, 0, 0, 0, 0, 1, 0, 0)...)...))
	f.Add(uint16(unix.RTM_DELNEIGH), message(attribute(unix.NDA_DST, make([]byte, 16)...)...))
	f.Add(uint16(unix.RTM_NEWROUTE), message(attribute(unix.RTA_OIF, index, 0, 0, 0)...))
	f.Add(uint16(unix.RTM_NEWROUTE), message(attribute(unix.RTA_MULTIPATH, 8, 0, 0, 0, index, 0, 0, 0)...))
	f.Add(uint16(unix.RTM_NEWADDR), message())
	f.Add(uint16(unix.RTM_NEWLINK), message(make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m := &Follower{index: index, neighbours: make(chan neighbour, 1), changed: make(chan struct{}, 1), done: make(chan struct{})}
		m.notified(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Len: uint32(16 + len(data))}, Data: data})
		select {
		case n := <-m.neighbours:
			if !n.addr.IsValid() || n.addr.IsMulticast() || n.addr.Is4In6() {
				t.Errorf("a neighbour with the address %v", n.addr)
			}
		default:
		}
	})
}

// FuzzRoute feeds answers to RTM_GETROUTE.
func FuzzRoute(f *testing.F) {
	f.Add(make([]byte, unix.SizeofRtMsg))
	f.Add(append(make([]byte, unix.SizeofRtMsg), 8, 0, unix.RTA_OIF, 0, 2, 0, 0, 0, 12, 0, unix.RTA_METRICS, 0, 8, 0, unix.RTAX_MTU, 0, 0, 5, 0, 0))
	f.Add(append(make([]byte, unix.SizeofRtMsg), 3, 0, unix.RTA_OIF, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseRoute(b)
		if ok && r.gateway.IsValid() && r.gateway.IsUnspecified() {
			t.Errorf("the next hop is %v", r.gateway)
		}
	})
}
