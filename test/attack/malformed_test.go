package attack

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
)

// Offsets in a frame with IPv4 and TCP.
const (
	atIP  = testframe.EthernetLen
	atTCP = atIP + header.IPv4MinimumSize
)

// A fault makes a good segment bad, in as many ways as it has variants.
type fault struct {
	name     string
	variants int
	spoil    func(frame []byte, i int) []byte
}

// fixIP corrects the checksum of the IP header.
func fixIP(b []byte) []byte {
	if size := int(b[atIP]&15) * 4; size >= header.IPv4MinimumSize && atIP+size <= len(b) {
		testframe.SumIPv4(b[atIP:])
	}
	return b
}

func set(at int, value func(i int) byte, fix bool) func([]byte, int) []byte {
	return func(b []byte, i int) []byte {
		b[at] = value(i)
		if fix {
			fixIP(b)
		}
		return b
	}
}

// faults are about data segments of an established connection: in order, but for
// what the fault makes of them.
var faults = []fault{
	{"Ethernet: cut off", 40, func(b []byte, i int) []byte { return b[:14+i] }},
	{"Ethernet: another station", 16, func(b []byte, i int) []byte { b[5] += byte(1 + i); return b }},
	{"Ethernet: VLAN", 2, func(b []byte, i int) []byte {
		tag := []byte{0x81, 0, 0, 7}
		if i == 1 {
			tag[0], tag[1] = 0x88, 0xa8
		}
		return slices.Insert(b, 12, tag...)
	}},
	{"Ethernet: unknown type", 30, func(b []byte, i int) []byte { binary.BigEndian.PutUint16(b[12:], uint16(0x9000+i)); return b }},
	{"Ethernet: length instead of type", 10, func(b []byte, i int) []byte { binary.BigEndian.PutUint16(b[12:], uint16(40+i)); return b }},
	{"Ethernet: IPv6 that is IPv4", 1, func(b []byte, _ int) []byte { b[12], b[13] = 0x86, 0xdd; return b }},
	{"IP: version", 15, set(atIP, func(i int) byte { return []byte{0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}[i]<<4 | 5 }, true)},
	{"IP: header too short", 5, set(atIP, func(i int) byte { return 0x40 | byte(i) }, false)},
	{"IP: header longer than the packet", 1, func(b []byte, _ int) []byte { b[atIP] = 0x4f; return b[:atIP+50] }},
	{"IP: checksum", 64, func(b []byte, i int) []byte { b[atIP+10+i%2] ^= byte(1 + i); return b }},
	{"IP: total length too great", 32, func(b []byte, i int) []byte {
		binary.BigEndian.PutUint16(b[atIP+2:], uint16(len(b)-atIP+1+i*100))
		return fixIP(b)
	}},
	{"IP: total length too small", 20, func(b []byte, i int) []byte { binary.BigEndian.PutUint16(b[atIP+2:], uint16(i)); return fixIP(b) }},
	{"IP: source not unicast", 6, func(b []byte, i int) []byte {
		copy(b[atIP+12:], [][]byte{{224, 0, 0, 1}, {239, 1, 2, 3}, {255, 255, 255, 255}, {127, 0, 0, 1}, {10, 0, 0, 2}, {127, 255, 0, 1}}[i])
		return fixIP(b)
	}},
	{"IP: to another address", 32, func(b []byte, i int) []byte { b[atIP+19] = byte(100 + i); return fixIP(b) }},
	{"TCP: checksum", 128, func(b []byte, i int) []byte { b[atTCP+16+i%2] ^= byte(1 + i); return b }},
	{"TCP: payload changed", 10, func(b []byte, i int) []byte { b[len(b)-1-i%10] ^= 0x55; return b }},
	{"TCP: data offset too small", 5, func(b []byte, i int) []byte { b[atTCP+12] = byte(i) << 4; return fixTCP(b) }},
	{"TCP: data offset beyond the end", 6, func(b []byte, i int) []byte { b[atTCP+12] = byte(10+i) << 4; return fixTCP(b) }},
	{"TCP: cut off", 19, func(b []byte, i int) []byte {
		b = b[:atTCP+1+i]
		binary.BigEndian.PutUint16(b[atIP+2:], uint16(len(b)-atIP))
		return fixIP(b)
	}},
	{"UDP, to nobody", 20, func(b []byte, i int) []byte {
		b[atIP+9] = 17
		b[atIP+19] = 255 // broadcast: no answer
		b[atTCP+3] = byte(i)
		binary.BigEndian.PutUint16(b[atTCP+4:], uint16(i)) // a length that is not true
		return fixIP(b)
	}},
	{"ARP: broken", 40, func(b []byte, i int) []byte {
		b[12], b[13] = 0x08, 0x06
		clear(b[14:])
		copy(b[14:], []byte{0, 1, 8, 0, 6, 4, 0, 9})
		b[14+i%6] ^= byte(1 + i)
		return b[:14+28-i%3]
	}},
	{"fragments that never end", 20, func(b []byte, i int) []byte {
		b[atIP+6] = 0x20
		b[atIP+4], b[atIP+5] = 7, byte(i)
		return fixIP(b)[:len(b)-len(b)%8+6-8]
	}},
}

// fixTCP corrects the checksum of the segment.
func fixTCP(b []byte) []byte {
	testframe.SumTCP(netip.AddrFrom4([4]byte(b[atIP+12:])), netip.AddrFrom4([4]byte(b[atIP+16:])), b[atTCP:])
	return b
}

// TestMalformed gives a server bad frames, one after the other. None may be
// answered, none may change the stream that a connection carries, and each must
// be found in a counter of lost packets.
func TestMalformed(t *testing.T) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a, b)
	defer a.Close()
	rt, err := accel.New(accel.Config{
		Link: b, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		Fallback: accel.FallbackNever, DebugSocket: "off", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ln, err := (&accel.ListenConfig{Runtime: rt, KeepAlive: -1}).Listen(t.Context(), "tcp4", ":7")
	if err != nil {
		t.Fatal(err)
	}
	q := a.Queue(0)
	us, them := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	mac, peer := b.Info().HardwareAddr, a.Info().HardwareAddr
	give := func(frame []byte) {
		copy(q.Reserve(len(frame)), frame)
		q.Commit(len(frame), link.TxOffload{})
		q.Flush()
	}
	frames := make([]link.Frame, link.MaxBurst)
	answer := func() []byte {
		if n, _ := q.Receive(frames); n > 0 {
			return slices.Clone(frames[0].Data)
		}
		return nil
	}
	await := func(what string) []byte {
		for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
			if f := answer(); f != nil && f[12] == 0x08 && f[13] == 0 {
				return f
			} else if f != nil && f[13] == 0x06 { // who has 10.0.0.1?
				give(testframe.Ethernet(mac, peer, testframe.TypeARP, testframe.ARP(testframe.ARPReply, peer, us, mac, them)))
			}
		}
		t.Fatalf("no %s", what)
		return nil
	}
	g := testframe.TCP{
		DstMAC: mac, SrcMAC: peer, Src: netip.AddrPortFrom(us, 5000), Dst: netip.AddrPortFrom(them, 7),
		Seq: 100, Window: 65535, Flags: header.TCPFlagSyn,
	}
	give(g.Frame())
	g.Seq, g.Flags, g.Ack = 101, header.TCPFlagAck, header.TCP(await("SYN-ACK")[atTCP:]).SequenceNumber()+1
	give(g.Frame())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	lost := func() (n uint64) {
		for _, d := range rt.Status().Drops {
			if !d.Out {
				n += d.Packets
			}
		}
		return n
	}
	received := func() uint64 { return rt.Stats().Shards[0].Queue.RxFrames }
	g.Payload, g.Flags = []byte("0123456789abcdef"), header.TCPFlagAck|header.TCPFlagPsh
	count := 0
	for _, f := range faults {
		for i := range f.variants {
			count++
			before, frame := lost(), f.spoil(g.Frame(), i)
			give(frame)
			seen := false
			for deadline := time.Now().Add(2 * time.Second); !seen && time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
				seen = lost() > before
			}
			if !seen {
				t.Errorf("%s, variant %d: lost without a trace: %x", f.name, i, frame)
			}
			if a := answer(); a != nil && a[13] == 0 { // not an ARP request
				t.Errorf("%s, variant %d: answered with %x", f.name, i, a)
			}
		}
		if t.Failed() {
			break
		}
	}
	if count < 500 {
		t.Errorf("%d frames, want at least 500", count)
	}
	// The connection has heard nothing, and still is where it was.
	g.Payload = []byte("good")
	give(g.Frame())
	c.SetReadDeadline(time.Now().Add(testTimeout))
	got := make([]byte, 100)
	n, err := io.ReadAtLeast(c, got, len(g.Payload))
	if string(got[:n]) != "good" || err != nil {
		t.Errorf("read %q, %v; want what the only good frame brought", got[:n], err)
	}
	t.Logf("%d frames, %d counted as lost, %d received in all", count, lost(), received())
}
