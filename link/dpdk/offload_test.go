//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/dpdk/internal/ringtest"
)

// Frames of 60 bytes with as much of a header as the status depends on.
func ipv4Frame(change func([]byte)) []byte {
	b := make([]byte, 60)
	// RFC 1071's way: the header sums up to ffff.
	copy(b[12:], []byte{0x08, 0x00, 0x45, 0, 0, 46, 0, 1, 0x40, 0, 64, 6, 0x26, 0xc7, 10, 0, 0, 1, 10, 0, 0, 2})
	if change != nil {
		change(b)
	}
	return b
}

func TestChecksumStatus(t *testing.T) {
	ipv4 := ipv4Frame(nil)
	ipv6 := ipv4Frame(func(b []byte) { b[12], b[13] = 0x86, 0xdd })
	arp := ipv4Frame(func(b []byte) { b[13] = 0x06 })
	vlan := ipv4Frame(func(b []byte) { b[12], b[13] = 0x81, 0x00 })
	badHeader := ipv4Frame(func(b []byte) { b[22]-- })
	options := ipv4Frame(func(b []byte) { b[14] = 0x46; b[24] -= 1; b[35] = 0 })
	shortHeader := ipv4Frame(func(b []byte) { b[14] = 0x44; b[24]++ })
	longHeader := append(bytes.Clone(ipv4[:14]), 0x4f, 0, 0, 46, 0, 1, 0x40, 0, 64, 6, 0x1c, 0xc7, 10, 0, 0, 1, 10, 0, 0, 2)

	const ipGood, ipBad, tcpGood, tcpBad, tcpNone = ringtest.IPv4Good, ringtest.IPv4Bad, ringtest.TCPGood, ringtest.TCPBad, ringtest.TCPNone
	for _, tt := range []struct {
		name      string
		ipv4, tcp bool // offloads
		frame     []byte
		flags     uint64
		want      link.ChecksumStatus
	}{
		{"nothing negotiated", false, false, ipv4, ipGood | tcpGood, link.Unchecked},
		{"bad, but nothing negotiated", false, false, ipv4, ipBad | tcpBad, link.Unchecked},
		{"only IPv4 negotiated", true, false, ipv4, ipGood | tcpGood, link.Unchecked},
		{"both good", true, true, ipv4, ipGood | tcpGood, link.Good},
		{"TCP unknown", true, true, ipv4, ipGood, link.Unchecked},
		{"nothing known", true, true, ipv4, 0, link.Unchecked},
		{"TCP bad", true, true, ipv4, ipGood | tcpBad, link.Bad},
		{"IPv4 bad", true, true, ipv4, ipBad | tcpGood, link.Bad},
		{"IPv4 bad, TCP unknown", true, true, ipv4, ipBad, link.Bad},
		{"IPv6", true, true, ipv6, tcpGood, link.Good},
		{"IPv6 bad", true, true, ipv6, tcpBad, link.Bad},
		{"IPv6 unknown", true, true, ipv6, 0, link.Unchecked},
		{"vouched for", true, true, ipv4, ipGood | tcpNone, link.Good},
		{"ARP", true, true, arp, 0, link.Unchecked},
		{"VLAN with good flags", true, true, vlan, ipGood | tcpGood, link.Good},
		{"VLAN, IPv4 unknown", true, true, vlan, tcpGood, link.Unchecked},
		// Devices that check TCP only, as virtio does.
		{"header checked here", false, true, ipv4, tcpGood, link.Good},
		{"header checked here, vouched for", false, true, ipv4, tcpNone, link.Good},
		{"flag not negotiated", false, true, ipv4, ipBad | tcpGood, link.Good},
		{"wrong header", false, true, badHeader, tcpGood, link.Bad},
		{"header with options", false, true, options, tcpGood, link.Good},
		{"header length below 20", false, true, shortHeader, tcpGood, link.Bad},
		{"header longer than the frame", false, true, longHeader, tcpGood, link.Bad},
		{"frame of 14 bytes", false, true, ipv4[:14], tcpGood, link.Bad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, r := openRing(t, dpdk.Config{})
			p.TrustChecksums(tt.ipv4, tt.tcp)
			if err := r.Put(ringtest.Chain{Segments: [][]byte{tt.frame}, Flags: tt.flags}); err != nil {
				t.Fatal(err)
			}
			f, err := receive(p.Queue(0))
			if err != nil {
				t.Fatal(err)
			}
			if f.Checksum != tt.want {
				t.Errorf("got status %d, want %d", f.Checksum, tt.want)
			}
		})
	}
}

// A frame whose checksum its sender left to the device arrives with a whole one,
// and nothing else changed.
func TestUnfinishedChecksum(t *testing.T) {
	segment := func(src, dst string, size int, sum testframe.Sum) []byte {
		s := testframe.TCP{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Flags: header.TCPFlagAck, Window: 9, Payload: bytesOf(size, 3), Sum: sum}
		return s.Frame()
	}
	ipv4 := func(size int, sum testframe.Sum) []byte { return segment("10.0.0.1:4660", "10.0.0.2:80", size, sum) }
	ipv6 := func(size int, sum testframe.Sum) []byte { return segment("[fd00::1]:4660", "[fd00::2]:80", size, sum) }
	change := func(b []byte, f func([]byte)) []byte { f(b); return b }
	padded := func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6) }
	udp := change(ipv4(10, testframe.Partial), func(b []byte) { b[23] = 17 })
	fragment := change(ipv4(10, testframe.Partial), func(b []byte) { b[20] = 0x20 })
	longer := change(ipv4(10, testframe.Partial), func(b []byte) { b[17]++ })
	shorter := change(ipv4(10, testframe.Partial), func(b []byte) { b[17] = 39 })
	shortHeader := change(ipv4(10, testframe.Partial), func(b []byte) { b[14] = 0x44 })
	for _, tt := range []struct {
		name      string
		sent, got []byte
	}{
		{"IPv4", ipv4(100, testframe.Partial), ipv4(100, testframe.Whole)},
		{"IPv4, odd", ipv4(101, testframe.Partial), ipv4(101, testframe.Whole)},
		{"IPv4, no payload, padded", padded(ipv4(0, testframe.Partial)), padded(ipv4(0, testframe.Whole))},
		{"IPv6", ipv6(100, testframe.Partial), ipv6(100, testframe.Whole)},
		{"IPv6, odd, padded", padded(ipv6(1, testframe.Partial)), padded(ipv6(1, testframe.Whole))},
		{"UDP", udp, udp},
		{"fragment", fragment, fragment},
		{"longer than the frame", longer, longer},
		{"shorter than its headers", shorter, shorter},
		{"header shorter than 20 bytes", shortHeader, shortHeader},
		{"14 bytes", ipv4(0, testframe.Partial)[:14], ipv4(0, testframe.Partial)[:14]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, r := openRing(t, dpdk.Config{})
			if err := r.Put(ringtest.Chain{Segments: [][]byte{tt.sent}, Flags: ringtest.TCPNone}); err != nil {
				t.Fatal(err)
			}
			f, err := receive(p.Queue(0))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(f.Data, tt.got) {
				t.Errorf("got  %x\nwant %x", f.Data, tt.got)
			}
		})
	}
}

// What Commit says must be in the mbuf as rte_mbuf_core.h defines it.
func TestTransmitFields(t *testing.T) {
	const (
		v4 = ringtest.TxIPv4
		v6 = ringtest.TxIPv6
		ip = ringtest.TxIPv4Checksum
		l4 = ringtest.TxTCPChecksum
		so = ringtest.TxTCPSegment
	)
	lengths := func(l2, l3, l4, mss uint64) uint64 { return l2 | l3<<7 | l4<<16 | mss<<24 }
	for _, tt := range []struct {
		name        string
		offload     link.TxOffload
		flags       uint64
		wantLengths uint64
		makesIPv4   bool // the device makes IPv4 header checksums
	}{
		{"nothing", link.TxOffload{}, 0, 0, true},
		{"IPv4", link.TxOffload{Flags: link.TxIPv4Checksum, L2Len: 14, L3Len: 20}, v4 | ip, lengths(14, 20, 0, 0), true},
		{"TCP over IPv4", link.TxOffload{Flags: link.TxIPv4Checksum | link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 32}, v4 | ip | l4, lengths(14, 20, 32, 0), true},
		{"TCP only", link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 18, L3Len: 60, L4Len: 60}, v4 | l4, lengths(18, 60, 60, 0), true},
		{"TCP over IPv6", link.TxOffload{Flags: link.TxIPv6 | link.TxTCPChecksum, L2Len: 14, L3Len: 40, L4Len: 20}, v6 | l4, lengths(14, 40, 20, 0), true},
		{"segments over IPv4", link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 32, MSS: 1448}, v4 | ip | l4 | so, lengths(14, 20, 32, 1448), true},
		{"segments over IPv4, whole checksum", link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 32, MSS: 1448}, v4 | l4 | so, lengths(14, 20, 32, 1448), false},
		{"segments over IPv6", link.TxOffload{Flags: link.TxIPv6 | link.TxTCPChecksum, L2Len: 14, L3Len: 40, L4Len: 32, MSS: 65535}, v6 | l4 | so, lengths(14, 40, 32, 65535), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, r := openRing(t, dpdk.Config{})
			defer r.Free()
			if tt.makesIPv4 {
				p.MakeIPv4Checksums()
			}
			// A frame that asks for nothing must not inherit from the one before.
			for _, o := range []link.TxOffload{tt.offload, {}, tt.offload} {
				want := bytesOf(77, 5)
				if err := send(p.Queue(0), 77, o, func(b []byte) { copy(b, want) }); err != nil {
					t.Fatal(err)
				}
				got, ok := r.Take()
				if !ok || !bytes.Equal(got.Data, want) {
					t.Fatalf("sent %x, want %x", got.Data, want)
				}
				if o == (link.TxOffload{}) {
					if got.Flags != 0 {
						t.Errorf("flags %#x on a frame that asks for nothing", got.Flags)
					}
				} else if got.Flags != tt.flags || got.TxOffload != tt.wantLengths {
					t.Errorf("flags %#x, lengths %#x, want %#x, %#x", got.Flags, got.TxOffload, tt.flags, tt.wantLengths)
				}
			}
		})
	}
}

// A buffer that was not committed is handed out again, and frames leave in the
// order of their commits.
func TestReserve(t *testing.T) {
	p, r := openRing(t, dpdk.Config{})
	defer r.Free()
	q := p.Queue(0)
	first := q.Reserve(14)
	if again := q.Reserve(p.Info().MaxFrame); &again[0] != &first[0] || len(again) < p.Info().MaxFrame {
		t.Error("another buffer, or a smaller one, for a frame that was not committed")
	}
	for i := range 200 {
		b := q.Reserve(20)
		copy(b, bytesOf(20, byte(i)))
		q.Commit(20, link.TxOffload{})
	}
	if pending, err := q.Flush(); pending != 0 || err != nil {
		t.Fatalf("Flush: %d, %v", pending, err)
	}
	for i := range 200 {
		if got, ok := r.Take(); !ok || !bytes.Equal(got.Data, bytesOf(20, byte(i))) {
			t.Fatalf("frame %d: %x, %v", i, got.Data, ok)
		}
	}
	for _, tt := range []struct {
		name string
		call func()
	}{
		{"commit without reserve", func() { q.Commit(20, link.TxOffload{}) }},
		{"commit of nothing", func() { q.Reserve(20); q.Commit(0, link.TxOffload{}) }},
		{"commit of more than there is", func() { n := len(q.Reserve(20)); q.Commit(n+1, link.TxOffload{}) }},
		{"reserve of more than a frame", func() { q.Reserve(1 << 16) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			tt.call()
		})
	}
}
