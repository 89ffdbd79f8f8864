package offload

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
)

var (
	macs         = [2][]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	from4, to4   = netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:2000")
	from6, to6   = netip.MustParseAddrPort("[fd00::1]:1000"), netip.MustParseAddrPort("[fd00::2]:2000")
	timestamps   = []byte{1, 1, 8, 10, 11: 0}
	finPushCWR   = header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin | flagCWR
	noOperations = []byte{1, 1, 1, 1}
)

const flagCWR = 0x80

func segment(src, dst netip.AddrPort, n int) *testframe.TCP {
	return &testframe.TCP{
		DstMAC: macs[0], SrcMAC: macs[1], ID: 0xfffe, Src: src, Dst: dst, Seq: 0xfffffff0, Ack: 7,
		Flags: finPushCWR, Window: 100, Options: timestamps, Payload: payload(n),
	}
}

func ethernet(etherType uint16, payload []byte) []byte {
	return testframe.Ethernet(macs[0], macs[1], etherType, payload)
}

func ipv6(next uint8, payload []byte) []byte {
	return ethernet(testframe.TypeIPv6, testframe.IP(from6.Addr(), to6.Addr(), next, payload))
}

func payload(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(p)
	return p
}

// tcp4 and tcp6 are whole frames; the headers are 66 and 86 bytes long.
func tcp4(n int) []byte { return segment(from4, to4, n).Frame() }

func tcp6(n int) []byte { return segment(from6, to6, n).Frame() }

// edit writes over bytes of a frame from an offset on.
func edit(frame []byte, at int, b ...byte) []byte { copy(frame[at:], b); return frame }

func TestParse(t *testing.T) {
	fragment4 := testframe.Fragments(testframe.IP(from4.Addr(), to4.Addr(), TCP, payload(66)), 1, 64)[1]
	options := slices.Insert(tcp4(0), 34, noOperations...)
	options[14], options[17] = 0x46, options[17]+4
	for _, c := range []struct {
		name  string
		frame []byte
		want  Packet
	}{
		{"IPv4", tcp4(10), Packet{L3: 14, L4: 34, End: 76, Protocol: TCP}},
		{"IPv6", tcp6(10), Packet{L3: 14, L4: 54, End: 96, Protocol: TCP, IPv6: true}},
		{"padded", append(tcp4(0), 1, 2, 3), Packet{L3: 14, L4: 34, End: 66, Protocol: TCP}},
		{
			"VLAN",
			testframe.VLAN(tcp4(0), 7),
			Packet{L3: 18, L4: 38, End: 70, Protocol: TCP},
		},
		{
			"two VLANs",
			edit(testframe.VLAN(tcp6(0), 0, 0), 12, 0x88, 0xa8),
			Packet{L3: 22, L4: 62, End: 94, Protocol: TCP, IPv6: true},
		},
		{
			"IPv4 options",
			options,
			Packet{L3: 14, L4: 38, End: 70, Protocol: TCP},
		},
		{
			"IPv4 fragment",
			ethernet(testframe.TypeIPv4, fragment4),
			Packet{L3: 14, L4: 34, End: 36, Protocol: TCP, Fragment: true},
		},
		{
			"IPv6 destination options",
			ipv6(60, append([]byte{TCP, 1, 15: 0}, payload(4)...)),
			Packet{L3: 14, L4: 70, End: 74, Protocol: TCP, IPv6: true},
		},
		{
			"IPv6 fragment",
			ipv6(44, []byte{TCP, 7: 0}),
			Packet{L3: 14, L4: 62, End: 62, Protocol: TCP, IPv6: true, Fragment: true},
		},
		{"ICMPv6", ipv6(testframe.ProtocolICMPv6, payload(8)), Packet{L3: 14, L4: 54, End: 62, Protocol: 58, IPv6: true}},
	} {
		got, ok := Parse(c.frame)
		if !ok {
			t.Errorf("%s: refused", c.name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"nothing", nil},
		{"short Ethernet header", make([]byte, 13)},
		{"ARP", ethernet(testframe.TypeARP, payload(28))},
		{"VLAN tag cut off", ethernet(testframe.TypeVLAN, payload(3))},
		{"IPv4 cut off", tcp4(0)[:33]},
		{"IPv4 longer than the frame", tcp4(10)[:75]},
		{"IPv4 header too short", edit(tcp4(0), 14, 0x44)},
		{"IPv4 header longer than the packet", edit(tcp4(0), 16, 0, 19)},
		{"IPv4 of version 5", edit(tcp4(0), 14, 0x55)},
		{"IPv4 without ports", edit(tcp4(0), 16, 0, 23)},
		{"IPv6 cut off", tcp6(0)[:53]},
		{"IPv6 longer than the frame", tcp6(10)[:95]},
		{"IPv6 of version 4", edit(tcp6(0), 14, 0x45)},
		{"IPv6 without ports", edit(tcp6(0), 18, 0, 3)},
		{"IPv6 extension header cut off", ipv6(0, []byte{TCP, 1, 8: 0})},
	} {
		if p, ok := Parse(c.frame); ok {
			t.Errorf("%s: got %+v, want a refusal", c.name, p)
		}
	}
}

// FuzzParse checks that the offsets lie in the frame, whatever it holds.
func FuzzParse(f *testing.F) {
	f.Add(tcp4(5))
	f.Add(tcp6(5))
	f.Add(ipv6(0, []byte{44, 0, 8: TCP, 15: 0}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		Verify(frame)
		p, ok := Parse(frame)
		if !ok {
			return
		}
		p.Addrs(frame)
		if p.L3 > p.L4 || p.L4 > p.End || p.End > len(frame) {
			t.Errorf("%+v of a frame of %d bytes", p, len(frame))
		}
		if !p.Fragment && p.Protocol == TCP {
			p.Ports(frame)
		}
	})
}

func TestVerify(t *testing.T) {
	udp4 := ethernet(testframe.TypeIPv4, testframe.UDP(from4, to4, payload(9)))
	noSum := bytes.Clone(udp4)
	copy(noSum[40:], []byte{0, 0})
	fragment := testframe.Fragments(testframe.IP(from4.Addr(), to4.Addr(), TCP, payload(84)), 1, 64)[1]
	for _, c := range []struct {
		name  string
		frame []byte
		want  link.ChecksumStatus
	}{
		{"TCP over IPv4", tcp4(101), link.Good},
		{"TCP over IPv6", tcp6(101), link.Good},
		{"padding", append(tcp4(1), 0xff), link.Good},
		{"UDP", udp4, link.Good},
		{"UDP without a checksum", noSum, link.Unchecked},
		{"fragment", ethernet(testframe.TypeIPv4, fragment), link.Unchecked},
		{"no checksums", edit(tcp4(10), 50, 0, 0), link.Bad},
		{"cut off", tcp4(10)[:70], link.Unchecked},
	} {
		if got := Verify(c.frame); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestVerifyFindsEveryFlippedBit(t *testing.T) {
	for _, frame := range [][]byte{tcp4(33), tcp6(33)} {
		for bit := 14 * 8; bit < len(frame)*8; bit++ {
			flipped := bytes.Clone(frame)
			flipped[bit/8] ^= 0x80 >> (bit % 8)
			if Verify(flipped) != link.Good {
				continue
			}
			// IPv6 has no header checksum: traffic class, flow label, hop limit.
			if p, _ := Parse(frame); p.IPv6 && (bit/8 < 18 || bit/8 == 21) {
				continue
			}
			t.Errorf("frame of %d bytes: flipping bit %d leaves it Good", len(frame), bit)
		}
	}
}

var everything = link.Capabilities{TxIPv4Checksum: true, TxTCPChecksum: true, TSO: 1 << 16}

// offloaded is a frame as the stack hands it over: no IPv4 checksum, and the
// pseudo-header sum in the TCP checksum field, without the length for TSO.
func offloaded(v6 bool, n int, mss uint16) ([]byte, link.TxOffload) {
	tx := link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L4Len: 32, MSS: mss}
	s := segment(from4, to4, n)
	if v6 {
		s = segment(from6, to6, n)
		tx.Flags |= link.TxIPv6
		tx.L3Len = 40
	} else {
		tx.Flags |= link.TxIPv4Checksum
		tx.L3Len = 20
	}
	if s.Sum = testframe.Partial; mss != 0 {
		s.Sum = testframe.PartialTSO
	}
	frame := s.Frame()
	if !v6 {
		edit(frame, 24, 0, 0)
	}
	return frame, tx
}

func transmit(t *testing.T, frame []byte, tx link.TxOffload, can link.Capabilities) (out [][]byte) {
	t.Helper()
	if err := Transmit(frame, tx, can, make([]byte, 1600), func(f []byte) { out = append(out, bytes.Clone(f)) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTransmitFillsInChecksums(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		frame, tx := offloaded(v6, 77, 0)
		want := tcp4(77)
		if v6 {
			want = tcp6(77)
		}
		if diff := cmp.Diff([][]byte{want}, transmit(t, frame, tx, everything)); diff != "" {
			t.Errorf("IPv6 %v: (-want +got)\n%s", v6, diff)
		}
	}
}

func TestTransmitLeavesOtherFramesAlone(t *testing.T) {
	frame := edit(tcp4(20), 50, 0, 0)
	want := bytes.Clone(frame)
	if diff := cmp.Diff([][]byte{want}, transmit(t, frame, link.TxOffload{}, link.Capabilities{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTransmitCutsSegments(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, size := range []int{1, 500, 501, 1000, 4321} {
			t.Run(fmt.Sprintf("IPv6=%v/%d bytes", v6, size), func(t *testing.T) {
				const mss = 500
				frame, tx := offloaded(v6, size, mss)
				out := transmit(t, frame, tx, everything)
				if want := (size + mss - 1) / mss; len(out) != want {
					t.Fatalf("%d segments, want %d", len(out), want)
				}
				var got []byte
				for i, f := range out {
					if Verify(f) != link.Good {
						t.Errorf("segment %d has a wrong checksum", i)
					}
					p, err := testframe.Parse(f)
					if err != nil {
						t.Fatalf("segment %d: %v", i, err)
					}
					h := p.TCP()
					first, last := i == 0, i == len(out)-1
					want := header.TCPFlags(header.TCPFlagAck)
					if first {
						want |= flagCWR
					}
					if last {
						want |= header.TCPFlagFin | header.TCPFlagPsh
					}
					if header.TCPFlags(h[13]) != want {
						t.Errorf("segment %d of %d: flags %#x, want %#x", i, len(out), h[13], want)
					}
					if want := 0xfffffff0 + uint32(i*mss); h.SequenceNumber() != want {
						t.Errorf("segment %d: sequence number %d, want %d", i, h.SequenceNumber(), want)
					}
					if want := 0xfffe + uint16(i); !v6 && header.IPv4(f[14:]).ID() != want {
						t.Errorf("segment %d: identification %d, want %d", i, header.IPv4(f[14:]).ID(), want)
					}
					got = append(got, h.Payload()...)
				}
				if diff := cmp.Diff(payload(size), got); diff != "" {
					t.Errorf("payload (-want +got)\n%s", diff)
				}
			})
		}
	}
}

func TestTransmitRefuses(t *testing.T) {
	frame, tx := offloaded(false, 1000, 500)
	for _, c := range []struct {
		name string
		tx   func(*link.TxOffload)
		can  func(*link.Capabilities)
		want error
	}{
		{"no TSO", nil, func(c *link.Capabilities) { c.TSO = 0 }, ErrNotCapable},
		{"too long for TSO", nil, func(c *link.Capabilities) { c.TSO = 1000 }, ErrNotCapable},
		{"no IPv4 checksum", nil, func(c *link.Capabilities) { c.TxIPv4Checksum = false }, ErrNotCapable},
		{"no TCP checksum", nil, func(c *link.Capabilities) { c.TxTCPChecksum = false }, ErrNotCapable},
		{"no lengths", func(tx *link.TxOffload) { tx.L2Len, tx.L3Len, tx.L4Len = 0, 0, 0 }, nil, ErrBadLengths},
		{"no TCP header", func(tx *link.TxOffload) { tx.L4Len = 8 }, nil, ErrBadLengths},
		{"other version", func(tx *link.TxOffload) { tx.Flags |= link.TxIPv6; tx.L3Len = 40 }, nil, ErrBadLengths},
		{"no room for a segment", func(tx *link.TxOffload) { tx.MSS = 2000 }, nil, ErrBadLengths},
	} {
		tx, can := tx, everything
		if c.tx != nil {
			c.tx(&tx)
		}
		if c.can != nil {
			c.can(&can)
		}
		err := Transmit(bytes.Clone(frame), tx, can, make([]byte, 600), func([]byte) {
			t.Errorf("%s: a frame left", c.name)
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
	err := Transmit(frame[:65], tx, everything, make([]byte, 600), func([]byte) { t.Error("a frame left without its headers") })
	if !errors.Is(err, ErrBadLengths) {
		t.Errorf("headers beyond the frame: error %v, want %v", err, ErrBadLengths)
	}
}
