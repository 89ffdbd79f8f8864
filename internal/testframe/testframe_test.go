package testframe_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/gotpa/tpa/internal/testframe"
)

var (
	mac1, mac2 = []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	near4      = netip.MustParseAddrPort("10.0.0.1:80")
	far4       = netip.MustParseAddrPort("10.0.0.2:40000")
	near6      = netip.MustParseAddrPort("[fd00::1]:80")
	far6       = netip.MustParseAddrPort("[fd00::2]:40000")
)

// again has gopacket read a frame and write it anew, with lengths and checksums
// of its own.
func again(t *testing.T, frame []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("gopacket cannot read %x: %v", frame, e.Error())
	}
	var parts []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		if s, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := s.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
		parts = append(parts, l.(gopacket.SerializableLayer))
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[:len(frame)] // without what it pads short frames with
}

// TestAgainstGopacket compares frames with what another library makes of them.
func TestAgainstGopacket(t *testing.T) {
	segment := testframe.TCP{
		DstMAC: mac1, SrcMAC: mac2, ID: 7, Src: far4, Dst: near4, Seq: 1<<32 - 1, Ack: 1 << 31, Flags: 0x1b, Window: 512,
		Urgent: 3, Options: []byte{2, 4, 5, 0xb4}, Payload: []byte("odd"),
	}
	segment6 := segment
	segment6.Src, segment6.Dst = far6, near6
	ethernet := func(etherType uint16, p []byte) []byte { return testframe.Ethernet(mac1, mac2, etherType, p) }
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"TCP over IPv4", segment.Frame()},
		{"TCP over IPv6", segment6.Frame()},
		{"two VLANs", testframe.VLAN(segment.Frame(), 5, 6)},
		{"UDP over IPv4", ethernet(testframe.TypeIPv4, testframe.UDP(far4, near4, []byte("odd")))},
		{"UDP over IPv6", ethernet(testframe.TypeIPv6, testframe.UDP(far6, near6, []byte("odd")))},
		{"ICMP", ethernet(testframe.TypeIPv4, testframe.ICMP(far4.Addr(), near4.Addr(), 8, 0, 1, []byte("odd")))},
		{"ICMPv6", ethernet(testframe.TypeIPv6, testframe.ICMP(far6.Addr(), near6.Addr(), 1, 4, 0, []byte("quoted")))},
		{"ARP", ethernet(testframe.TypeARP, testframe.ARP(testframe.ARPReply, mac2, far4.Addr(), mac1, near4.Addr()))},
		{"solicitation", ethernet(testframe.TypeIPv6, testframe.Solicitation(far6.Addr(), near6.Addr(), near6.Addr(), mac2))},
		{"advertisement", ethernet(testframe.TypeIPv6, testframe.Advertisement(far6.Addr(), near6.Addr(), testframe.Override, mac2))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(again(t, c.frame), c.frame); diff != "" {
				t.Errorf("-gopacket +ours:\n%s", diff)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{far4, near4}, {far6, near6}} {
		s := testframe.TCP{DstMAC: mac1, SrcMAC: mac2, Src: ends[0], Dst: ends[1], Seq: 5, Flags: 0x10, Options: []byte{1}, Payload: []byte("data")}
		frame := s.Frame()
		p, err := testframe.Parse(append(bytes.Clone(frame), 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		h := p.TCP()
		if p.Src != s.Src.Addr() || p.Dst != s.Dst.Addr() || h.SourcePort() != s.Src.Port() || h.SequenceNumber() != 5 || string(h.Payload()) != "data" {
			t.Errorf("got %+v of %+v", p, s)
		}
		for at, name := range map[int]string{testframe.EthernetLen: "version", len(frame) - 1: "payload", 12: "type"} {
			bad := bytes.Clone(frame)
			bad[at] ^= 0x31
			if p, err := testframe.Parse(bad); err == nil {
				t.Errorf("a frame with a wrong %s is %+v, want an error", name, p)
			}
		}
		for n := range frame {
			if p, err := testframe.ParseUnchecked(frame[:n]); err == nil {
				t.Errorf("%d bytes of %d are %+v, want an error", n, len(frame), p)
			}
		}
		for _, sum := range []testframe.Sum{testframe.Partial, testframe.PartialTSO} {
			s.Sum = sum
			if _, err := testframe.Parse(s.Frame()); err == nil {
				t.Errorf("sum %d is right as it is, want an error", sum)
			}
			if _, err := testframe.ParseUnchecked(s.Frame()); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFragments(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789"), 10)
	for _, ends := range [][2]netip.AddrPort{{far4, near4}, {far6, near6}} {
		var got []byte
		packet := testframe.IP(ends[0].Addr(), ends[1].Addr(), testframe.ProtocolUDP, payload)
		all := testframe.Fragments(packet, 9, 48)
		for i, f := range all {
			p, err := testframe.ParseIP(f)
			if err != nil {
				t.Fatal(err)
			}
			if part := p.Payload; ends[0].Addr().Is6() {
				if more := i+1 < len(all); p.Protocol != 44 || part[0] != testframe.ProtocolUDP || part[3]&1 == 1 != more {
					t.Errorf("fragment %d of IPv6: protocol %d, header %x", i, p.Protocol, part[:8])
				}
				got = append(got, part[8:]...)
			} else {
				got = append(got, part...)
			}
		}
		if len(all) != 3 || !bytes.Equal(got, payload) {
			t.Errorf("%d fragments with %q, want 3 with %q", len(all), got, payload)
		}
	}
}
