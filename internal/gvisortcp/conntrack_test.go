package gvisortcp

import (
	"encoding/binary"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/flow"
	"github.com/gotpa/tpa/internal/netstack"
)

const (
	flagSYN = header.TCPFlagSyn
	flagACK = header.TCPFlagAck
	flagFIN = header.TCPFlagFin
	flagRST = header.TCPFlagRst
)

// A move is a segment of a connection whose sequence numbers, ours and the
// peer's, are relative to the initial ones.
type move struct {
	ours  bool // we send it
	flags header.TCPFlags
	seq   int64
	ack   int64
	n     uint32 // bytes of data
	win   uint16
	opts  []byte
	after time.Duration // passes before
	want  action
}

func ours(flags header.TCPFlags, seq, ack int64, n uint32, win uint16, opts ...byte) move {
	return move{ours: true, flags: flags, seq: seq, ack: ack, n: n, win: win, opts: opts}
}

func theirs(want action, flags header.TCPFlags, seq, ack int64, n uint32, win uint16, opts ...byte) move {
	return move{flags: flags, seq: seq, ack: ack, n: n, win: win, opts: opts, want: want}
}

func (m move) later(d time.Duration) move { m.after = d; return m }

// ts is a timestamp option, ws a window scale.
func ts(value uint32) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, value), 0, 0, 0, 0)
}

func ws(shift byte) []byte { return []byte{1, 3, 3, shift} }

// The peer dials or we do; its window is 1000, ours 2000.
func accepted(opts ...byte) []move {
	return []move{
		theirs(pass, flagSYN, 0, 0, 0, 1000, opts...), ours(flagSYN|flagACK, 0, 1, 0, 2000, opts...),
		theirs(pass, flagACK, 1, 1, 0, 1000),
	}
}

func dialled(opts ...byte) []move {
	return []move{
		ours(flagSYN, 0, 0, 0, 2000, opts...), theirs(pass, flagSYN|flagACK, 0, 1, 0, 1000, opts...),
		ours(flagACK, 1, 1, 0, 2000),
	}
}

// TestConntrack tells what is believed of the peer, from initial sequence numbers
// near to zero, to where they wrap around and to where they change sign.
func TestConntrack(t *testing.T) {
	type moves = []move
	join := func(start moves, more ...move) moves { return append(start, more...) }
	day := 24 * time.Hour
	for _, tc := range []struct {
		name  string
		moves moves
	}{
		{"data both ways", join(accepted(),
			theirs(pass, flagACK, 1, 1, 100, 1000), ours(flagACK, 1, 101, 0, 2000), ours(flagACK, 1, 101, 500, 2000), theirs(pass, flagACK, 101, 501, 0, 500))},
		{"acknowledges one too many", join(accepted(), theirs(wrongAck, flagACK, 1, 2, 10, 1000))},
		{"acknowledges what is not sent yet", join(dialled(), ours(flagACK, 1, 1, 100, 2000), theirs(pass, flagACK, 1, 101, 0, 1000), theirs(wrongAck, flagACK, 1, 102, 0, 1000))},
		{"acknowledges nothing new", join(dialled(), ours(flagACK, 1, 1, 100, 2000), theirs(pass, flagACK, 1, 1, 10, 1000))},
		{"acknowledges what is older than its window", join(accepted(), theirs(pass, flagACK, 1, 1-1000, 10, 1000), theirs(wrongAck, flagACK, 1, 1-1001, 10, 1000))},
		{"acknowledges what is older than its scaled window, as listener", join(accepted(ws(3)...), theirs(pass, flagACK, 1, 1-8000, 10, 1000), theirs(wrongAck, flagACK, 1, 1-8001, 10, 1000))},
		{"acknowledges what is older than its scaled window, as dialler", join(dialled(ws(3)...), theirs(pass, flagACK, 1, 1, 0, 1000),
			theirs(pass, flagACK, 1, 1-8000, 10, 1000), theirs(wrongAck, flagACK, 1, 1-8001, 10, 1000))},
		{"acknowledges our FIN and no more", join(accepted(), ours(flagACK|flagFIN, 1, 1, 10, 2000), theirs(wrongAck, flagACK, 1, 13, 0, 1000), theirs(pass, flagACK, 1, 12, 0, 1000))},
		{"a segment sent again does not set the limit back", join(dialled(), ours(flagACK, 1, 1, 100, 2000), ours(flagACK, 101, 1, 100, 2000), ours(flagACK, 1, 1, 100, 2000), theirs(pass, flagACK, 1, 201, 0, 1000))},
		{"probes lie below the window", join(dialled(), theirs(pass, flagACK, 0, 1, 0, 1000), theirs(pass, flagACK, 0, 1, 1, 1000), ours(flagACK, 0, 1, 1, 2000), theirs(pass, flagACK, 1, 1, 0, 1000))},
		{"what lies outside our window teaches nothing", join(accepted(), ours(flagACK, 1, 1, 100, 2000),
			theirs(pass, flagACK, 2002, 101, 0, 7), theirs(pass, flagACK, 5000, 101, 10, 7), theirs(pass, flagACK, 1, 1, 0, 900), theirs(pass, flagACK, 1, 1-1000, 0, 900))},
		{"the edge of our window", join(accepted(), ours(flagACK, 1, 1, 100, 2000), theirs(pass, flagACK, 2001, 101, 0, 900), theirs(oldWindow, flagACK, 1, 1, 10, 1000))},
		{"our window is scaled", join(accepted(ws(3)...), ours(flagACK, 1, 1, 100, 2000), theirs(pass, flagACK, 16001, 101, 0, 900), theirs(oldWindow, flagACK, 1, 1, 10, 1000))},
		{"our window is not scaled when the peer does not", moves{ours(flagSYN, 0, 0, 0, 2000, ws(3)...), theirs(pass, flagSYN|flagACK, 0, 1, 0, 1000), ours(flagACK, 1, 1, 100, 2000),
			theirs(pass, flagACK, 16001, 101, 0, 900), theirs(pass, flagACK, 1, 1, 10, 1000)}},

		{"a window is overtaken by that of an acknowledgement", join(accepted(), ours(flagACK, 1, 1, 200, 2000),
			theirs(pass, flagACK, 1, 201, 0, 5000), theirs(oldWindow, flagACK, 1, 101, 0, 0), theirs(pass, flagACK, 1, 101, 0, 5000))},
		{"a window is overtaken by that of data", join(accepted(), theirs(pass, flagACK, 11, 1, 10, 5000), theirs(oldWindow, flagACK, 1, 1, 10, 0), theirs(pass, flagACK, 1, 1, 10, 5000))},
		{"who acknowledges more has sent it later", join(accepted(), ours(flagACK, 1, 1, 200, 2000), theirs(pass, flagACK, 11, 1, 10, 5000), theirs(pass, flagACK, 1, 201, 10, 0))},
		{"window updates", join(accepted(), theirs(pass, flagACK, 1, 1, 0, 0), theirs(pass, flagACK, 1, 1, 0, 5000))},

		{"old timestamps", join(accepted(ts(100)...),
			ours(flagACK, 1, 1, 0, 2000, ts(0)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(200)...), theirs(oldTimestamp, flagACK, 1, 1, 10, 1000, ts(199)...), theirs(oldTimestamp, flagACK, 1, 1, 10, 1000),
			theirs(pass, flagACK, 1, 1, 10, 1000, ts(200)...), theirs(pass, flagRST, 1, 1, 0, 0, ts(1)...))},
		{"timestamps out of order are not recent yet", join(dialled(ts(100)...),
			ours(flagACK, 1, 1, 0, 2000, ts(0)...), theirs(pass, flagACK, 11, 1, 10, 1000, ts(300)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(299)...),
			ours(flagACK, 1, 21, 0, 2000, ts(0)...), theirs(pass, flagACK, 21, 1, 10, 1000, ts(301)...), theirs(oldTimestamp, flagACK, 11, 1, 10, 1000, ts(298)...))},
		{"timestamps wrap around", join(dialled(ts(0)...), ours(flagACK, 1, 1, 0, 2000, ts(0)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(1<<32-1)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(3)...),
			theirs(oldTimestamp, flagACK, 1, 1, 10, 1000, ts(1<<32-1)...))},
		{"old timestamps count again after 24 days", join(dialled(ts(0)...), ours(flagACK, 1, 1, 0, 2000, ts(0)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(200)...),
			theirs(oldTimestamp, flagACK, 1, 1, 10, 1000, ts(100)...).later(23*day), theirs(pass, flagACK, 1, 1, 10, 1000, ts(100)...).later(day))},
		{"timestamps that were not agreed on", join(accepted(), theirs(pass, flagACK, 1, 1, 10, 1000, ts(200)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(100)...))},
		{"broken options", join(accepted(), theirs(pass, flagACK, 1, 1, 10, 1000, 8, 10, 0, 0), theirs(pass, flagACK, 1, 1, 10, 1000, 254, 0, 0, 0), theirs(pass, flagACK, 1, 1, 10, 1000, 0, 8, 10, 1))},

		{"SYN-SENT", moves{ours(flagSYN, 0, 0, 0, 2000), theirs(unsolicited, flagSYN|flagACK, 0, 2, 0, 1000), theirs(unsolicited, flagACK, 1, 0, 0, 1000), theirs(pass, flagRST|flagACK, 0, 2, 0, 0),
			theirs(pass, flagFIN, 0, 0, 0, 0), theirs(pass, flagACK, 1, 1, 0, 0), ours(flagSYN, 0, 0, 0, 2000), theirs(pass, flagSYN|flagACK, 0, 1, 0, 1000), theirs(wrongAck, flagACK, 1, 2, 0, 1000)}},
		{"SYN-RECEIVED", moves{theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000), theirs(pass, flagACK, 1, 77, 0, 1000), theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000),
			theirs(pass, flagACK, 9000, 1, 0, 1000), theirs(pass, flagACK, 1, 77, 0, 1000), theirs(pass, flagACK, 1, 1, 10, 1000), theirs(wrongAck, flagACK, 1, 77, 0, 1000)}},
		{"the peer sends its SYN again without options", join(moves{theirs(pass, flagSYN, 0, 0, 0, 1000, ws(3)...), ours(flagSYN|flagACK, 0, 1, 0, 2000, ws(3)...), theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000, ws(3)...)},
			theirs(pass, flagACK, 1, 1, 0, 1000), theirs(pass, flagACK, 1, 1-8000, 10, 1000), theirs(wrongAck, flagACK, 1, 1-8001, 10, 1000))},
		{"both open at once, and an acknowledgement follows", moves{ours(flagSYN, 0, 0, 0, 2000), theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000), theirs(pass, flagACK, 1, 1, 0, 1000), theirs(wrongAck, flagACK, 1, 2, 0, 1000)}},
		{"both open at once, and SYN and acknowledgement follow", moves{ours(flagSYN, 0, 0, 0, 2000), theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000), theirs(crossedSYN, flagSYN|flagACK, 0, 1, 0, 1000), theirs(pass, flagSYN|flagACK, 0, 1, 0, 1000), theirs(pass, flagACK, 1, 1, 0, 1000)}},
		{"both close at once", join(accepted(), ours(flagFIN|flagACK, 1, 1, 0, 2000), theirs(pass, flagFIN|flagACK, 1, 1, 0, 1000), ours(flagACK, 2, 2, 0, 2000), theirs(pass, flagACK, 2, 2, 0, 1000), theirs(pass, flagFIN|flagACK, 1, 1, 0, 1000))},
		{"resets and SYNs are left to TCP", join(accepted(), theirs(pass, flagRST, 500, 0, 0, 0), theirs(pass, flagRST|flagACK, 1, 9999, 0, 0), theirs(pass, flagSYN, 500, 0, 0, 0), theirs(pass, flagSYN|flagACK, 500, 9999, 0, 0))},
		{"a SYN from before", join(accepted(), theirs(pass, flagACK, 1, 1, 10, 1000), ours(flagACK, 1, 11, 0, 2000), theirs(oldSYN, flagSYN, 11, 0, 0, 1000), theirs(pass, flagSYN, 12, 0, 0, 1000))},
		{"a SYN with a timestamp from before", join(accepted(ts(100)...), ours(flagACK, 1, 1, 0, 2000, ts(0)...), theirs(pass, flagACK, 1, 1, 10, 1000, ts(200)...),
			theirs(oldSYN, flagSYN, 5000, 0, 0, 1000, ts(199)...), theirs(pass, flagSYN, 5000, 0, 0, 1000, ts(200)...), theirs(pass, flagSYN, 5000, 0, 0, 1000))},
		{"the ports are used again", join(accepted(ws(3)...), ours(flagACK|flagFIN, 1, 1, 0, 2000), theirs(pass, flagSYN, 70000, 0, 0, 1000, ws(5)...), ours(flagSYN|flagACK, 90000, 70001, 0, 2000, ws(3)...),
			theirs(pass, flagACK, 70001, 90001, 0, 1000), theirs(pass, flagACK, 70001, 90001-32000, 0, 1000), theirs(wrongAck, flagACK, 70001, 90001-32001, 0, 1000))},
		{"we use the ports again", join(dialled(), ours(flagSYN, 90000, 0, 0, 2000), theirs(unsolicited, flagSYN|flagACK, 0, 1, 0, 1000), theirs(pass, flagSYN|flagACK, 7, 90001, 0, 1000), theirs(wrongAck, flagACK, 8, 1, 0, 1000))},
		{"a handshake in a cookie", moves{theirs(pass, flagACK, 1, 1, 10, 1000), ours(flagACK, 1, 11, 0, 2000), theirs(wrongAck, flagACK, 11, 2, 0, 1000), theirs(pass, flagACK, 11, 1, 10, 1000)}},
		{"a cookie that came after we remembered the next SYN", moves{theirs(pass, flagSYN, 0, 0, 0, 1000), ours(flagSYN|flagACK, 0, 1, 0, 2000), theirs(pass, flagACK, 1, 5001, 10, 1000), ours(flagACK, 5001, 11, 0, 2000),
			theirs(wrongAck, flagACK, 11, 1, 0, 1000), theirs(pass, flagACK, 11, 5001, 0, 1000)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, isn := range []uint32{1 << 10, 1<<31 - 2, 1<<32 - 2, 1<<32 - 150} {
				now := int64(time.Hour)
				c := &tracked{synShift: -1}
				for i, m := range tc.moves {
					now += int64(m.after)
					h := head(isn+uint32(m.seq), isn+uint32(m.ack), m.flags, m.win, m.opts...)
					if m.ours {
						c.send(h, m.n)
					} else if got := c.judge(h, m.n, func() int64 { return now }); got != m.want {
						t.Fatalf("initial numbers %#x: segment %d: got action %d, want %d", isn, i, got, m.want)
					}
				}
			}
		})
	}
}

// TestConntrackErrors checks which ICMP errors are believed.
func TestConntrackErrors(t *testing.T) {
	const acked, next = 1000, 5000
	id := stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFrom4([4]byte{10, 0, 0, 2}), LocalPort: 7,
		RemoteAddress: tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), RemotePort: 4000,
	}
	k, _ := netstack.Key(&id)
	c := &conntrack{most: func() int { return 1 }, now: func() int64 { return 1 }}
	f := c.track(k, id, header.IPv4ProtocolNumber)
	f.send(head(acked-1, next, flagSYN|flagACK, 1000), 0)
	f.judge(head(next, acked, flagACK, 1000), 0, c.now)
	quoted := func(seq uint32) header.TCP { return head(seq, 0, 0, 0) }
	if c.believable(&k, quoted(acked)) {
		t.Error("nothing is in flight, and an error about it was believed")
	}
	f.send(head(acked, next, flagACK, 1000), 1000)
	for offset, want := range map[uint32]bool{1<<32 - 1: false, 0: true, 999: true, 1000: false, 1 << 31: false} {
		if got := c.believable(&k, quoted(acked+offset)); got != want {
			t.Errorf("offset %d: got %v, want %v", int32(offset), got, want)
		}
	}
	if got := c.refused().Errors; got != 4 {
		t.Errorf("%d errors were counted, want 4", got)
	}
	k.Ports++
	if !c.believable(&k, quoted(1)) {
		t.Error("an error about a flow that nobody follows was not left to TCP")
	}
	for _, tc := range []struct {
		proto      tcpip.NetworkProtocolNumber
		size, want uint32
	}{
		{header.IPv4ProtocolNumber, 0, 532}, {header.IPv4ProtocolNumber, 531, 532}, {header.IPv4ProtocolNumber, 1000, 1000},
		{header.IPv6ProtocolNumber, 1000, 1240}, {header.IPv6ProtocolNumber, 1400, 1400},
	} {
		if got := bounded(tc.proto, netstack.PacketTooBig(tc.size)); got.Info() != tc.want || got.Kind() != stack.PacketTooBigTransportError {
			t.Errorf("too big for %d bytes: got %d, want %d", tc.size, got.Info(), tc.want)
		}
	}
}

// TestConntrackForgets checks that ended connections are forgotten, living ones
// are not, and that there is a bound.
func TestConntrackForgets(t *testing.T) {
	st := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	defer st.Destroy()
	var queue waiter.Queue
	ep, terr := st.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if terr != nil {
		t.Fatal(terr)
	}
	id := stack.TransportEndpointID{LocalPort: 7, RemotePort: 1}
	networks := []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber}
	living := ep.(*tcp.Endpoint)
	if terr := st.RegisterTransportEndpoint(networks, tcp.ProtocolNumber, id, living, ports.Flags{}, 0); terr != nil {
		t.Fatal(terr)
	}
	c := &conntrack{stack: st, most: func() int { return 16 }}
	c.track(flow.Key{Ports: 1}, id, ipv4.ProtocolNumber)
	for range 3 {
		c.tidy()
	}
	if got := c.flows.Len(); got != 1 {
		t.Fatalf("%d connections are followed, want 1", got)
	}
	st.UnregisterTransportEndpoint(networks, tcp.ProtocolNumber, id, living, ports.Flags{}, 0)
	living.Close()
	c.tidy()
	c.tidy()
	if got := c.flows.Len(); got != 0 {
		t.Fatalf("%d connections are followed after the last ended", got)
	}
	for port := range uint32(100) {
		c.track(flow.Key{Ports: port}, id, ipv4.ProtocolNumber)
	}
	if got := c.flows.Len(); got != 16 {
		t.Errorf("%d connections are followed, want 16", got)
	}
}

// TestConntrackAllocations checks that following a connection costs no memory per
// segment.
func TestConntrackAllocations(t *testing.T) {
	now := func() int64 { return 1 }
	c := &tracked{synShift: -1}
	h := head(1, 1, flagACK, 1000, ts(7)...)
	if got := testing.AllocsPerRun(100, func() {
		c.send(h, 100)
		c.judge(h, 100, now)
	}); got != 0 {
		t.Errorf("%v allocations per segment", got)
	}
}

// BenchmarkConntrack is a segment each way.
func BenchmarkConntrack(b *testing.B) {
	now := func() int64 { return 1 }
	c := &tracked{synShift: -1}
	h := head(1, 1, flagACK, 1000, ts(7)...)
	b.ReportAllocs()
	for b.Loop() {
		c.mu.Lock()
		c.send(h, 100)
		c.mu.Unlock()
		c.mu.Lock()
		c.judge(h, 100, now)
		c.mu.Unlock()
	}
}

// TestConntrackLimit: what is followed grows with a limit that is raised, and none is
// forgotten when it is lowered.
func TestConntrackLimit(t *testing.T) {
	limit := 1
	c := &conntrack{most: func() int { return limit }, now: func() int64 { return 1 }}
	track := func(port uint16) *tracked {
		id := stack.TransportEndpointID{
			LocalAddress: tcpip.AddrFrom4([4]byte{10, 0, 0, 2}), LocalPort: 7,
			RemoteAddress: tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), RemotePort: port,
		}
		k, _ := netstack.Key(&id)
		return c.track(k, id, header.IPv4ProtocolNumber)
	}
	first := track(1)
	if first == nil || track(2) != nil {
		t.Error("of two connections, want the first followed")
	}
	limit = 2
	if track(2) == nil {
		t.Error("the second is not followed after the limit was raised")
	}
	limit = 1
	if track(1) != first || track(3) != nil {
		t.Error("after the limit was lowered, want the first followed and no third")
	}
}
