package netif_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	"github.com/gotpa/tpa/link/softnic"
)

var (
	peerMAC  = link.MAC{2, 0, 0, 0, 0, 2}
	ourMAC   = link.MAC{2, 0, 0, 0, 0, 1}
	everyone = link.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

	our4, peer4 = tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), tcpip.AddrFrom4([4]byte{10, 0, 0, 2})
	our6, peer6 = addr6(1), addr6(2)
)

func addr6(last byte) tcpip.Address {
	return tcpip.AddrFrom16([16]byte{0: 0xfd, 15: last})
}

// bench is an endpoint with its neighbour table, the wire behind it, and a
// stack that writes down what it is given.
type bench struct {
	t          testing.TB
	clock      *faketime.ManualClock
	neighbours *netif.Neighbours
	endpoint   *netif.Endpoint
	wire       link.Queue
	delivered  []tcpip.NetworkProtocolNumber
	unresolved int
}

func newBench(t testing.TB, resolver netif.Resolver) *bench {
	t.Helper()
	dev, wire, err := memory.Pair(memory.Options{Ring: 128})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, clock: faketime.NewManualClock(), wire: wire.Queue(0)}
	b.neighbours = netif.NewNeighbours(ourMAC, b.clock, resolver)
	b.neighbours.AddLocal(our4)
	b.neighbours.AddLocal(our6)
	b.endpoint = netif.NewEndpoint(dev.Info(), dev.Queue(0), b.neighbours, 1500)
	b.endpoint.OnUnresolved(func(*stack.PacketBuffer) { b.unresolved++ })
	b.endpoint.Attach(b)
	t.Cleanup(func() { b.neighbours.Close(); dev.Close(); wire.Close() })
	return b
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (b *bench) DeliverNetworkPacket(p tcpip.NetworkProtocolNumber, _ *stack.PacketBuffer) {
	b.delivered = append(b.delivered, p)
}

// DeliverLinkPacket implements stack.NetworkDispatcher.
func (b *bench) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

func (b *bench) deliver(frame []byte) { b.endpoint.Deliver(&link.Frame{Data: frame}) }

// sent returns the frames that left since the last call.
func (b *bench) sent() [][]byte {
	b.t.Helper()
	b.endpoint.Kick()
	var all [][]byte
	frames := make([]link.Frame, link.MaxBurst)
	for {
		n, err := b.wire.Receive(frames)
		if err != nil {
			b.t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		for _, f := range frames[:n] {
			all = append(all, bytes.Clone(f.Data))
		}
	}
}

func ethernet(dst, src link.MAC, etherType uint16, payload []byte) []byte {
	return testframe.Ethernet(dst[:], src[:], etherType, payload)
}

func arp(op uint16, senderMAC link.MAC, sender tcpip.Address, targetMAC link.MAC, target tcpip.Address) []byte {
	return testframe.ARP(op, senderMAC[:], netstack.Addr(sender), targetMAC[:], netstack.Addr(target))
}

// ndp makes a neighbour solicitation (135) or advertisement (136) with a
// link-layer address option.
func ndp(kind, flags byte, src, dst, target tcpip.Address, mac link.MAC) []byte {
	option := byte(1)
	if kind == 136 {
		option = 2
	}
	body := append(append(target.AsSlice(), option, 1), mac[:]...)
	return testframe.ICMP(netstack.Addr(src), netstack.Addr(dst), kind, 0, uint32(flags)<<24, body)
}

// packet returns a packet as the stack hands it down: IP header, TCP header with
// an empty checksum, payload.
func packet(src, dst tcpip.Address, payload []byte, gso stack.GSO) *stack.PacketBuffer {
	s := testframe.TCP{
		Src: netip.AddrPortFrom(netstack.Addr(src), 80), Dst: netip.AddrPortFrom(netstack.Addr(dst), 1234),
		Seq: 1000, Ack: 7, Flags: header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin, Window: 100, Payload: payload,
	}
	b := s.Packet()
	b = b[:len(b)-len(payload)]
	ip, tcp := b[:len(b)-header.TCPMinimumSize], b[len(b)-header.TCPMinimumSize:]
	clear(tcp[16:18])
	if src.Len() == 4 {
		clear(ip[10:12])
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: len(ip) + len(tcp), Payload: buffer.MakeWithData(payload)})
	copy(pkt.TransportHeader().Push(len(tcp)), tcp)
	copy(pkt.NetworkHeader().Push(len(ip)), ip)
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = netstack.Network(src), header.TCPProtocolNumber
	pkt.GSOOptions = gso
	return pkt
}

func (b *bench) write(pkt *stack.PacketBuffer) tcpip.Error {
	defer pkt.DecRef()
	return b.endpoint.Discipline().WritePacket(pkt)
}

// checkTCP checks lengths and checksums of a frame, and returns its TCP header
// and payload.
func checkTCP(t *testing.T, frame []byte) (header.TCP, []byte) {
	t.Helper()
	p, err := testframe.Parse(frame)
	if err != nil || p.TCP() == nil {
		t.Fatalf("no segment: %v, %x", err, frame)
	}
	return p.TCP(), p.TCP().Payload()
}

// TestRefused checks that frames which are none of ours are counted by their
// kind, and neither answered nor delivered.
func TestRefused(t *testing.T) {
	ndpBadSum := ethernet(ourMAC, peerMAC, 0x86dd, ndp(135, 0, peer6, our6, our6, peerMAC))
	ndpBadSum[len(ndpBadSum)-1] ^= 1
	ndpRouted := ethernet(ourMAC, peerMAC, 0x86dd, ndp(135, 0, peer6, our6, our6, peerMAC))
	ndpRouted[link.EthernetHeaderLen+7] = 254
	for _, tc := range []struct {
		name  string
		frame link.Frame
		want  netif.EndpointStats
	}{
		{"empty", link.Frame{}, netif.EndpointStats{RxMalformed: 1}},
		{"runt", link.Frame{Data: make([]byte, 13)}, netif.EndpointStats{RxMalformed: 1}},
		{"truncated IPv4", link.Frame{Data: ethernet(ourMAC, peerMAC, 0x0800, make([]byte, 19))}, netif.EndpointStats{RxMalformed: 1}},
		{"truncated IPv6", link.Frame{Data: ethernet(ourMAC, peerMAC, 0x86dd, make([]byte, 39))}, netif.EndpointStats{RxMalformed: 1}},
		{"truncated ARP", link.Frame{Data: ethernet(everyone, peerMAC, 0x0806, make([]byte, 27))}, netif.EndpointStats{RxMalformed: 1}},
		{"ARP of another network", link.Frame{Data: ethernet(everyone, peerMAC, 0x0806, make([]byte, 28))}, netif.EndpointStats{RxMalformed: 1}},
		{"VLAN", link.Frame{Data: ethernet(ourMAC, peerMAC, 0x8100, make([]byte, 64))}, netif.EndpointStats{RxVLAN: 1}},
		{"QinQ", link.Frame{Data: ethernet(ourMAC, peerMAC, 0x88a8, make([]byte, 64))}, netif.EndpointStats{RxVLAN: 1}},
		{"LLDP", link.Frame{Data: ethernet(everyone, peerMAC, 0x88cc, make([]byte, 64))}, netif.EndpointStats{RxUnknown: 1}},
		{"another station's", link.Frame{Data: ethernet(peerMAC, peerMAC, 0x0800, make([]byte, 64))}, netif.EndpointStats{RxNotOurs: 1}},
		{"the device found a bad checksum", link.Frame{Data: ethernet(ourMAC, peerMAC, 0x0800, make([]byte, 64)), Checksum: link.Bad}, netif.EndpointStats{RxBadChecksum: 1}},
		{"NDP with a wrong checksum", link.Frame{Data: ndpBadSum}, netif.EndpointStats{RxBadChecksum: 1}},
		{"NDP from beyond a router", link.Frame{Data: ndpRouted}, netif.EndpointStats{RxMalformed: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.endpoint.Deliver(&tc.frame)
			if diff := cmp.Diff(tc.want, b.endpoint.Stats()); diff != "" {
				t.Errorf("counters, -want +got:\n%s", diff)
			}
			if got := b.sent(); len(got) != 0 || len(b.delivered) != 0 {
				t.Errorf("answered with %d frames, delivered %d packets; want none", len(got), len(b.delivered))
			}
		})
	}
}

func TestDelivered(t *testing.T) {
	b := newBench(t, nil)
	b.deliver(ethernet(ourMAC, peerMAC, 0x0800, make([]byte, 64)))
	b.deliver(ethernet(everyone, peerMAC, 0x86dd, make([]byte, 64)))
	want := []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber}
	if diff := cmp.Diff(want, b.delivered); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAnswers checks the answers to questions for our addresses, and that who
// asked is known afterwards.
func TestAnswers(t *testing.T) {
	unspecified := tcpip.AddrFrom16([16]byte{})
	for _, tc := range []struct {
		name           string
		question, want []byte
		learned        tcpip.Address
	}{
		{
			name:     "ARP",
			question: ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, our4)),
			want:     ethernet(peerMAC, ourMAC, 0x0806, arp(2, ourMAC, our4, peerMAC, peer4)),
			learned:  peer4,
		},
		{
			name:     "ARP for another",
			question: ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, tcpip.AddrFrom4([4]byte{10, 0, 0, 9}))),
		},
		{
			name:     "solicitation",
			question: ethernet(link.MAC{0x33, 0x33, 0xff, 0, 0, 1}, peerMAC, 0x86dd, ndp(135, 0, peer6, header.SolicitedNodeAddr(our6), our6, peerMAC)),
			want:     ethernet(peerMAC, ourMAC, 0x86dd, ndp(136, 0x60, our6, peer6, our6, ourMAC)),
			learned:  peer6,
		},
		{
			name:     "duplicate address detection",
			question: ethernet(link.MAC{0x33, 0x33, 0xff, 0, 0, 1}, peerMAC, 0x86dd, ndp(135, 0, unspecified, header.SolicitedNodeAddr(our6), our6, peerMAC)),
			want: ethernet(link.MAC{0x33, 0x33, 0, 0, 0, 1}, ourMAC, 0x86dd,
				ndp(136, 0x20, our6, header.IPv6AllNodesMulticastAddress, our6, ourMAC)),
		},
		{
			name:     "solicitation for another",
			question: ethernet(everyone, peerMAC, 0x86dd, ndp(135, 0, peer6, our6, addr6(9), peerMAC)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.deliver(tc.question)
			var want [][]byte
			if tc.want != nil {
				want = append(want, tc.want)
			}
			if diff := cmp.Diff(want, b.sent()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			known := b.neighbours.All()
			if tc.learned.Len() == 0 {
				if len(known) != 0 {
					t.Errorf("learned %v, want nothing", known)
				}
			} else if known[tc.learned] != peerMAC {
				t.Errorf("learned %v, want %v at %v", known, tc.learned, peerMAC)
			}
		})
	}
}

// TestResolution checks that packets wait for their next hop's address and then
// leave in order.
func TestResolution(t *testing.T) {
	for _, tc := range []struct {
		name             string
		our, peer        tcpip.Address
		question, answer []byte
	}{
		{
			"ARP", our4, peer4,
			ethernet(everyone, ourMAC, 0x0806, arp(1, ourMAC, our4, link.MAC{}, peer4)),
			ethernet(ourMAC, peerMAC, 0x0806, arp(2, peerMAC, peer4, ourMAC, our4)),
		},
		{
			"NDP", our6, peer6,
			ethernet(link.MAC{0x33, 0x33, 0xff, 0, 0, 2}, ourMAC, 0x86dd, ndp(135, 0, our6, header.SolicitedNodeAddr(peer6), peer6, ourMAC)),
			ethernet(ourMAC, peerMAC, 0x86dd, ndp(136, 0x60, peer6, our6, peer6, peerMAC)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			for i := range 3 {
				if err := b.write(packet(tc.our, tc.peer, []byte{byte(i)}, stack.GSO{})); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([][]byte{tc.question}, b.sent()); diff != "" {
				t.Fatalf("one question, -want +got:\n%s", diff)
			}
			b.clock.Advance(time.Second)
			if diff := cmp.Diff([][]byte{tc.question}, b.sent()); diff != "" {
				t.Fatalf("the question again after a second, -want +got:\n%s", diff)
			}
			b.deliver(tc.answer)
			got := b.sent()
			if len(got) != 3 {
				t.Fatalf("%d frames left after the answer, want 3", len(got))
			}
			for i, frame := range got {
				if _, payload := checkTCP(t, frame); link.MAC(frame) != peerMAC || payload[0] != byte(i) {
					t.Errorf("frame %d: to %v with %v", i, link.MAC(frame), payload)
				}
			}
			b.clock.Advance(10 * time.Second)
			if got := b.sent(); len(got) != 0 {
				t.Errorf("%d frames after the answer, want none", len(got))
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	b := newBench(t, nil)
	const packets = 300 // more than are held for one address
	for range packets {
		if err := b.write(packet(our4, peer4, make([]byte, 1000), stack.GSO{})); err != nil {
			t.Fatal(err)
		}
	}
	questions := len(b.sent())
	for range 5 {
		b.clock.Advance(time.Second)
		questions += len(b.sent())
	}
	if questions != 3 || b.unresolved < 100 || b.unresolved > 200 {
		t.Errorf("%d questions, %d packets reported, want 3 and 100 to 200", questions, b.unresolved)
	}
	want := netif.NeighbourStats{RequestsSent: 3, Failures: 1, HeldDropped: packets}
	if diff := cmp.Diff(want, b.neighbours.Stats()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// The table is not filled by packets to many unknown neighbours either.
	refused := 0
	for i := range 300 {
		if b.write(packet(our4, tcpip.AddrFrom4([4]byte{10, 0, 1 + byte(i/200), byte(i % 200)}), nil, stack.GSO{})) != nil {
			refused++
		}
	}
	if got := b.neighbours.Stats().Unresolved; got != 256 || refused != 44 {
		t.Errorf("%d addresses are asked for, %d packets refused, want 256 and 44", got, refused)
	}
}

// TestUnasked checks that nobody can enter addresses that we did not ask for,
// and that a known neighbour may move.
func TestUnasked(t *testing.T) {
	b := newBench(t, nil)
	b.deliver(ethernet(ourMAC, peerMAC, 0x0806, arp(2, peerMAC, peer4, ourMAC, our4)))
	b.deliver(ethernet(ourMAC, peerMAC, 0x86dd, ndp(136, 0x20, peer6, our6, peer6, peerMAC)))
	b.deliver(ethernet(everyone, peerMAC, 0x0806, arp(1, everyone, peer4, link.MAC{}, our4))) // a group as sender
	b.deliver(ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, our4, link.MAC{}, our4)))   // claims to be us
	if got := b.neighbours.All(); len(got) != 0 {
		t.Errorf("learned %v, want nothing", got)
	}
	b.deliver(ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, our4)))
	moved := link.MAC{2, 0, 0, 0, 0, 9}
	b.deliver(ethernet(everyone, moved, 0x0806, arp(1, moved, peer4, link.MAC{}, peer4))) // gratuitous
	if got := b.neighbours.All()[peer4]; got != moved {
		t.Errorf("after a gratuitous ARP the neighbour is at %v, want %v", got, moved)
	}
	if got := b.neighbours.Stats().Changes; got != 1 {
		t.Errorf("%d changes counted, want 1", got)
	}
}

// TestAgeing checks that entries in use are confirmed, those without an answer
// and those out of use are forgotten.
func TestAgeing(t *testing.T) {
	b := newBench(t, nil)
	hello := ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, our4))
	use := func() {
		if _, ok := b.neighbours.Lookup(peer4); !ok {
			t.Fatal("the neighbour is gone")
		}
	}
	b.deliver(hello)
	b.sent()
	question := ethernet(peerMAC, ourMAC, 0x0806, arp(1, ourMAC, our4, link.MAC{}, peer4))
	use()
	b.clock.Advance(30 * time.Second)
	if diff := cmp.Diff([][]byte{question}, b.sent()); diff != "" {
		t.Fatalf("an entry in use is confirmed, -want +got:\n%s", diff)
	}
	b.deliver(ethernet(ourMAC, peerMAC, 0x0806, arp(2, peerMAC, peer4, ourMAC, our4)))
	use()
	b.clock.Advance(30 * time.Second)
	silence := func() {
		t.Helper()
		for i := range 3 {
			if diff := cmp.Diff([][]byte{question}, b.sent()); diff != "" {
				t.Errorf("question %d, -want +got:\n%s", i, diff)
			}
			use()
			b.clock.Advance(time.Second)
		}
		if got := b.neighbours.All(); len(got) != 0 || len(b.sent()) != 0 {
			t.Errorf("after three questions without an answer: %v, want nothing", got)
		}
	}
	silence()

	// TCP may doubt a neighbour before (RFC 4861 section 7.3.3).
	b.deliver(hello)
	b.sent()
	b.neighbours.Doubt(peer4)
	if got := b.sent(); len(got) != 0 {
		t.Errorf("a neighbour that was heard just now is asked again: %x", got)
	}
	b.clock.Advance(time.Second)
	b.neighbours.Doubt(peer4)
	b.neighbours.Doubt(peer4)
	silence()
	b.neighbours.Doubt(peer4) // unknown by now
	b.deliver(hello)
	b.sent()
	b.clock.Advance(time.Second)
	b.neighbours.Doubt(peer4)
	b.deliver(ethernet(ourMAC, peerMAC, 0x0806, arp(2, peerMAC, peer4, ourMAC, our4)))
	b.sent()
	b.clock.Advance(10 * time.Second)
	if got := b.sent(); len(got) != 0 || len(b.neighbours.All()) != 1 {
		t.Errorf("a neighbour that answered is asked again: %x", got)
	}
	b.deliver(hello)
	b.clock.Advance(6 * time.Minute)
	if got := b.neighbours.All(); len(got) != 0 {
		t.Errorf("after six minutes out of use: %v, want nothing", got)
	}
}

// resolver is a netif.Resolver that remembers what it was asked.
type resolver struct{ asked []tcpip.Address }

func (r *resolver) Resolve(a tcpip.Address) { r.asked = append(r.asked, a) }

func TestResolver(t *testing.T) {
	var r resolver
	b := newBench(t, &r)
	if err := b.write(packet(our4, peer4, []byte("x"), stack.GSO{})); err != nil {
		t.Fatal(err)
	}
	b.deliver(ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, our4)))
	if got := b.sent(); len(got) != 0 || len(r.asked) != 1 || r.asked[0] != peer4 {
		t.Fatalf("sent %d frames and asked for %v, want none and %v", len(got), r.asked, peer4)
	}
	b.neighbours.Set(peer4, peerMAC)
	if got := b.sent(); len(got) != 1 || link.MAC(got[0]) != peerMAC {
		t.Errorf("after Set %d frames left, want the one that waited", len(got))
	}
	b.clock.Advance(time.Second)
	b.neighbours.Doubt(peer4)
	b.neighbours.Doubt(peer4)
	b.clock.Advance(10 * time.Second)
	if len(r.asked) != 2 || len(b.neighbours.All()) != 1 {
		t.Errorf("doubted twice at once, the resolver was asked %d times in all, want 2; %v is known", len(r.asked), b.neighbours.All())
	}
	b.neighbours.Delete(peer4)
	if _, ok := b.neighbours.Lookup(peer4); ok {
		t.Error("the neighbour is still known after Delete")
	}
}

// TestSegmentation cuts a large segment up and puts it together again.
func TestSegmentation(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := newBench(t, nil)
		our, peer, gso := our4, peer4, stack.GSO{Type: stack.GSOTCPv4, MSS: 1400}
		if v6 {
			our, peer, gso.Type = our6, peer6, stack.GSOTCPv6
		}
		b.neighbours.Set(peer, peerMAC)
		want := make([]byte, 10_000)
		for i := range want {
			want[i] = byte(i * 7)
		}
		if err := b.write(packet(our, peer, want, gso)); err != nil {
			t.Fatal(err)
		}
		var got []byte
		frames := b.sent()
		for i, frame := range frames {
			tcp, payload := checkTCP(t, frame)
			if seq := 1000 + uint32(len(got)); tcp.SequenceNumber() != seq || len(payload) > 1400 {
				t.Errorf("piece %d: sequence %d, want %d; %d bytes", i, tcp.SequenceNumber(), seq, len(payload))
			}
			final := i == len(frames)-1
			if has := tcp.Flags()&(header.TCPFlagFin|header.TCPFlagPsh) != 0; has != final {
				t.Errorf("piece %d has flags %v", i, tcp.Flags())
			}
			got = append(got, payload...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("v6 %v: the pieces do not make up the segment", v6)
		}
		if s := b.endpoint.Stats(); s.TxSegmented != uint64(len(frames)) {
			t.Errorf("counted %d pieces, want %d", s.TxSegmented, len(frames))
		}
	}
}

// A cutter is a queue of a device that cuts segments. It keeps what it is to send.
type cutter struct {
	link.Queue
	room [][]byte
	sent [][]byte
	mss  []uint16
}

func (q *cutter) Reserve(n int) []byte {
	q.room = append(q.room, make([]byte, n))
	return q.room[len(q.room)-1]
}

func (q *cutter) Commit(n int, tx link.TxOffload) {
	q.sent, q.mss = append(q.sent, q.room[len(q.room)-1][:n]), append(q.mss, tx.MSS)
}

func (q *cutter) Flush() (int, error) { return 0, nil }

// TestSegmentationInPieces has a device that cuts less than a whole segment: it gets
// pieces as large as it takes.
func TestSegmentationInPieces(t *testing.T) {
	dev, _, err := memory.Pair(memory.Options{Ring: 128})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, nil)
	q, info := &cutter{Queue: dev.Queue(0)}, dev.Info()
	info.Capabilities = link.Capabilities{TxIPv4Checksum: true, TxTCPChecksum: true, TSO: 5000}
	b.endpoint = netif.NewEndpoint(info, q, b.neighbours, 1500)
	b.neighbours.Set(peer4, peerMAC)
	want := make([]byte, 10_000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	if err := b.write(packet(our4, peer4, want, stack.GSO{Type: stack.GSOTCPv4, MSS: 1400})); err != nil {
		t.Fatal(err)
	}
	const headers = link.EthernetHeaderLen + header.IPv4MinimumSize + header.TCPMinimumSize
	var got []byte
	var sizes []int
	for _, frame := range q.sent {
		tcp := header.TCP(frame[link.EthernetHeaderLen+header.IPv4MinimumSize:])
		if seq := 1000 + uint32(len(got)); tcp.SequenceNumber() != seq {
			t.Errorf("a piece has sequence %d, want %d", tcp.SequenceNumber(), seq)
		}
		got, sizes = append(got, frame[headers:]...), append(sizes, len(frame)-headers)
	}
	if !bytes.Equal(got, want) {
		t.Error("the pieces do not make up the segment")
	}
	if want := []int{4200, 4200, 1600}; !slices.Equal(sizes, want) || !slices.Equal(q.mss, []uint16{1400, 1400, 1400}) {
		t.Errorf("pieces of %d bytes with MSS %d, want %d with 1400", sizes, q.mss, want)
	}
	if s := b.endpoint.Stats(); s.TxSegmented != 0 {
		t.Errorf("counted %d frames cut in software, want none", s.TxSegmented)
	}
}

// TestSegmentationBelowMTU checks that a segment which fits the MTU, and not what
// the peer or the path takes, is cut up as well.
func TestSegmentationBelowMTU(t *testing.T) {
	b := newBench(t, nil)
	b.neighbours.Set(peer4, peerMAC)
	if err := b.write(packet(our4, peer4, make([]byte, 1200), stack.GSO{Type: stack.GSOTCPv4, MSS: 500})); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, frame := range b.sent() {
		_, payload := checkTCP(t, frame)
		got = append(got, len(payload))
	}
	if want := []int{500, 500, 200}; !slices.Equal(got, want) {
		t.Errorf("pieces of %v bytes, want %v", got, want)
	}
}

func TestTooLong(t *testing.T) {
	b := newBench(t, nil)
	b.neighbours.Set(peer4, peerMAC)
	err := b.write(packet(our4, peer4, make([]byte, 3000), stack.GSO{}))
	if _, ok := err.(*tcpip.ErrMessageTooLong); !ok {
		t.Errorf("got %v, want message too long", err)
	}
	if s := b.endpoint.Stats(); s.TxTooLong != 1 {
		t.Errorf("counted %d, want 1", s.TxTooLong)
	}
}

// TestFullQueue checks that a full queue is waited for, then that the loss is
// counted and told.
func TestFullQueue(t *testing.T) {
	b := newBench(t, nil)
	b.neighbours.Set(peer4, peerMAC)
	var err tcpip.Error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = b.write(packet(our4, peer4, nil, stack.GSO{}))
	}
	if _, ok := err.(*tcpip.ErrNoBufferSpace); !ok || n != 129 {
		t.Fatalf("packet %d: got %v, want no buffer space for the 129th", n, err)
	}
	if s := b.endpoint.Stats(); s.TxNoBuffer != 1 || s.TxWaits != 1 {
		t.Errorf("counted %d drops after %d waits, want 1 and 1", s.TxNoBuffer, s.TxWaits)
	}
	if got := len(b.sent()); got != 128 {
		t.Errorf("%d frames left, want 128", got)
	}
	if err := b.write(packet(our4, peer4, nil, stack.GSO{})); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

// TestAsleep checks that frames leave at once while the poller sleeps.
func TestAsleep(t *testing.T) {
	b := newBench(t, nil)
	b.neighbours.Set(peer4, peerMAC)
	frames := make([]link.Frame, 4)
	b.write(packet(our4, peer4, nil, stack.GSO{}))
	if n, _ := b.wire.Receive(frames); n != 0 {
		t.Errorf("%d frames left before the poller's flush, want 0", n)
	}
	b.endpoint.SetAsleep(true)
	b.write(packet(our4, peer4, nil, stack.GSO{}))
	if n, _ := b.wire.Receive(frames); n != 2 {
		t.Errorf("%d frames left while the poller sleeps, want 2", n)
	}
}

// TestAsleepWhileTheDeviceIsFull checks that the poller is woken for what could not
// leave: nobody else would flush it.
func TestAsleepWhileTheDeviceIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nic, err := softnic.New(softnic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		neighbours := netif.NewNeighbours(ourMAC, faketime.NewManualClock(), nil)
		defer neighbours.Close()
		neighbours.Set(peer4, peerMAC)
		b := &bench{t: t, endpoint: netif.NewEndpoint(nic.Info(), nic.Queue(0), neighbours, 1500)}
		b.endpoint.SetAsleep(true)
		nic.StallTransmit(0, true)
		if err := b.write(packet(our4, peer4, nil, stack.GSO{})); err != nil || !b.endpoint.Pending() {
			t.Fatalf("%v, pending: %v", err, b.endpoint.Pending())
		}
		start := time.Now()
		if nic.Queue(0).(link.Waiter).Wait(time.Minute); time.Since(start) != 0 {
			t.Error("nobody woke the poller")
		}
		nic.StallTransmit(0, false)
		if b.endpoint.Kick(); b.endpoint.Pending() {
			t.Error("the packet did not leave")
		}
	})
}

func FuzzDeliver(f *testing.F) {
	f.Add(ethernet(everyone, peerMAC, 0x0806, arp(1, peerMAC, peer4, link.MAC{}, our4)))
	f.Add(ethernet(ourMAC, peerMAC, 0x86dd, ndp(135, 0, peer6, our6, our6, peerMAC)))
	f.Add(ethernet(ourMAC, peerMAC, 0x86dd, ndp(136, 0x60, peer6, our6, peer6, peerMAC)))
	f.Add(ethernet(ourMAC, peerMAC, 0x0800, make([]byte, 40)))
	b := newBench(f, nil)
	f.Fuzz(func(t *testing.T, frame []byte) {
		b.t = t
		b.delivered = b.delivered[:0]
		before := b.endpoint.Stats()
		b.deliver(frame)
		answers := b.sent()
		if len(answers) > 1 {
			t.Errorf("%d answers to one frame", len(answers))
		}
		after := b.endpoint.Stats()
		refused := after.RxMalformed + after.RxBadChecksum + after.RxVLAN + after.RxUnknown + after.RxNotOurs -
			(before.RxMalformed + before.RxBadChecksum + before.RxVLAN + before.RxUnknown + before.RxNotOurs)
		if uint64(len(b.delivered))+refused > 1 {
			t.Errorf("delivered %d times and refused %d times", len(b.delivered), refused)
		}
		if len(b.neighbours.All()) > 4096 {
			t.Errorf("the neighbour table has %d entries", len(b.neighbours.All()))
		}
	})
}
