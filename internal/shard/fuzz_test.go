package shard

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
)

// A peer sends frames of its own making to a shard that nobody polls, and reads
// what comes back.
type peer struct {
	t        testing.TB
	shard    *Shard
	wire     link.Queue
	listener transport.Endpoint
	// conn is the established connection, next what it expects, acked what it
	// sent last.
	conn        transport.Endpoint
	port        uint16
	next, acked uint32
}

var (
	fuzzMAC  = link.MAC{2, 0, 0, 0, 0, 1}
	shardMAC = link.MAC{2, 0, 0, 0, 0, 2}
	fuzzIP   = netip.AddrFrom4([4]byte{10, 0, 0, 1})
	shardIP  = netip.AddrFrom4([4]byte{10, 0, 0, 2})
)

func newPeer(f testing.TB, engine string) *peer {
	return newPeerOf(f, engine, func(q link.Queue) link.Queue { return q }, func() int { return 0 })
}

// newPeerOf makes a peer of a shard with the queue that wrap returns, and whose
// listener has as many connections waiting as waiting says.
func newPeerOf(f testing.TB, engine string, wrap func(link.Queue) link.Queue, waiting func() int) *peer {
	da, db, err := memory.Pair(memory.Options{Ring: 1024})
	if err != nil {
		f.Fatal(err)
	}
	info := db.Info()
	n := netif.NewNeighbours(shardMAC, clock.New(), nil)
	s, err := New(Options{Device: info, Queue: wrap(db.Queue(0)), Neighbours: n, MTU: info.MTU, CPU: -1, TCP: TCP{Engine: engine}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	ours := tcpip.AddressWithPrefix{Address: address("10.0.0.2"), PrefixLen: 24}
	if err := s.AddAddress(ours); err != nil {
		f.Fatal(err)
	}
	n.AddLocal(ours.Address)
	n.Set(address("10.0.0.1"), fuzzMAC)
	s.SetRoutes([]Route{{Destination: ours.Subnet()}})
	f.Cleanup(func() { s.stack.Destroy(); n.Close(); da.Close(); db.Close() })
	p := &peer{t: f, shard: s, wire: da.Queue(0), port: 1024}
	ep, err := s.Socket(false, false)
	if err == nil {
		err = ep.Bind(netip.AddrPortFrom(netip.Addr{}, 7), true)
	}
	if err == nil {
		err = ep.Listen(s.Listening(ep, 16, waiting))
	}
	if err != nil {
		f.Fatal(err)
	}
	p.listener = ep
	return p
}

// segment is a frame with the right checksums.
func (p *peer) segment(port uint16, seq, ack uint32, flags header.TCPFlags, options, payload []byte) []byte {
	s := testframe.TCP{
		DstMAC: shardMAC[:], SrcMAC: fuzzMAC[:],
		Src: netip.AddrPortFrom(fuzzIP, port), Dst: netip.AddrPortFrom(shardIP, 7),
		Seq: seq, Ack: ack, Flags: flags, Window: 65535, Options: options[:min(len(options), 40)&^3], Payload: payload,
	}
	return s.Frame()
}

// give lets the shard receive a frame.
func (p *peer) give(frame []byte) { p.shard.engine.Receive([]link.Frame{{Data: frame}}) }

// answers returns the segments that the shard has sent, and checks them.
func (p *peer) answers() []header.TCP {
	p.shard.link.Kick()
	var all []header.TCP
	frames := make([]link.Frame, link.MaxBurst)
	for {
		n, err := p.wire.Receive(frames)
		if err != nil {
			p.t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		for _, f := range frames[:n] {
			packet, err := testframe.Parse(bytes.Clone(f.Data))
			if err != nil || packet.TCP() == nil {
				p.t.Fatalf("the shard sent what is no segment: %v, %x", err, f.Data)
			}
			h := packet.TCP()
			all = append(all, h)
		}
	}
}

// until waits for what is done elsewhere.
func (p *peer) until(what string, done func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Microsecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("not within 10s: %s", what)
		}
	}
}

// connect makes an established connection on the fast path.
func (p *peer) connect() {
	if p.conn != nil {
		p.shard.Closed(p.conn, nil)
		p.conn.Abort()
		p.conn.Close()
	}
	p.port++
	if p.port < 1024 {
		p.port = 1024
	}
	p.give(p.segment(p.port, 100, 0, header.TCPFlagSyn, []byte{2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1}, nil))
	p.until("SYN-ACK", func() bool {
		for _, h := range p.answers() {
			if h.DestinationPort() == p.port && h.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
				p.acked = h.SequenceNumber() + 1
				return true
			}
		}
		return false
	})
	p.next = 101
	p.give(p.segment(p.port, p.next, p.acked, header.TCPFlagAck, nil, nil))
	p.until("the connection", func() bool {
		for {
			ep, err := p.listener.Accept()
			if err != nil {
				return false
			}
			p.conn = ep
			if peer, _ := ep.RemoteAddr(); peer.Port() == p.port {
				return true
			}
			p.conn.Abort() // one of a fuzzed handshake
			p.conn.Close()
		}
	})
	p.shard.Established(p.conn, nil)
}

// held is what all connections hold.
func (p *peer) held() (received, sent int) {
	for c := range p.shard.host().Held() {
		r, s := c.Held()
		received, sent = received+r, sent+s
	}
	return received, sent
}

// TestChallenges checks that what is refused is counted and answered,
// twice a second at most, and changes nothing.
func TestChallenges(t *testing.T) {
	p := newPeer(t, "gvisor")
	p.connect()
	for range 100 {
		p.give(p.segment(p.port, p.next, p.acked+100, header.TCPFlagAck, nil, []byte("evil")))
	}
	p.until("a challenge", func() bool {
		for _, h := range p.answers() {
			if h.Flags() == header.TCPFlagAck && h.SequenceNumber() == p.acked && h.AckNumber() == p.next {
				return true
			}
		}
		return false
	})
	if got := p.shard.Stats().Refused.Acks; got != 100 {
		t.Errorf("%d segments were refused, want 100", got)
	}
	p.give(p.segment(p.port, p.next, p.acked, header.TCPFlagAck|header.TCPFlagPsh, nil, []byte("good")))
	more := 0
	p.until("an acknowledgement of the right data", func() bool {
		for _, h := range p.answers() {
			if h.AckNumber() == p.next+4 {
				return true
			}
			more++
		}
		return false
	})
	// On a slow machine the first half second may be over.
	if more > 1 {
		t.Errorf("%d more challenges", more)
	}
	if p.conn.Info().ReceiveQueue == 0 {
		t.Error("the right data was not taken")
	}
}

// FuzzSegment feeds TCP segments with the right checksums, some to a connection
// and near its window, others to the listener: flags, options, sequence numbers
// and payload are the input's.
func FuzzSegment(f *testing.F) {
	f.Add(true, uint32(0), uint32(0), uint16(header.TCPFlagAck|header.TCPFlagPsh), []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, []byte("hello"))
	f.Add(true, uint32(1), uint32(0), uint16(header.TCPFlagAck), []byte{5, 10, 0, 0, 0, 101, 0, 0, 0, 50, 1, 1}, []byte("x"))
	f.Add(true, uint32(0), uint32(5), uint16(header.TCPFlagFin|header.TCPFlagAck), []byte{}, []byte{})
	f.Add(true, uint32(0), uint32(0), uint16(header.TCPFlagRst), []byte{30, 2, 0, 0}, []byte{})
	f.Add(false, uint32(7), uint32(0), uint16(header.TCPFlagSyn), []byte{2, 4, 0, 0, 3, 3, 255, 1, 4, 2, 8, 0}, []byte("data with a SYN"))
	f.Add(false, uint32(7), uint32(9), uint16(header.TCPFlagAck), []byte{2}, []byte{})
	f.Add(false, uint32(7), uint32(9), uint16(0x3f), []byte{0, 1, 2, 3}, []byte{})
	peers := []*peer{newPeer(f, "tpa"), newPeer(f, "gvisor")}
	for _, p := range peers {
		p.connect()
	}
	f.Fuzz(func(t *testing.T, established bool, seq, ack uint32, flags uint16, options, payload []byte) {
		for _, p := range peers {
			p.t = t
			p.fuzz(established, seq, ack, header.TCPFlags(flags), options, payload)
		}
	})
}

// fuzz sends a segment, and then its bytes as they are.
func (p *peer) fuzz(established bool, seq, ack uint32, flags header.TCPFlags, options, payload []byte) {
	port := uint16(500)
	if established {
		port, seq, ack = p.port, p.next+seq%100_000, p.acked+ack%100_000
	}
	frame := p.segment(port, seq, ack, flags, options, payload[:min(len(payload), 1400)])
	p.give(frame)
	p.answers()
	received, sent := p.held()
	if received > 8<<20 || sent > 0 {
		p.t.Errorf("the shard holds %d bytes received and %d to send", received, sent)
	}
	// The same bytes as they are: checksums, lengths and all.
	raw := append([]byte(nil), frame[:link.EthernetHeaderLen]...)
	p.give(append(raw, binary.BigEndian.AppendUint32(payload, seq)...))
	p.answers()
	if p.conn.State() != transport.StateEstablished || received > 4<<20 {
		p.connect()
	}
}
