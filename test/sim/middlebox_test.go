package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
)

// A middlebox is what the field has between two hosts: links that are narrower
// than theirs, routers that fragment or keep silent, firewalls that take options
// out, and NAT. Paths are the ways to host 1 and to host 0. It belongs to one
// goroutine at a time, as the wire does.
type middlebox struct {
	paths [2]path
	nat   []binding
	next  uint16 // the next port outside, lower than those that hosts choose
	id    uint32 // of the next packet that is divided
}

// A path is one direction.
type path struct {
	// mtu is that of the narrowest link, 0 for one as wide as the hosts'.
	mtu    int
	tooBig tooBig
	strip  strip
	// withheld is how much of each window does not get through, from 0 to 1. A
	// change makes windows shrink (RFC 9293 section 3.8.6).
	withheld float64
}

// tooBig is what a router does with packets that are larger than its next link.
type tooBig uint8

const (
	fragments tooBig = iota // whatever DF says, as tunnels that clear it do
	tells                   // by ICMP (RFC 1191, RFC 8201)
	silent                  // ICMP is filtered (RFC 2923)
)

// strip is a set of options that become NOP, and where.
type strip uint8

const (
	stripMSS strip = 1 << iota
	stripWindowScale
	stripSACK
	stripTimestamps
	// stripSYN leaves segments without SYN as they are, stripLater those with.
	stripSYN
	stripLater
)

// A binding is the port outside that stands for a client's own.
type binding struct {
	client          int // the host
	v6              bool
	inside, outside uint16
}

func newMiddlebox(paths [2]path) *middlebox {
	return &middlebox{paths: paths, next: 2000}
}

func (p path) String() string {
	var parts []string
	if p.mtu > 0 {
		parts = append(parts, fmt.Sprintf("MTU %d %s", p.mtu, [...]string{"fragments", "tells", "silent"}[p.tooBig]))
	}
	for i, name := range []string{"MSS", "window scale", "SACK", "timestamps", "in SYN", "later"} {
		if p.strip&(1<<i) != 0 {
			parts = append(parts, "strips "+name)
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// narrow draws a path MTU.
func (p *path) narrow(r *rand.Rand, s *setup) {
	p.mtu = 576 + r.IntN(s.mtu-575)
	p.tooBig = tooBig(r.IntN(3))
	if p.tooBig == silent && !s.ours() {
		p.tooBig = tells // gVisor's TCP does not look for black holes
	}
}

// drop draws which options are taken out.
func (p *path) drop(r *rand.Rand, s *setup) {
	p.strip = strip(1 << r.IntN(4))
	if r.IntN(3) == 0 {
		p.strip |= strip(1 << r.IntN(4))
	}
	switch r.IntN(3) {
	case 0:
		p.strip |= stripSYN
	case 1:
		p.strip |= stripLater
	}
	if !s.ours() {
		p.strip &^= stripWindowScale | stripTimestamps // gVisor's TCP waits for them for ever
	}
}

// ours tells whether both hosts have our TCP.
func (s *setup) ours() bool { return !slices.Contains(s.engines[:], accel.EngineGVisor) }

// pass takes a frame that is on its way to a host and calls deliver for what comes
// of it, and refuse for what goes back to the sender.
func (m *middlebox) pass(to int, frame []byte, deliver, refuse func([]byte)) {
	p := &m.paths[to]
	q, ip := offload.Parse(frame)
	if !ip || offload.Verify(frame) == link.Bad {
		deliver(frame)
		return
	}
	mtu := p.mtu
	if q.IPv6 && mtu > 0 {
		mtu = max(mtu, header.IPv6MinimumMTU)
	}
	large := mtu > 0 && q.End-q.L3 > mtu
	if large && (p.tooBig == silent || p.tooBig == tells && (q.IPv6 || frame[q.L3+6]&0x40 != 0)) {
		if p.tooBig == tells {
			refuse(packetTooBig(frame, &q, mtu))
		}
		return
	}
	if q.Protocol == offload.TCP && !q.Fragment && wholeHeader(frame[q.L4:q.End]) {
		changed := slices.Clone(frame[:q.End])
		if !m.translate(to, changed, &q) {
			return
		}
		p.rewrite(header.TCP(changed[q.L4:]))
		src, dst := addresses(changed, &q)
		testframe.SumTCP(src, dst, header.TCP(changed[q.L4:]))
		frame = changed
	}
	if !large {
		deliver(frame)
		return
	}
	m.id++
	head := q.L4 - q.L3
	for _, f := range testframe.Fragments(frame[q.L3:q.End], m.id, (mtu-head-header.IPv6FragmentHeaderSize)&^7) {
		deliver(append(slices.Clone(frame[:q.L3]), f...))
	}
}

// wholeHeader tells whether a TCP header is all there: a fault may have cut it off.
func wholeHeader(b header.TCP) bool {
	return len(b) >= header.TCPMinimumSize && int(b.DataOffset()) >= header.TCPMinimumSize && int(b.DataOffset()) <= len(b)
}

// addresses are those of a packet.
func addresses(frame []byte, q *offload.Packet) (src, dst netip.Addr) {
	b := q.Addrs(frame)
	src, _ = netip.AddrFromSlice(b[:len(b)/2])
	dst, _ = netip.AddrFromSlice(b[len(b)/2:])
	return src, dst
}

// packetTooBig is what a router answers.
func packetTooBig(frame []byte, q *offload.Packet, mtu int) []byte {
	src, _ := addresses(frame, q)
	quote := frame[q.L3:min(q.End, q.L3+512)]
	etherType, router, kind, code := uint16(testframe.TypeIPv4), netip.AddrFrom4([4]byte{10, 0, 0, 254}), byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4FragmentationNeeded)
	if q.IPv6 {
		etherType, router, kind, code = testframe.TypeIPv6, netip.AddrFrom16([16]byte{0: 0xfd, 15: 254}), byte(header.ICMPv6PacketTooBig), 0
	}
	return testframe.Ethernet(frame[6:12], frame[:6], etherType, testframe.ICMP(router, src, kind, code, uint32(mtu), quote))
}

// rewrite takes options out of a segment and makes its window smaller.
func (p *path) rewrite(tcp header.TCP) {
	syn := tcp.Flags().Contains(header.TCPFlagSyn)
	if !syn {
		tcp.SetWindowSize(uint16(float64(tcp.WindowSize()) * (1 - p.withheld)))
	}
	if p.strip == 0 || syn && p.strip&stripLater != 0 || !syn && p.strip&stripSYN != 0 {
		return
	}
	options := tcp.Options()
	for at := 0; at < len(options); {
		kind := options[at]
		if kind == header.TCPOptionEOL {
			return
		}
		if kind == header.TCPOptionNOP {
			at++
			continue
		}
		if at+1 >= len(options) || options[at+1] < 2 || at+int(options[at+1]) > len(options) {
			return
		}
		end := at + int(options[at+1])
		var out bool
		switch kind {
		case header.TCPOptionMSS:
			out = p.strip&stripMSS != 0
		case header.TCPOptionWS:
			out = p.strip&stripWindowScale != 0
		case header.TCPOptionSACKPermitted, header.TCPOptionSACK:
			out = p.strip&stripSACK != 0
		case header.TCPOptionTS:
			out = p.strip&stripTimestamps != 0
		}
		for i := at; out && i < end; i++ {
			options[i] = header.TCPOptionNOP
		}
		at = end
	}
}

// translate does what NAT does to the client's port. It returns false for what
// is for a port that nobody has any more.
func (m *middlebox) translate(to int, frame []byte, q *offload.Packet) bool {
	tcp := header.TCP(frame[q.L4:])
	if server(tcp.DestinationPort()) {
		client := 1 - to
		i := slices.IndexFunc(m.nat, func(b binding) bool {
			return b.client == client && b.v6 == q.IPv6 && b.inside == tcp.SourcePort()
		})
		if i < 0 {
			i = len(m.nat)
			m.nat = append(m.nat, binding{client, q.IPv6, tcp.SourcePort(), tcp.SourcePort()})
		}
		tcp.SetSourcePort(m.nat[i].outside)
		return true
	}
	i := slices.IndexFunc(m.nat, func(b binding) bool {
		return b.client == to && b.v6 == q.IPv6 && b.outside == tcp.DestinationPort()
	})
	if i >= 0 {
		tcp.SetDestinationPort(m.nat[i].inside)
	}
	return i >= 0
}

// server tells whether a port is one that hosts listen at.
func server(port uint16) bool { return port == 80 || port == 81 }

// rebind gives all clients other ports outside, as a NAT does that was started
// again. What comes for the old ones is lost.
func (m *middlebox) rebind() {
	for i := range m.nat {
		m.nat[i].outside = m.next
		m.next++
	}
}
