package xdp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/bpf"
	"github.com/gotpa/tpa/internal/checksum"
	"github.com/gotpa/tpa/internal/syncookie"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
)

// linuxOptions are those of a SYN from Linux, with an MSS of 1460.
var linuxOptions = []byte{2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}

const synISN = 0xfffffffe

var cookieKey = syncookie.Key{0x0123456789abcdef, 0xfedcba9876543210}

// cookies answer SYNs to the port that the bench claimed.
func (b *bench) cookies(answer bool) *link.SYNCookies {
	return &link.SYNCookies{Key: cookieKey, Minute: 7, MSS4: 1460, MSS6: 1440, Ports: map[uint16]bool{b.claimed: answer}}
}

// syn returns a SYN from far, with the right checksums. open leaves TCP's to a
// device.
func (b *bench) syn(local netip.Addr, options []byte, open bool, data ...byte) []byte {
	s := b.from(local, b.claimed)
	s.Seq, s.Flags, s.Options, s.Payload = synISN, header.TCPFlagSyn, options, data
	if open {
		s.Sum = testframe.Partial
	}
	return s.Frame()
}

// checkAnswer checks an answer to a SYN of b.syn. peer is the MSS that its cookie
// has to tell, told whether it has to have an option for ours; open whether its
// checksum has to be left open.
func (b *bench) checkAnswer(frame []byte, local netip.Addr, peer uint16, told, open bool) {
	b.Helper()
	remote, mss := b.far.IPv4.Addr(), uint16(1460)
	if local.Is6() {
		remote, mss = b.far.IPv6.Addr(), 1440
	}
	if want := append(bytes.Clone(b.far.MAC), b.near.MAC...); !bytes.HasPrefix(frame, want) {
		b.Errorf("the frame goes to and comes from %x, want %x", frame[:12], want)
	}
	parse := testframe.Parse
	if open {
		parse = testframe.ParseUnchecked
	}
	p, err := parse(frame)
	if err != nil {
		b.Error(err)
		return
	}
	if p.HopLimit != 64 {
		b.Errorf("the hop limit is %d, want 64", p.HopLimit)
	}
	if h := header.IPv4(frame[14:]); local.Is4() && (!h.IsChecksumValid() || h.Flags() != header.IPv4FlagDontFragment) {
		b.Errorf("IPv4 header %x: want a right checksum, and that it is not fragmented", []byte(h[:20]))
	}
	if p.Src != local || p.Dst != remote || !bytes.HasSuffix(frame, p.Payload) {
		b.Errorf("from %v to %v, %d bytes of %x; want %v to %v and all", p.Src, p.Dst, len(p.Payload), frame, local, remote)
		return
	}
	tcp := p.TCP()
	if tcp.SourcePort() != b.claimed || tcp.DestinationPort() != 40000 || tcp.AckNumber() != 0xffffffff || tcp.WindowSize() != 0xffff ||
		tcp.Flags() != header.TCPFlagSyn|header.TCPFlagAck || int(tcp.DataOffset()) != len(tcp) {
		b.Errorf("TCP header %x: want a SYN and ACK of %d", []byte(tcp), uint32(0xffffffff))
	}
	if sum := testframe.PseudoHeader(p.Src, p.Dst, p.Protocol, len(tcp)); open && tcp.Checksum() != sum {
		b.Errorf("the checksum is %#x, want it left open: %#x", tcp.Checksum(), sum)
	}
	var options []byte
	if told {
		options = binary.BigEndian.AppendUint16([]byte{2, 4}, mss)
	}
	if got := tcp.Options(); !bytes.HasPrefix(got, options) || len(got) != len(options) && len(got) != 20 {
		b.Errorf("options %x, want %x first", got, options)
	}
	got, ok := cookieKey.Check(netip.AddrPortFrom(local, b.claimed), netip.AddrPortFrom(remote, 40000), synISN, 7, tcp.SequenceNumber())
	if !ok || got != peer {
		b.Errorf("a cookie for an MSS of %d, %v; want %d", got, ok, peer)
	}
}

// TestCookies runs the filter on SYNs: the cookies are those of internal/syncookie,
// and what is not sound is dropped.
func TestCookies(t *testing.T) {
	const drop, send = 1, 3
	b := newBench(t, xdp.Config{Attach: xdp.AttachGeneric}, testnet.Wire{})
	f := b.dev.Filter()
	if err := f.Answer(b.cookies(true)); err != nil {
		t.Fatal(err)
	}
	mss := func(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, n) }
	for _, local := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		for _, tt := range []struct {
			name    string
			options []byte
			peer    uint16
			open    bool
		}{
			{name: "Linux", options: linuxOptions, peer: 1460},
			{name: "Linux, checksum open", options: linuxOptions, peer: 1460, open: true},
			{name: "no options", peer: 536},
			{name: "MSS 0", options: mss(0), peer: 216},
			{name: "MSS 535", options: mss(535), peer: 216},
			{name: "MSS 536", options: mss(536), peer: 536},
			{name: "MSS 767", options: mss(767), peer: 536},
			{name: "MSS 768", options: mss(768), peer: 768},
			{name: "MSS 1000", options: mss(1000), peer: 996},
			{name: "MSS 1220", options: mss(1220), peer: 1220},
			{name: "MSS 1400", options: mss(1400), peer: 1360},
			{name: "MSS 1440", options: mss(1440), peer: 1440},
			{name: "MSS 8960", options: mss(8960), peer: 1460},
			{name: "MSS after others", options: append([]byte{1, 4, 2, 1}, mss(1000)...), peer: 996},
			{name: "MSS last of 40 bytes", options: append(append([]byte{30, 34}, make([]byte, 32)...), 1, 1, 2, 4, 0x03, 0xe8), peer: 996},
			{name: "MSS after the end", options: append([]byte{0, 0, 0, 0}, mss(1000)...), peer: 536},
			{name: "an option of length 0", options: append([]byte{9, 0, 1, 1}, mss(1000)...), peer: 536},
			{name: "an option that is too long", options: []byte{9, 200, 0, 0, 2, 4, 3, 0xe8}, peer: 536},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := *b
				b.T = t
				for _, padding := range []int{0, 30} {
					action, out, err := xdp.Run(f, append(b.syn(local, tt.options, tt.open), make([]byte, padding)...))
					if err != nil || action != send {
						t.Fatalf("action %d, %v; want %d", action, err, send)
					}
					b.checkAnswer(out, local, tt.peer, len(tt.options) > 0, tt.open)
				}
			})
		}
		for _, tt := range []struct {
			name    string
			options []byte
			shift   int
			sack    bool
			stamped bool
		}{
			{"Linux", linuxOptions, 7, true, true},
			{"Linux, no SACK", []byte{2, 4, 5, 0xb4, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 10}, 10, false, true},
			{"Linux, no window scale", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 1, 1, 1}, -1, true, true},
			{"macOS", []byte{2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0}, 6, true, true},
			{"a shift of 15", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 15}, 14, true, true},
			{"no room", []byte{4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 3, 3, 9, 1}, 0, false, false},
			{"Windows", []byte{2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2}, 0, false, false},
			{"a timestamp that is cut off", []byte{2, 4, 5, 0xb4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8, 10}, 0, false, false},
		} {
			t.Run("options of "+tt.name, func(t *testing.T) {
				_, out, err := xdp.Run(f, b.syn(local, tt.options, false))
				if err != nil {
					t.Fatal(err)
				}
				p, err := testframe.Parse(out)
				if err != nil {
					t.Fatal(err)
				}
				o := header.ParseSynOptions(p.TCP().Options(), true)
				if !tt.stamped {
					if o.TS || o.SACKPermitted || o.WS >= 0 {
						t.Fatalf("options %+v, want the MSS alone", o)
					}
					return
				}
				shift, sack := syncookie.Told(o.TSVal)
				if !o.TS || o.TSEcr != 0x01020304 || shift != tt.shift || sack != tt.sack || o.SACKPermitted != tt.sack ||
					(o.WS >= 0) != (tt.shift >= 0) || o.WS >= 0 && o.WS != syncookie.WindowShift {
					t.Errorf("options %+v, of a shift of %d and SACK %v", o, shift, sack)
				}
			})
		}
		t.Run("a checksum that is right both ways", func(t *testing.T) {
			frame, tcp := b.syn(local, linuxOptions, true), 34
			if local.Is6() {
				tcp = 54
			}
			size := len(frame) - tcp
			binary.BigEndian.PutUint16(frame[tcp+14:], 0)
			pseudo := binary.BigEndian.Uint16(frame[tcp+16:])
			window := ^checksum.Combine(checksum.Sum(frame[tcp:], 0), pseudo)
			binary.BigEndian.PutUint16(frame[tcp+14:], window)
			_, out, err := xdp.Run(f, frame)
			if err != nil {
				t.Fatal(err)
			}
			p, err := testframe.Parse(out) // as of a SYN whose checksum is there
			if err != nil {
				t.Fatal(err)
			}
			if got, want := p.TCP().Checksum(), testframe.PseudoHeader(p.Src, p.Dst, p.Protocol, size); got != want {
				t.Errorf("the checksum is %#x, want %#x, as of one that is left open", got, want)
			}
		})
		good, at := b.syn(local, linuxOptions, false), 34
		if local.Is6() {
			at = 54
		}
		for name, frame := range map[string][]byte{
			"with data":            b.syn(local, linuxOptions, false, 'x'),
			"wrong checksum":       edit(good, at+16, good[at+16]+1),
			"changed option":       edit(good, at+24, 5),
			"header too short":     edit(good, at+12, 4<<4),
			"header beyond packet": edit(good, at+12, 15<<4),
			"cut off":              good[:len(good)-1],
		} {
			if action, _, err := xdp.Run(f, frame); err != nil || action != drop {
				t.Errorf("%v, %s: action %d, %v; want %d", local, name, action, err, drop)
			}
		}
		if local.Is4() {
			if action, _, err := xdp.Run(f, edit(good, 24, good[24]+1)); err != nil || action != drop {
				t.Errorf("wrong checksum of the IP header: action %d, %v; want %d", action, err, drop)
			}
		}
	}
	if err := xdp.CompleteAnswers(f); err != nil {
		t.Fatal(err)
	}
	for _, local := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		if action, out, err := xdp.Run(f, b.syn(local, linuxOptions, true)); err != nil || action != send {
			t.Errorf("checksum open: action %d, %v; want %d", action, err, send)
		} else {
			b.checkAnswer(out, local, 1460, true, false)
		}
	}
}

// TestAnswer sees the answers come out of the interface, and nothing else change.
func TestAnswer(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			b := newBench(t, m.cfg, testnet.Wire{})
			f, q := b.dev.Filter(), b.dev.Queue(0)
			locals := []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()}
			answer := func(c *link.SYNCookies) {
				t.Helper()
				if err := f.Answer(c); err != nil {
					t.Fatal(err)
				}
			}
			// The kernel at far resets the connections that it is offered.
			arrives := func(when string, frame []byte) {
				t.Helper()
				b.send(frame)
				for !slices.ContainsFunc(b.receive(q, 1), func(f []byte) bool { return bytes.Equal(f, frame) }) {
				}
			}
			for range 2 {
				for _, local := range locals {
					arrives("before", b.syn(local, linuxOptions, false))
				}
				before := f.Counts()
				for _, local := range locals {
					answer(b.cookies(true))
					b.send(b.syn(local, linuxOptions, false))
					b.checkAnswer(b.sniffTCP(local), local, 1460, true, false)
					b.send(b.syn(local, linuxOptions, true))
					b.checkAnswer(b.sniffTCP(local), local, 1460, true, true)
					b.send(b.syn(local, linuxOptions, false, 'x')) // dropped
					arrives("a segment meanwhile", b.segment(local, b.claimed, 100, 1))
					answer(b.cookies(false))
					b.send(b.syn(local, linuxOptions, false))
				}
				until(t, "all SYNs counted", func() bool {
					v := minus(f.Counts(), before)
					return v.Answered == 4 && v.Dropped == 4
				})
				answer(nil)
				for _, local := range locals {
					arrives("after", b.syn(local, linuxOptions, false))
				}
			}
		})
	}
}

// sniffTCP returns the next TCP segment from near that arrives at far.
func (b *bench) sniffTCP(local netip.Addr) []byte {
	b.Helper()
	prefix, protocol := append(append(bytes.Clone(b.far.MAC), b.near.MAC...), 0x08, 0x00), 14+9
	if local.Is6() {
		prefix[12], prefix[13], protocol = 0x86, 0xdd, 14+6
	}
	for {
		if f := b.sniff(prefix); f[protocol] == byte(header.TCPProtocolNumber) {
			return f
		}
	}
}

// TestAnswerToKernel lets a kernel connect to the filter, whose answer is all that
// it needs for that; also with checksums that it leaves to its device.
func TestAnswerToKernel(t *testing.T) {
	native := func(name string) (*bpf.Filter, error) {
		return device(t, xdp.Config{Interface: name, Attach: xdp.AttachNative})
	}
	generic := func(name string) (*bpf.Filter, error) {
		return device(t, xdp.Config{Interface: name, Attach: xdp.AttachGeneric})
	}
	for _, m := range []struct {
		name string
		open func(string) (*bpf.Filter, error)
	}{{"native", native}, {"generic", generic}, {"ingress", bpf.OpenIngress}} {
		for _, offloads := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/offloads %v", m.name, offloads), func(t *testing.T) {
				far, near := wire(t, testnet.Wire{Offloads: offloads})
				var f *bpf.Filter
				var err error
				near.Host.Do(func() { f, err = m.open(near.Name) })
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				const port = 6379
				for _, local := range []netip.Addr{near.IPv4.Addr(), near.IPv6.Addr()} {
					if err := f.Claim(local, port, 1); err != nil {
						t.Fatal(err)
					}
				}
				if err := f.Answer(&link.SYNCookies{Key: cookieKey, MSS4: 1460, MSS6: 1440, Ports: map[uint16]bool{port: true}}); err != nil {
					t.Fatal(err)
				}
				for _, local := range []netip.Addr{near.IPv4.Addr(), near.IPv6.Addr()} {
					var c net.Conn
					far.Host.Do(func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(local, port).String(), 10*time.Second) })
					if err != nil {
						t.Errorf("%v; the filter: %+v", err, f.Counts())
						continue
					}
					c.Close()
				}
				if v := f.Counts(); v.Answered < 2 || v.Dropped > 0 {
					t.Errorf("counts %+v, want 2 SYNs answered and none dropped", v)
				}
			})
		}
	}
}

// device opens a device for its filter.
func device(t *testing.T, cfg xdp.Config) (*bpf.Filter, error) {
	dev, err := xdp.Open(cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { dev.Close() })
	return dev.Filter(), nil
}
