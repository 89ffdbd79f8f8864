package tcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	gbuffer "gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/transport"
)

var (
	localIP, peerIP = netip.AddrFrom4([4]byte{10, 0, 0, 1}), netip.AddrFrom4([4]byte{10, 0, 0, 2})
	localAddr       = tcpip.AddrFrom4(localIP.As4())
	peerAddr        = tcpip.AddrFrom4(peerIP.As4())
)

const (
	localPort, peerPort = 80, 40000
	mtu                 = 1500
	peerISS             = 1<<32 - 100 // the peer's numbers wrap around soon
)

// Where the host and the peer are.
var (
	local  = netip.MustParseAddrPort("10.0.0.1:80")
	remote = netip.MustParseAddrPort("10.0.0.2:40000")
)

// A host is a stack whose TCP is the one under test. The test is its peer: it
// makes the segments that the host receives and sees those that the host sends,
// in order. Time passes when the test says so.
type host struct {
	t      testing.TB
	clock  *faketime.ManualClock
	stack  *stack.Stack
	p      *Protocol
	wire   *channel.Endpoint
	doubts int // how often the next hop was in doubt
	// slow: there is no fast path, out or in.
	slow bool
	// room is how many segments the device takes on the fast path, -1 for any
	// number.
	room int
	// asked counts how often the device was asked for room.
	asked int
	sent  []segment
	ep    *Endpoint // what connect or accept has made
	// next and acked are the peer's numbers: SND.NXT and RCV.NXT.
	next, acked uint32
	stamp       bool   // the connection has timestamps
	echo        uint32 // the last of the host's
}

// WakePoller implements Output: the harness retries by itself.
func (h *host) WakePoller() {}

// Route implements Output: the peer is the only neighbour.
func (h *host) Route(_, remote, _ tcpip.Address) netif.Route { return netif.Route{Hop: remote} }

// Source implements Output.
func (h *host) Source(tcpip.Address) tcpip.Address { return tcpip.Address{} }

// DoubtTCP implements Output.
func (h *host) DoubtTCP(*netif.TCPPath) { h.doubts++ }

// SendTCP implements Output.
func (h *host) SendTCP(_ *netif.TCPPath, tcp []byte, payload netif.TCPPayload, at uint64, n, mss int) (int, netif.TCPSent) {
	if h.slow {
		return 0, netif.Unresolved
	}
	h.collect()
	for done := 0; ; {
		h.asked++
		if h.room == 0 {
			return done, netif.Full
		}
		if h.room > 0 {
			h.room--
		}
		k := min(n-done, mss)
		b, data := bytes.Clone(tcp), make([]byte, k)
		payload.CopyAt(data, at+uint64(done))
		binary.BigEndian.PutUint32(b[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(done))
		if done += k; done < n {
			b[13] &^= byte(fin | psh)
		}
		h.record(b, data)
		if done == n {
			return n, netif.Sent
		}
	}
}

func (h *host) record(b header.TCP, payload []byte) {
	var s segment
	s.parse(b, payload)
	if s.timestamp {
		h.echo = s.tsVal
	} else if s.flags&syn != 0 {
		h.echo = header.ParseSynOptions(s.options, s.flags&ack != 0).TSVal
	}
	if s.flags&rst == 0 && (s.flags&syn != 0 || s.seq == h.acked) {
		h.acked = s.seq + s.length()
	}
	h.sent = append(h.sent, s)
}

// collect takes what has left by way of gVisor's IP layer.
func (h *host) collect() {
	for pkt := h.wire.Read(); pkt != nil; pkt = h.wire.Read() {
		v := pkt.ToView()
		packet := bytes.Clone(v.AsSlice())
		v.Release()
		pkt.DecRef()
		p, err := testframe.ParseIP(packet)
		if err != nil {
			h.t.Error(err)
			continue
		}
		tcp := p.TCP()
		if tcp == nil {
			continue
		}
		data := tcp.Payload()
		h.record(tcp[:tcp.DataOffset()], data)
	}
}

// take returns what was sent since it was called last.
func (h *host) take() []segment {
	h.collect()
	s := h.sent
	h.sent = nil
	return s
}

func newHost(t testing.TB, slow bool, options ...tcpip.SettableTransportProtocolOption) *host {
	h := &host{t: t, clock: faketime.NewManualClock(), slow: slow, room: -1, next: peerISS}
	h.clock.Advance(time.Hour)
	h.wire = channel.New(1<<12, mtu, "")
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{h.newIPv4},
		TransportProtocols: []stack.TransportProtocolFactory{New(h)},
		Clock:              h.clock,
	})
	t.Cleanup(func() {
		h.wire.Close()
		h.stack.Destroy()
	})
	h.p = h.stack.TransportProtocolInstance(header.TCPProtocolNumber).(*Protocol)
	h.p.Polled(true)
	for _, o := range options {
		if err := h.p.SetOption(o); err != nil {
			t.Fatalf("option %T: %v", o, err)
		}
	}
	if err := h.stack.CreateNIC(1, h.wire); err != nil {
		t.Fatal(err)
	}
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: localAddr.WithPrefix()}
	if err := h.stack.AddProtocolAddress(1, addr, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	h.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	return h
}

// newIPv4 makes an IP layer whose ICMP errors go to the protocol, as on a shard's slow path.
func (h *host) newIPv4(s *stack.Stack) stack.NetworkProtocol {
	return &ipProtocol{ipv4.NewProtocol(s), h}
}

type ipProtocol struct {
	stack.NetworkProtocol
	h *host
}

func (p *ipProtocol) NewEndpoint(nic stack.NetworkInterface, d stack.TransportDispatcher) stack.NetworkEndpoint {
	return p.NetworkProtocol.NewEndpoint(nic, &dispatcher{d, p.h})
}

// A dispatcher gives ICMP errors to the protocol.
type dispatcher struct {
	stack.TransportDispatcher
	h *host
}

func (d *dispatcher) DeliverTransportError(local, remote tcpip.Address, _ tcpip.NetworkProtocolNumber, _ tcpip.TransportProtocolNumber, err stack.TransportError, pkt *stack.PacketBuffer) {
	b, ok := pkt.Data().PullUp(8)
	if !ok {
		d.h.t.Error("a short ICMP error")
		return
	}
	quoted := header.TCP(b)
	id := stack.TransportEndpointID{LocalAddress: local, LocalPort: quoted.SourcePort(), RemoteAddress: remote, RemotePort: quoted.DestinationPort()}
	d.h.p.DeliverError(d.TransportDispatcher, id, err, pkt)
}

// A peer's segment. Zero numbers are filled in: seq and ack with what is next,
// window with 65535, flags with ACK.
type out struct {
	seq, ack uint32
	// asIs: seq and ack mean what they say, zero too.
	asIs    bool
	flags   header.TCPFlags
	window  int // -1 for a closed one
	options []byte
	data    string
	from    uint16 // source port
}

func (h *host) encode(o out) header.TCP {
	h.collect()
	if !o.asIs {
		if o.seq == 0 {
			o.seq = h.next
		}
		if o.flags == 0 {
			o.flags = ack
		}
		if o.ack == 0 && o.flags&ack != 0 {
			o.ack = h.acked
		}
	}
	switch o.window {
	case 0:
		o.window = 0xffff
	case -1:
		o.window = 0
	}
	if o.from == 0 {
		o.from = peerPort
	}
	if h.stamp && o.options == nil && o.flags&syn == 0 {
		o.options = stamps(h.millis(), h.echo)
	}
	b := testframe.TCP{
		Src: netip.AddrPortFrom(peerIP, o.from), Dst: netip.AddrPortFrom(localIP, localPort),
		Seq: o.seq, Ack: o.ack, Flags: o.flags, Window: uint16(o.window), Options: o.options, Payload: []byte(o.data),
	}
	if o.seq == h.next && o.flags&rst == 0 {
		h.next += uint32(len(o.data))
		if o.flags&fin != 0 {
			h.next++
		}
		if o.flags&syn != 0 {
			h.next++
		}
	}
	return b.Segment()
}

// millis is the peer's timestamp clock.
func (h *host) millis() uint32 {
	return uint32(h.clock.NowMonotonic().Sub(tcpip.MonotonicTime{}).Milliseconds())
}

func stamps(val, ecr uint32) []byte {
	b := []byte{1, 1, 8, 10}
	b = binary.BigEndian.AppendUint32(b, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

func blocks(of ...uint32) []byte {
	b := []byte{1, 1, 5, byte(2 + 4*len(of))}
	for _, x := range of {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

// receive lets the host receive segments: those of a connection on the fast path
// as one burst, if there is one.
func (h *host) receive(list ...out) {
	h.t.Helper()
	owes := false
	for _, o := range list {
		b := h.encode(o)
		if !h.slow && h.ep != nil && open(h.ep.current()) && (o.from == 0 || o.from == peerPort) && o.flags&syn == 0 {
			n := b.DataOffset()
			owes = h.ep.Input(b[:n], b[n:]) || owes
			continue
		}
		h.inject(testframe.IP(peerIP, localIP, testframe.ProtocolTCP, b))
	}
	if owes {
		h.ep.Acknowledge()
	}
	h.p.Retry()
	h.check()
}

// inject lets an IP packet arrive at gVisor.
func (h *host) inject(packet []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: gbuffer.MakeWithData(packet)})
	h.wire.InjectInbound(ipv4.ProtocolNumber, pkt)
	pkt.DecRef()
	h.p.Drain()
}

// icmp tells the host that a packet with sequence number seq did not arrive.
func (h *host) icmp(typ header.ICMPv4Type, code header.ICMPv4Code, nextHopMTU uint16, seq uint32) {
	lost := testframe.TCP{
		Src: netip.AddrPortFrom(localIP, h.ep.ID.LocalPort), Dst: netip.AddrPortFrom(peerIP, peerPort),
		Seq: seq, Payload: make([]byte, mtu-header.IPv4MinimumSize-header.TCPMinimumSize),
	}
	router := netip.AddrFrom4([4]byte{10, 0, 0, 254})
	h.inject(testframe.ICMP(router, localIP, byte(typ), byte(code), uint32(nextHopMTU), lost.Packet()[:header.IPv4MinimumSize+8]))
	h.check()
}

// advance lets time pass, in steps, as a poller would see it.
func (h *host) advance(d time.Duration) {
	h.t.Helper()
	const step = 10 * time.Millisecond
	for d > 0 {
		s := min(step, d)
		if d > time.Minute {
			s = 100 * step
		}
		h.clock.Advance(s)
		h.p.Drain()
		h.p.Retry()
		d -= s
	}
	h.check()
}

// listen makes a listener.
func (h *host) listen(backlog int) *Endpoint {
	h.t.Helper()
	l := h.newEndpoint()
	if err := l.Bind(netip.AddrPortFrom(netip.Addr{}, localPort), false); err != nil {
		h.t.Fatal(err)
	}
	if err := l.Listen(backlog); err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *host) newEndpoint() *Endpoint {
	h.t.Helper()
	ep := h.p.Socket(false, false)
	h.t.Cleanup(ep.Abort)
	return ep
}

// shape is what the peer's SYN says.
type shape struct {
	sack, stamp bool
	mss         uint16 // 0 for 1460
	shift       uint8
	window      int
}

func (s shape) options(h *host) []byte {
	if s.mss == 0 {
		s.mss = 1460
	}
	b := []byte{2, 4, byte(s.mss >> 8), byte(s.mss)}
	if s.sack {
		b = append(b, 1, 1, 4, 2)
	}
	if s.stamp {
		b = append(b, stamps(h.millis(), 0)...)
	}
	if s.shift > 0 {
		b = append(b, 1, 3, 3, s.shift)
	}
	return b
}

// accept makes a connection that the peer has begun.
func (h *host) accept(s shape) *Endpoint {
	h.t.Helper()
	l := h.listen(8)
	h.receive(out{flags: syn, options: s.options(h), window: s.window})
	h.expect("answer to a SYN", "SA")
	h.stamp = s.stamp
	h.receive(out{window: s.window})
	ep, err := l.Accept()
	if err != nil {
		h.t.Fatalf("Accept: %v", err)
	}
	h.ep = ep.(*Endpoint)
	h.t.Cleanup(ep.Abort)
	h.take()
	return h.ep
}

// write has the program write n bytes, as far as there is room.
func (h *host) write(n int) int {
	h.t.Helper()
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	done := 0
	for done < n {
		k, err := h.ep.Write(b[done:])
		if err != nil && (done == 0 || err != transport.ErrWouldBlock) {
			h.t.Fatalf("Write: %v", err)
		}
		if done += k; err != nil {
			break
		}
	}
	h.check()
	return done
}

// read returns all there is.
func (h *host) read() string {
	var all []byte
	for b := make([]byte, 1<<16); ; {
		n, _, err := h.ep.Read(b)
		if err != nil {
			return string(all)
		}
		all = append(all, b[:n]...)
	}
}

func (h *host) state(want transport.State) {
	h.t.Helper()
	if got := h.wireState(h.ep); got != want {
		h.t.Fatalf("the connection is in %v, want %v", got, want)
	}
}

// wireState is the state of a connection for its peer: TIME-WAIT may outlive the endpoint.
func (h *host) wireState(e *Endpoint) transport.State {
	if k, ok := netstack.Key(&e.ID); ok && e.current() == transport.StateClosed && h.p.waits.has(&k) {
		return transport.StateTimeWait
	}
	return e.current()
}

// expect compares the flags and lengths of what was sent: "SA", "A", "A1460".
func (h *host) expect(what string, want ...string) []segment {
	h.t.Helper()
	list := h.take()
	var got []string
	for _, s := range list {
		got = append(got, shortForm(s))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		h.t.Fatalf("%s: the host sent %v, want %v", what, got, want)
	}
	return list
}

func shortForm(s segment) string {
	f := ""
	for _, x := range []struct {
		flag header.TCPFlags
		name string
	}{{syn, "S"}, {fin, "F"}, {rst, "R"}, {ack, "A"}} {
		if s.flags&x.flag != 0 {
			f += x.name
		}
	}
	if len(s.payload) > 0 {
		f += fmt.Sprint(len(s.payload))
	}
	return f
}

// check tests what must hold for the connection at all times.
func (h *host) check() {
	h.t.Helper()
	if h.ep == nil {
		return
	}
	if err := h.ep.invariant(); err != nil {
		h.t.Fatal(err)
	}
}

// invariant tells what is wrong with the endpoint's numbers.
func (e *Endpoint) invariant() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.current(); !open(s) {
		if e.out.len() != 0 || len(e.outOfOrder) != 0 || e.outOfOrderBytes != 0 {
			return fmt.Errorf("%v holds %d bytes to send and %d early ones", s, e.out.len(), e.outOfOrderBytes)
		}
		return nil
	}
	una, next, greatest := e.unacknowledged, e.sendNext, e.sendMax
	if next-una > greatest-una || int32(greatest-una) < 0 {
		return fmt.Errorf("SND.UNA %d, SND.NXT %d and the greatest SND.NXT %d are out of order", una, next, greatest)
	}
	flight := greatest - una
	if e.finSent && after(greatest, e.finSeq) && !after(una, e.finSeq) {
		flight--
	}
	if int(flight) > e.out.len() {
		return fmt.Errorf("%d bytes are in flight, the buffer has %d", flight, e.out.len())
	}
	if err := e.flights.invariant(una, next, e.sackOK); err != nil {
		return err
	}
	if before(e.receiveEdge, e.receiveNext) {
		return fmt.Errorf("the window's edge %d lies before RCV.NXT %d", e.receiveEdge, e.receiveNext)
	}
	cost, at := 0, e.receiveNext
	for i, p := range e.outOfOrder {
		if len(p.b) == 0 || before(p.seq, at) || i == 0 && p.seq == at {
			return fmt.Errorf("out-of-order piece %d of %d at %d with %d bytes overlaps what ends at %d", i, len(e.outOfOrder), p.seq, len(p.b), at)
		}
		at = p.seq + uint32(len(p.b))
		cost += len(p.b) + pieceOverhead
	}
	if after(at, e.receiveEdge) {
		return fmt.Errorf("early data ends at %d, behind the window's edge %d", at, e.receiveEdge)
	}
	if cost != e.outOfOrderBytes {
		return fmt.Errorf("early data costs %d, counted are %d", cost, e.outOfOrderBytes)
	}
	// The window was promised before tiny segments came early: both may fill the
	// buffer once.
	if limit := 2 * e.receiveSize; e.in.len()+e.outOfOrderBytes > limit {
		return fmt.Errorf("%d bytes received in order and %d early exceed %d", e.in.len(), e.outOfOrderBytes, limit)
	}
	if len(e.outOfOrder) > maxPieces {
		return fmt.Errorf("%d out-of-order pieces", len(e.outOfOrder))
	}
	if len(e.blocks) > maxBlocks {
		return fmt.Errorf("%d SACK blocks", len(e.blocks))
	}
	if e.out.len() > 0 || e.finQueued && !(e.finSent && after(una, e.finSeq)) {
		if e.rtoAt == 0 && e.persistAt == 0 && !e.stalled && e.current() != transport.StateTimeWait {
			return fmt.Errorf("%v with %d bytes to send (%d in flight) waits for nothing", e.current(), e.out.len(), greatest-una)
		}
	}
	if e.window < e.mss {
		return fmt.Errorf("the congestion window %d is less than a segment", e.window)
	}
	return nil
}

// invariant tells what is wrong with the scoreboard of what lies between SND.UNA
// and SND.NXT.
func (f *flights) invariant(una, next uint32, sack bool) error {
	list := f.list[f.head:]
	if !sack {
		next = una
	}
	var has flights
	last := una
	for _, x := range list {
		if !before(last, x.end) || x.state&sacked != 0 && x.state != sacked {
			return fmt.Errorf("the scoreboard from %d on is %v", una, list)
		}
		has.count(x.state, x.end-last)
		last = x.end
	}
	if last != next || has.sacked != f.sacked || has.lost != f.lost {
		return fmt.Errorf("the scoreboard from %d to %d says %d SACKed and %d lost, and is %v", una, next, f.sacked, f.lost, list)
	}
	if len(list) > 2*maxFlights {
		return fmt.Errorf("the scoreboard has %d flights", len(list))
	}
	return nil
}

// paths runs a test on the fast path to the device, and on the slow path by
// gVisor's IP layer.
func paths(t *testing.T, f func(t *testing.T, slow bool)) {
	t.Run("fast", func(t *testing.T) { f(t, false) })
	t.Run("slow", func(t *testing.T) { f(t, true) })
}

// connect begins a connection to the peer.
func (h *host) connect() {
	h.t.Helper()
	h.ep = h.newEndpoint()
	if err := h.ep.Bind(local, false); err != nil {
		h.t.Fatal(err)
	}
	if err := h.ep.Connect(remote); err != nil {
		h.t.Fatalf("Connect: %v", err)
	}
}

// end brings the connection to TIME-WAIT.
func (h *host) end() {
	h.t.Helper()
	h.ep.Close()
	h.receive(out{})
	h.receive(out{flags: fin | ack})
	h.state(transport.StateTimeWait)
	h.take()
}
