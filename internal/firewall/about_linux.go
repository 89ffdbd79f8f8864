package firewall

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// About returns the rules that the kernel would apply to segments of the port, coming
// or going, in the order in which they stand: those that have the port in them, and
// those that may drop or divert such a segment. What a rule asks for that cannot be
// told here counts as true.
func (r *Ruleset) About(p Port) []Rule {
	var found []Rule
	for _, c := range r.chains {
		if c.hook == nil {
			continue
		}
		w := walk{ruleset: r, port: p, out: outgoing(c)}
		if w.out || incoming(c) {
			found = append(found, w.chain(c)...)
		}
	}
	return found
}

func incoming(c *chain) bool {
	return c.netdev && *c.hook == *nftables.ChainHookIngress ||
		!c.netdev && (*c.hook == *nftables.ChainHookPrerouting || *c.hook == *nftables.ChainHookInput)
}

func outgoing(c *chain) bool { return !c.netdev && *c.hook == *nftables.ChainHookOutput }

// A walk looks at the rules that a segment meets from one hook on.
type walk struct {
	ruleset *Ruleset
	port    Port
	out     bool // the port is the source
	seen    []*chain
}

func (w *walk) chain(c *chain) (found []Rule) {
	if slices.Contains(w.seen, c) {
		return nil
	}
	w.seen = append(w.seen, c)
	for i := range c.rules {
		m := w.match(&c.rules[i])
		if !m.may {
			continue
		}
		if m.jump != "" {
			for _, next := range w.ruleset.chains {
				if next.table == c.table && next.short == m.jump {
					found = append(found, w.chain(next)...)
				}
			}
		}
		if m.does != "" || m.named && m.jump == "" {
			if m.does == "" {
				m.does = "named"
			}
			found = append(found, Rule{Chain: c.name, Handle: c.rules[i].handle, Does: m.does, Named: m.named})
		}
	}
	if c.hook != nil && c.policy != nil && *c.policy == nftables.ChainPolicyDrop {
		found = append(found, Rule{Chain: c.name, Does: "policy drop"})
	}
	return found
}

// A match is what a rule means for a segment.
type match struct {
	may   bool   // it may match
	named bool   // it has the port in it
	does  string // what it does then that the kernel's way to the socket does not
	jump  string // the chain it goes on in
}

// What a register holds.
type field int

const (
	unknown field = iota
	protocol
	version
	portField
	peerField // the port at the other end, which clients change
	addrField
	interfaceName
)

// match reads a rule from left to right, as the kernel does.
func (w *walk) match(r *rule) (m match) {
	m.may = true
	holds := make(map[uint32]field)
	for _, e := range r.exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				holds[e.Register] = w.meta(e.Key)
			}
		case *expr.Payload:
			holds[e.DestRegister] = w.payload(e)
		case *expr.Cmp:
			if is, known := w.compare(holds[e.Register], e.Op, e.Data); known {
				m.may = m.may && is
				m.named = m.named || is && holds[e.Register] == portField
			}
		case *expr.Range:
			if holds[e.Register] == portField && len(e.FromData) == 2 && len(e.ToData) == 2 {
				in := binary.BigEndian.Uint16(e.FromData) <= w.port.Number && w.port.Number <= binary.BigEndian.Uint16(e.ToData)
				is := in == (e.Op == expr.CmpOpEq)
				m.may, m.named = m.may && is, m.named || is
			}
		case *expr.Lookup:
			if elements, ok := r.sets[e.SetName]; ok && holds[e.SourceRegister] == portField {
				is := contains(elements, w.port.Number) != e.Invert
				m.may, m.named = m.may && is, m.named || is
			}
			holds[e.DestRegister] = unknown
		case *expr.Match:
			if tcp, ok := e.Info.(*xt.Tcp); ok {
				is, named := w.tcp(tcp)
				m.may, m.named = m.may && is, m.named || is && named
			} else if e.Name == "udp" {
				m.may = false
			}
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictDrop:
				m.does = "drop"
			case expr.VerdictQueue:
				m.does = "queue"
			case expr.VerdictJump, expr.VerdictGoto:
				m.jump = e.Chain
			}
		case *expr.Reject:
			m.does = "reject"
		case *expr.Redir:
			m.does = "redirect"
		case *expr.TProxy:
			m.does = "tproxy"
		case *expr.Queue:
			m.does = "queue"
		case *expr.NAT:
			m.does = "nat"
		case *expr.Target:
			if does, ok := targets[e.Name]; ok {
				m.does = does
			}
		default:
			clear(holds) // it may write to a register
		}
		if !m.may {
			return m
		}
	}
	return m
}

// targets are those of iptables that the kernel's way to the socket does not have.
var targets = map[string]string{
	"REJECT": "reject", "REDIRECT": "redirect", "DNAT": "nat", "TPROXY": "tproxy", "NFQUEUE": "queue", "SYNPROXY": "synproxy",
}

func (w *walk) meta(key expr.MetaKey) field {
	switch {
	case key == expr.MetaKeyL4PROTO:
		return protocol
	case key == expr.MetaKeyNFPROTO:
		return version
	case key == expr.MetaKeyIIFNAME && !w.out, key == expr.MetaKeyOIFNAME && w.out:
		return interfaceName
	}
	return unknown
}

func (w *walk) payload(e *expr.Payload) field {
	if e.OperationType != expr.PayloadLoad {
		return unknown
	}
	at := func(offset, size uint32) bool { return e.Offset == offset && e.Len == size }
	switch e.Base {
	case expr.PayloadBaseTransportHeader:
		if !w.out && at(2, 2) || w.out && at(0, 2) {
			return portField
		}
		if !w.out && at(0, 2) || w.out && at(2, 2) {
			return peerField
		}
	case expr.PayloadBaseNetworkHeader:
		switch {
		case !w.out && (at(16, 4) || at(24, 16)), w.out && (at(12, 4) || at(8, 16)):
			return addrField
		case at(9, 1), at(6, 1):
			return protocol
		}
	}
	return unknown
}

// compare tells whether a comparison is true for the segment, if that can be told.
func (w *walk) compare(f field, op expr.CmpOp, data []byte) (is, known bool) {
	switch f {
	case protocol:
		if len(data) == 1 {
			return ordered(op, bytes.Compare([]byte{unix.IPPROTO_TCP}, data))
		}
	case portField:
		if len(data) == 2 {
			return ordered(op, bytes.Compare(binary.BigEndian.AppendUint16(nil, w.port.Number), data))
		}
	case peerField:
		if op == expr.CmpOpEq {
			return false, true
		}
	case addrField:
		if a, ok := netip.AddrFromSlice(data); ok && op == expr.CmpOpEq && len(w.port.Addrs) > 0 {
			return slices.Contains(w.port.Addrs, a), true
		}
	case interfaceName:
		name := string(bytes.TrimRight(data, "\x00"))
		// Without its end, the name is that of all that begin so (eth*).
		same := name == w.port.Interface || !bytes.HasSuffix(data, []byte{0}) && strings.HasPrefix(w.port.Interface, name)
		if w.port.Interface != "" && (op == expr.CmpOpEq || op == expr.CmpOpNeq) {
			return same == (op == expr.CmpOpEq), true
		}
	}
	return false, false
}

// ordered tells whether order, of the segment's value and the rule's, is what op asks for.
func ordered(op expr.CmpOp, order int) (is, known bool) {
	switch op {
	case expr.CmpOpEq:
		return order == 0, true
	case expr.CmpOpNeq:
		return order != 0, true
	case expr.CmpOpLt:
		return order < 0, true
	case expr.CmpOpLte:
		return order <= 0, true
	case expr.CmpOpGt:
		return order > 0, true
	case expr.CmpOpGte:
		return order >= 0, true
	}
	return false, false
}

// tcp tells whether the match "tcp" of iptables is true, and whether it has the port.
func (w *walk) tcp(t *xt.Tcp) (is, named bool) {
	ports, inverted, peer := t.DstPorts, t.InvFlags&xt.TcpInvDestPorts != 0, t.SrcPorts
	if w.out {
		ports, inverted, peer = t.SrcPorts, t.InvFlags&xt.TcpInvSrcPorts != 0, t.DstPorts
	}
	if peer[0] == peer[1] {
		return false, false // clients change their ports
	}
	in := ports[0] <= w.port.Number && w.port.Number <= ports[1]
	return in != inverted, ports != [2]uint16{0, 65535}
}

// contains looks for a port in the elements of a set, of which some may be the ends of
// intervals.
func contains(elements []nftables.SetElement, port uint16) bool {
	type bound struct {
		at  uint16
		end bool
	}
	var bounds []bound
	interval := false
	for _, e := range elements {
		if len(e.Key) < 2 {
			continue
		}
		bounds = append(bounds, bound{binary.BigEndian.Uint16(e.Key), e.IntervalEnd})
		interval = interval || e.IntervalEnd
	}
	if !interval {
		return slices.Contains(bounds, bound{at: port})
	}
	// Sorted, each bound holds up to the next one.
	sort.Slice(bounds, func(i, j int) bool {
		a, b := bounds[i], bounds[j]
		return a.at < b.at || a.at == b.at && a.end && !b.end
	})
	in := false
	for _, b := range bounds {
		if b.at > port {
			break
		}
		in = !b.end
	}
	return in
}
