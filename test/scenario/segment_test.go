package scenario

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
)

// A segment is a TCP segment as doc.go writes it, or a pattern for one.
type segment struct {
	conn     int // which connection, from 0
	flags    byte
	seq      number
	end      number // of the payload; equal to seq without any
	any      bool   // any payload or none
	ack      number
	win, urg number
	options  []option
	forbid   []string // names of options that must be missing
	evil     bool
	badSum   bool
	doff     int // in 32-bit words, 0 for the right one
}

// A number is relative to an initial sequence number, or a plain one. With ref
// set, it is where that data segment of ours begins, counted from 1.
type number struct {
	v        int64
	ref      int
	set, any bool
}

func (n number) matches(v int64) bool { return !n.set || n.any || n.v == v }

func (n number) String() string {
	switch {
	case n.any:
		return "*"
	case n.ref > 0:
		return fmt.Sprint("#", n.ref)
	}
	return strconv.FormatInt(n.v, 10)
}

type option struct {
	name string // mss, ws, sackok, ts, sack, hex
	args []number
	raw  []byte // of hex
	last bool   // of ts: echo the newest timestamp received
}

const (
	flagF = 1 << iota
	flagS
	flagR
	flagP
	flagA
	flagU
	flagE
	flagC
)

const flagLetters = "FSRPAUEC"

func flagNames(flags byte) string {
	var b strings.Builder
	for i := range flagLetters {
		if flags&(1<<i) != 0 {
			b.WriteByte(flagLetters[i])
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func parseNumber(s string) (number, error) {
	if s == "*" {
		return number{set: true, any: true}, nil
	}
	if index, ok := strings.CutPrefix(s, "#"); ok {
		ref, err := strconv.Atoi(index)
		return number{ref: ref, set: true}, err
	}
	v, err := strconv.ParseInt(s, 0, 64)
	return number{v: v, set: true}, err
}

// parseSegment reads the notation of doc.go.
func parseSegment(text string) (g segment, err error) {
	fail := func(format string, args ...any) (segment, error) {
		return g, fmt.Errorf("segment %q: %s", text, fmt.Sprintf(format, args...))
	}
	rest, opts, hasOptions := strings.Cut(text, "<")
	words := strings.Fields(rest)
	if len(words) > 0 && strings.HasPrefix(words[0], "@") {
		n, err := strconv.Atoi(words[0][1:])
		if err != nil || n < 1 {
			return fail("connection %s", words[0])
		}
		g.conn = n - 1
		words = words[1:]
	}
	if len(words) < 2 {
		return fail("want flags and a sequence number")
	}
	if words[0] != "-" {
		for _, c := range words[0] {
			i := strings.IndexRune(flagLetters, c)
			if i < 0 {
				return fail("flag %c", c)
			}
			g.flags |= 1 << i
		}
	}
	from, to, hasEnd := strings.Cut(words[1], ":")
	if g.seq, err = parseNumber(from); err != nil {
		return fail("%v", err)
	}
	g.end = g.seq
	if hasEnd {
		if g.end, err = parseNumber(to); err != nil {
			return fail("%v", err)
		}
		g.any = g.seq.any && g.end.any
	}
	for words = words[2:]; len(words) > 0; words = words[1:] {
		var into *number
		switch words[0] {
		case "evil":
			g.evil = true
			continue
		case "badsum":
			g.badSum = true
			continue
		case "ack":
			into = &g.ack
		case "win":
			into = &g.win
		case "urg":
			into = &g.urg
		case "doff":
			into = new(number)
		default:
			return fail("word %q", words[0])
		}
		if len(words) < 2 {
			return fail("%s what?", words[0])
		}
		if *into, err = parseNumber(words[1]); err != nil {
			return fail("%v", err)
		}
		if words[0] == "doff" {
			g.doff = int(into.v)
		}
		words = words[1:]
	}
	if !hasOptions {
		return g, nil
	}
	opts, ok := strings.CutSuffix(strings.TrimSpace(opts), ">")
	if !ok {
		return fail("options without >")
	}
	for part := range strings.SplitSeq(opts, ",") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		if name, missing := strings.CutPrefix(words[0], "!"); missing {
			g.forbid = append(g.forbid, name)
			continue
		}
		o := option{name: words[0]}
		if o.name == "hex" && len(words) == 2 {
			if o.raw, err = hex.DecodeString(words[1]); err != nil {
				return fail("%v", err)
			}
			g.options = append(g.options, o)
			continue
		}
		for _, w := range words[1:] {
			if w == "last" {
				o.last = true
				o.args = append(o.args, number{})
				continue
			}
			for _, w := range strings.Split(w, "-") { // of a SACK block
				n, err := parseNumber(w)
				if err != nil {
					return fail("%v", err)
				}
				o.args = append(o.args, n)
			}
		}
		g.options = append(g.options, o)
	}
	return g, nil
}

func (g segment) option(name string) (option, bool) {
	for _, o := range g.options {
		if o.name == name {
			return o, true
		}
	}
	return option{}, false
}

func (g segment) String() string {
	var b strings.Builder
	if g.conn > 0 {
		fmt.Fprintf(&b, "@%d ", g.conn+1)
	}
	fmt.Fprintf(&b, "%s %v", flagNames(g.flags), g.seq)
	if g.end != g.seq {
		fmt.Fprintf(&b, ":%v", g.end)
	}
	for _, f := range []struct {
		name string
		n    number
	}{{"ack", g.ack}, {"win", g.win}, {"urg", g.urg}} {
		if f.n.set {
			fmt.Fprintf(&b, " %s %v", f.name, f.n)
		}
	}
	if len(g.options)+len(g.forbid) > 0 {
		var parts []string
		for _, o := range g.options {
			part := o.name
			for i, a := range o.args {
				if o.name == "sack" && i%2 == 1 {
					part += "-" + a.String()
				} else {
					part += " " + a.String()
				}
			}
			parts = append(parts, part)
		}
		for _, name := range g.forbid {
			parts = append(parts, "!"+name)
		}
		fmt.Fprintf(&b, " <%s>", strings.Join(parts, ","))
	}
	return b.String()
}

// resolve puts the places of our data segments in for references to them.
func (g segment) resolve(starts []int64) (segment, error) {
	var missing int
	put := func(n *number) {
		if n.ref > len(starts) {
			missing = n.ref
		} else if n.ref > 0 {
			n.v, n.ref = starts[n.ref-1], 0
		}
	}
	put(&g.seq)
	put(&g.end)
	put(&g.ack)
	opts := g.options
	g.options = nil
	for _, o := range opts {
		args := o.args
		o.args = nil
		for _, a := range args {
			put(&a)
			o.args = append(o.args, a)
		}
		g.options = append(g.options, o)
	}
	if missing > 0 {
		return g, fmt.Errorf("there is no data segment %d yet", missing)
	}
	return g, nil
}

// matches tells whether a received segment is what the pattern g asks for.
func (g segment) matches(got segment) bool {
	const ignored = flagP
	if g.flags&^ignored != got.flags&^ignored || g.flags&flagP > got.flags&flagP || g.conn != got.conn {
		return false
	}
	if !g.seq.matches(got.seq.v) || !g.ack.matches(got.ack.v) || !g.win.matches(got.win.v) || !g.urg.matches(got.urg.v) {
		return false
	}
	switch {
	case g.end.any && g.any:
	case g.end.any && g.seq.any:
		if got.end.v != got.seq.v {
			return false
		}
	case g.end.any:
		if got.end.v <= got.seq.v {
			return false
		}
	case g.end.v != got.end.v:
		return false
	}
	for _, name := range g.forbid {
		if _, ok := got.option(name); ok {
			return false
		}
	}
	for _, want := range g.options {
		o, ok := got.option(want.name)
		if !ok || len(o.args) < len(want.args) {
			return false
		}
		for i, a := range want.args {
			if !a.matches(o.args[i].v) {
				return false
			}
		}
	}
	return true
}

// pureAck tells whether a segment is an acknowledgement and nothing else.
func (g segment) pureAck() bool { return g.flags&^flagP == flagA && g.end == g.seq }

// patternAt is the byte at a place of a stream, counted from 1, which is where
// the sequence number behind the SYN stands.
func patternAt(place int64) byte { return byte(place*7 + place>>8) }

// isns are the initial sequence numbers of a connection, 0 while unknown.
type isns struct{ peer, ours uint32 }

// encode makes the bytes of a segment from the peer. lastTS is what "last" means.
func (g segment) encode(src, dst netip.AddrPort, n isns, window int64, lastTS uint32) []byte {
	out := testframe.TCP{
		Src: src, Dst: dst, Seq: n.peer + uint32(g.seq.v), Flags: header.TCPFlags(g.flags), Urgent: uint16(g.urg.v),
		Options: g.encodeOptions(n, lastTS), Payload: make([]byte, max(0, g.end.v-g.seq.v)),
	}
	if g.ack.set {
		out.Ack = n.ours + uint32(g.ack.v)
	}
	if g.win.set {
		window = g.win.v
	}
	out.Window = uint16(window)
	first := g.seq.v
	if g.flags&flagS != 0 {
		first++ // the SYN stands before the data
	}
	for i := range out.Payload {
		out.Payload[i] = patternAt(first + int64(i))
		if g.evil {
			out.Payload[i] ^= 0xff
		}
	}
	b := out.Segment()
	if g.doff != 0 {
		b.SetDataOffset(uint8(g.doff * 4))
		testframe.SumTCP(src.Addr(), dst.Addr(), b)
	}
	if g.badSum {
		b.SetChecksum(b.Checksum() - 1)
	}
	return b
}

func (g segment) encodeOptions(n isns, lastTS uint32) (b []byte) {
	for _, o := range g.options {
		arg := func(i int) uint32 {
			if i < len(o.args) {
				return uint32(o.args[i].v)
			}
			return 0
		}
		switch o.name {
		case "nop":
			b = append(b, 1)
		case "mss":
			b = append(b, 2, 4)
			b = binary.BigEndian.AppendUint16(b, uint16(arg(0)))
		case "ws":
			b = append(b, 3, 3, byte(arg(0)))
		case "sackok":
			b = append(b, 4, 2)
		case "sack":
			b = append(b, 5, byte(2+4*len(o.args)))
			for i := range o.args {
				b = binary.BigEndian.AppendUint32(b, n.ours+arg(i))
			}
		case "ts":
			for len(b)%4 != 2 {
				b = append(b, 1)
			}
			b = append(b, 8, 10)
			b = binary.BigEndian.AppendUint32(b, arg(0))
			if o.last {
				b = binary.BigEndian.AppendUint32(b, lastTS)
			} else {
				b = binary.BigEndian.AppendUint32(b, arg(1))
			}
		case "hex":
			b = append(b, o.raw...)
		default:
			panic("unknown option " + o.name)
		}
	}
	return b
}

// decodeSegment reads a segment of the stack under test and checks its payload.
// What the peer has acknowledged, below known, may be anything: a probe needs no
// sensible byte.
func decodeSegment(b []byte, n isns, known int64) (segment, error) {
	if len(b) < 20 {
		return segment{}, fmt.Errorf("a TCP segment of %d bytes", len(b))
	}
	header := int(b[12]>>4) * 4
	if header < 20 || header > len(b) {
		return segment{}, fmt.Errorf("a TCP header of %d bytes in %d", header, len(b))
	}
	relative := func(v, base uint32) number {
		if base == 0 {
			return number{v: int64(v), set: true}
		}
		return number{v: int64(int32(v - base)), set: true}
	}
	plain := func(v int64) number { return number{v: v, set: true} }
	g := segment{flags: b[13]}
	g.seq = relative(binary.BigEndian.Uint32(b[4:]), n.ours)
	payload := b[header:]
	g.end = plain(g.seq.v + int64(len(payload)))
	if g.flags&flagA != 0 {
		g.ack = relative(binary.BigEndian.Uint32(b[8:]), n.peer)
	}
	g.win = plain(int64(binary.BigEndian.Uint16(b[14:])))
	g.urg = plain(int64(binary.BigEndian.Uint16(b[18:])))
	for opts := b[20:header]; len(opts) > 0 && opts[0] != 0; {
		if opts[0] == 1 {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return g, fmt.Errorf("malformed options %x", b[20:header])
		}
		body := opts[2:opts[1]]
		switch {
		case opts[0] == 2 && len(body) == 2:
			g.options = append(g.options, option{name: "mss", args: []number{plain(int64(binary.BigEndian.Uint16(body)))}})
		case opts[0] == 3 && len(body) == 1:
			g.options = append(g.options, option{name: "ws", args: []number{plain(int64(body[0]))}})
		case opts[0] == 4 && len(body) == 0:
			g.options = append(g.options, option{name: "sackok"})
		case opts[0] == 5 && len(body)%8 == 0 && len(body) > 0:
			o := option{name: "sack"}
			for ; len(body) > 0; body = body[4:] {
				o.args = append(o.args, relative(binary.BigEndian.Uint32(body), n.peer))
			}
			g.options = append(g.options, o)
		case opts[0] == 8 && len(body) == 8:
			g.options = append(g.options, option{name: "ts", args: []number{
				plain(int64(binary.BigEndian.Uint32(body))), plain(int64(binary.BigEndian.Uint32(body[4:]))),
			}})
		default:
			g.options = append(g.options, option{name: fmt.Sprint("kind", opts[0])})
		}
		opts = opts[opts[1]:]
	}
	if n.ours != 0 {
		for i, c := range payload {
			if place := g.seq.v + int64(i); place >= max(known, 1) && c != patternAt(place) {
				return g, fmt.Errorf("%v: byte %d of the stream is %#x, want %#x", g, place, c, patternAt(place))
			}
		}
	}
	return g, nil
}
