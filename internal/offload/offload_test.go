package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/gotpa/tpa/link"
)

// serialize builds a frame with gopacket, which also computes the lengths and
// checksums that the tests expect.
func serialize(tb testing.TB, sums bool, parts ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: sums}, parts...); err != nil {
		tb.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func ethernet(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{
		DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: t,
	}
}

func ipv4(p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, IHL: 5, TTL: 64, Id: 0xfffe, Protocol: p,
		SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2},
	}
}

func ipv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: next,
		SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2"),
	}
}

func tcp(tb testing.TB, under gopacket.NetworkLayer) *layers.TCP {
	tb.Helper()
	h := &layers.TCP{
		SrcPort: 1000, DstPort: 2000, Seq: 0xfffffff0, Ack: 7, Window: 100,
		ACK: true, PSH: true, FIN: true, CWR: true,
		Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindNop, OptionLength: 1},
			{OptionType: layers.TCPOptionKindNop, OptionLength: 1},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
		},
	}
	if err := h.SetNetworkLayerForChecksum(under); err != nil {
		tb.Fatal(err)
	}
	return h
}

func payload(n int) gopacket.Payload {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(p)
	return p
}

// tcp4 and tcp6 are whole frames; the headers are 66 and 86 bytes long.
func tcp4(tb testing.TB, sums bool, n int) []byte {
	ip := ipv4(layers.IPProtocolTCP)
	return serialize(tb, sums, ethernet(layers.EthernetTypeIPv4), ip, tcp(tb, ip), payload(n))
}

func tcp6(tb testing.TB, sums bool, n int) []byte {
	ip := ipv6(layers.IPProtocolTCP)
	return serialize(tb, sums, ethernet(layers.EthernetTypeIPv6), ip, tcp(tb, ip), payload(n))
}

func TestParse(t *testing.T) {
	ip4, ip6 := ipv4(layers.IPProtocolTCP), ipv6(layers.IPProtocolTCP)
	fragment4 := ipv4(layers.IPProtocolTCP)
	fragment4.FragOffset = 8
	options := ipv4(layers.IPProtocolTCP)
	options.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
	extended := ipv6(layers.IPProtocolIPv6Destination)
	icmp6 := serialize(t, false, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolICMPv6), payload(8))
	for _, c := range []struct {
		name  string
		frame []byte
		want  Packet
	}{
		{"IPv4", tcp4(t, true, 10), Packet{L3: 14, L4: 34, End: 76, Protocol: TCP}},
		{"IPv6", tcp6(t, true, 10), Packet{L3: 14, L4: 54, End: 96, Protocol: TCP, IPv6: true}},
		{"padded", append(tcp4(t, true, 0), 1, 2, 3), Packet{L3: 14, L4: 34, End: 66, Protocol: TCP}},
		{
			"VLAN",
			serialize(t, true, ethernet(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, ip4, tcp(t, ip4)),
			Packet{L3: 18, L4: 38, End: 70, Protocol: TCP},
		},
		{
			"two VLANs",
			serialize(t, true, ethernet(layers.EthernetTypeQinQ), &layers.Dot1Q{Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{Type: layers.EthernetTypeIPv6}, ip6, tcp(t, ip6)),
			Packet{L3: 22, L4: 62, End: 94, Protocol: TCP, IPv6: true},
		},
		{
			"IPv4 options",
			serialize(t, true, ethernet(layers.EthernetTypeIPv4), options, tcp(t, options)),
			Packet{L3: 14, L4: 38, End: 70, Protocol: TCP},
		},
		{
			"IPv4 fragment",
			serialize(t, true, ethernet(layers.EthernetTypeIPv4), fragment4, payload(2)),
			Packet{L3: 14, L4: 34, End: 36, Protocol: TCP, Fragment: true},
		},
		{
			"IPv6 destination options",
			serialize(t, false, ethernet(layers.EthernetTypeIPv6), extended, gopacket.Payload{TCP, 1, 15: 0}, payload(4)),
			Packet{L3: 14, L4: 70, End: 74, Protocol: TCP, IPv6: true},
		},
		{
			"IPv6 fragment",
			serialize(t, false, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6Fragment), gopacket.Payload{TCP, 7: 0}),
			Packet{L3: 14, L4: 62, End: 62, Protocol: TCP, IPv6: true, Fragment: true},
		},
		{"ICMPv6", icmp6, Packet{L3: 14, L4: 54, End: 62, Protocol: 58, IPv6: true}},
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
	set := func(frame []byte, at int, b ...byte) []byte { copy(frame[at:], b); return frame }
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"nothing", nil},
		{"short Ethernet header", make([]byte, 13)},
		{"ARP", serialize(t, false, ethernet(layers.EthernetTypeARP), payload(28))},
		{"VLAN tag cut off", serialize(t, false, ethernet(layers.EthernetTypeDot1Q), payload(3))},
		{"IPv4 cut off", tcp4(t, true, 0)[:33]},
		{"IPv4 longer than the frame", tcp4(t, true, 10)[:75]},
		{"IPv4 header too short", set(tcp4(t, true, 0), 14, 0x44)},
		{"IPv4 header longer than the packet", set(tcp4(t, true, 0), 16, 0, 19)},
		{"IPv4 of version 5", set(tcp4(t, true, 0), 14, 0x55)},
		{"IPv4 without ports", set(tcp4(t, true, 0), 16, 0, 23)},
		{"IPv6 cut off", tcp6(t, true, 0)[:53]},
		{"IPv6 longer than the frame", tcp6(t, true, 10)[:95]},
		{"IPv6 of version 4", set(tcp6(t, true, 0), 14, 0x45)},
		{"IPv6 without ports", set(tcp6(t, true, 0), 18, 0, 3)},
		{"IPv6 extension header cut off", serialize(t, false, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6HopByHop), gopacket.Payload{TCP, 1, 8: 0})},
	} {
		if p, ok := Parse(c.frame); ok {
			t.Errorf("%s: got %+v, want a refusal", c.name, p)
		}
	}
}

// FuzzParse checks that the offsets lie in the frame, whatever it holds.
func FuzzParse(f *testing.F) {
	f.Add(tcp4(f, true, 5))
	f.Add(tcp6(f, true, 5))
	f.Add(serialize(f, false, ethernet(layers.EthernetTypeIPv6), ipv6(layers.IPProtocolIPv6HopByHop), gopacket.Payload{44, 0, 7: 0}, gopacket.Payload{TCP, 7: 0}))
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
	udp := &layers.UDP{SrcPort: 1, DstPort: 2}
	ip := ipv4(layers.IPProtocolUDP)
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	udp4 := serialize(t, true, ethernet(layers.EthernetTypeIPv4), ip, udp, payload(9))
	noSum := bytes.Clone(udp4)
	copy(noSum[40:], []byte{0, 0})
	fragment := ipv4(layers.IPProtocolTCP)
	fragment.FragOffset = 8
	for _, c := range []struct {
		name  string
		frame []byte
		want  link.Verdict
	}{
		{"TCP over IPv4", tcp4(t, true, 101), link.Good},
		{"TCP over IPv6", tcp6(t, true, 101), link.Good},
		{"padding", append(tcp4(t, true, 1), 0xff), link.Good},
		{"UDP", udp4, link.Good},
		{"UDP without a checksum", noSum, link.Unchecked},
		{"fragment", serialize(t, true, ethernet(layers.EthernetTypeIPv4), fragment, payload(20)), link.Unchecked},
		{"no checksums", tcp4(t, false, 10), link.Bad},
		{"cut off", tcp4(t, true, 10)[:70], link.Unchecked},
	} {
		if got := Verify(c.frame); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestVerifyFindsEveryFlippedBit(t *testing.T) {
	for _, frame := range [][]byte{tcp4(t, true, 33), tcp6(t, true, 33)} {
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
func offloaded(tb testing.TB, v6 bool, n int, mss uint16) ([]byte, link.TxOffload) {
	tx := link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L4Len: 32, MSS: mss}
	var frame []byte
	if v6 {
		frame = tcp6(tb, false, n)
		tx.Flags |= link.TxIPv6
		tx.L3Len = 40
	} else {
		frame = tcp4(tb, false, n)
		tx.Flags |= link.TxIPv4Checksum
		tx.L3Len = 20
	}
	p, ok := Parse(frame)
	if !ok {
		tb.Fatal("the test's frame is no packet")
	}
	sum := checksum.Combine(checksum.Checksum(p.Addrs(frame), 0), TCP)
	if mss == 0 {
		sum = checksum.Combine(sum, uint16(p.End-p.L4))
	}
	binary.BigEndian.PutUint16(frame[p.L4+16:], sum)
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
		frame, tx := offloaded(t, v6, 77, 0)
		want := tcp4(t, true, 77)
		if v6 {
			want = tcp6(t, true, 77)
		}
		if diff := cmp.Diff([][]byte{want}, transmit(t, frame, tx, everything)); diff != "" {
			t.Errorf("IPv6 %v: (-want +got)\n%s", v6, diff)
		}
	}
}

func TestTransmitLeavesOtherFramesAlone(t *testing.T) {
	frame := tcp4(t, false, 20)
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
				frame, tx := offloaded(t, v6, size, mss)
				out := transmit(t, frame, tx, everything)
				if want := (size + mss - 1) / mss; len(out) != want {
					t.Fatalf("%d segments, want %d", len(out), want)
				}
				var got []byte
				for i, f := range out {
					if Verify(f) != link.Good {
						t.Errorf("segment %d has a wrong checksum", i)
					}
					p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
					h, ok := p.TransportLayer().(*layers.TCP)
					if !ok {
						t.Fatalf("segment %d is %v", i, p)
					}
					first, last := i == 0, i == len(out)-1
					if h.FIN != last || h.PSH != last || h.CWR != first || !h.ACK {
						t.Errorf("segment %d of %d: FIN %v, PSH %v, CWR %v, ACK %v", i, len(out), h.FIN, h.PSH, h.CWR, h.ACK)
					}
					if want := 0xfffffff0 + uint32(i*mss); h.Seq != want {
						t.Errorf("segment %d: sequence number %d, want %d", i, h.Seq, want)
					}
					if ip, ok := p.NetworkLayer().(*layers.IPv4); ok {
						if want := 0xfffe + uint16(i); ip.Id != want {
							t.Errorf("segment %d: identification %d, want %d", i, ip.Id, want)
						}
					}
					got = append(got, h.Payload...)
				}
				if diff := cmp.Diff([]byte(payload(size)), got); diff != "" {
					t.Errorf("payload (-want +got)\n%s", diff)
				}
			})
		}
	}
}

func TestTransmitRefuses(t *testing.T) {
	frame, tx := offloaded(t, false, 1000, 500)
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
