package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/spf13/cobra"

	"github.com/gotpa/tpa/internal/recorder"
)

func newTrace() *cobra.Command {
	var t target
	var file, pcap string
	var id uint64
	var captured bool
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "Show what the flight recorder holds of a program's connections",
		Long: `trace lists the connections that a program's flight recorder holds: those that are
open, those that were closed lately, and captures, which it took when a connection
got into trouble (a retransmission timeout, segments sent again, a reset, a window
that stayed shut). With --id it prints a connection as a time line; with --pcap it
writes segments as a capture file for Wireshark and tcpdump, headers only, because
the recorder keeps no payload.

The recorder's file outlives a crash of the program: --file reads it. It lies with
the debug sockets, named after the process, such as /run/tpa/4711.rec.

Segments that were received or sent in one burst have one time, and are shown in
the order in, events, read, write, out.`,
		Example: `  tpa-bench trace
  tpa-bench trace --id 17
  tpa-bench trace --captured --pcap trouble.pcapng
  tpa-bench trace --file /run/tpa/4711.rec`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rec, err := recording(cmd, &t, file)
			if err != nil {
				return err
			}
			conns := slices.DeleteFunc(slices.Clone(rec.Conns), func(c recorder.Conn) bool {
				return id != 0 && c.ID != id || captured && c.Captured.IsZero()
			})
			if id != 0 && len(conns) == 0 {
				return fmt.Errorf("connection %d is not recorded, or no longer", id)
			}
			if pcap != "" {
				return writePcap(pcap, conns)
			}
			out := cmd.OutOrStdout()
			if id == 0 {
				return listTraces(out, rec, conns)
			}
			for i := range conns {
				if err := printTrace(out, &conns[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&t.pid, "pid", 0, "ask the process `PID`")
	f.StringVar(&t.addr, "addr", "", "ask the program at `ADDR`, a socket or a URL")
	f.StringVar(&file, "file", "", "read the recorder's `FILE`, which a crash left")
	f.Uint64Var(&id, "id", 0, "print the connection `N` as a time line, and its captures")
	f.BoolVar(&captured, "captured", false, "captures only")
	f.StringVar(&pcap, "pcap", "", "write segments to `FILE` in the format pcapng")
	cmd.Args = noArgs
	cmd.Long += "\n\n" + targetHelp
	return cmd
}

// recording gets the recording of a program, or of a file.
func recording(cmd *cobra.Command, t *target, file string) (*recorder.Recording, error) {
	var data []byte
	if file != "" {
		var err error
		if data, err = os.ReadFile(file); err != nil {
			return nil, err
		}
	} else {
		c, base, err := t.client()
		if err != nil {
			return nil, err
		}
		if data, err = get(cmd.Context(), c, base+"recording"); err != nil {
			return nil, fmt.Errorf("%w (a program with TPA_RECORD=off, or one that fell back, has no recorder)", err)
		}
	}
	rec, err := recorder.Decode(data)
	if err != nil && file != "" {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return rec, err
}

const clockFormat = "15:04:05.000000"

func listTraces(out io.Writer, rec *recorder.Recording, conns []recorder.Conn) error {
	fmt.Fprintf(out, "%s (pid %d), recorded since %s\n", rec.Program, rec.PID, rec.Started.Format(time.DateTime))
	if rec.Panic != "" {
		fmt.Fprintf(out, "The poller of shard %d panicked at %s: %s\n", rec.PanicShard, rec.Panicked.Format(clockFormat), rec.Panic)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line(w, "ID", "Shard", "Local", "Peer", "Opened", "State", "Events", "Last")
	for _, c := range conns {
		state := "open"
		switch {
		case !c.Captured.IsZero():
			state = "captured " + c.Captured.Format(clockFormat) + ": " + c.Reason.String()
		case !c.Closed.IsZero():
			state = "closed " + c.Closed.Format(clockFormat)
		}
		last := "-"
		if n := len(c.Events); n > 0 {
			last = c.Events[n-1].Time.Format(clockFormat)
		}
		line(w, c.ID, c.Shard, c.Local, c.Remote, c.Opened.Format(clockFormat), state, len(c.Events), last)
	}
	return w.Flush()
}

// printTrace prints a connection. Sequence numbers count from the lowest of the
// first ones seen in each direction.
func printTrace(out io.Writer, c *recorder.Conn) error {
	fmt.Fprintf(out, "Connection %d on shard %d: %v, peer %v, opened %s", c.ID, c.Shard, c.Local, c.Remote, c.Opened.Format(clockFormat))
	if !c.Captured.IsZero() {
		fmt.Fprintf(out, ", captured %s: %v", c.Captured.Format(clockFormat), c.Reason)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line(w, "Time", "Since", "What", "Flags", "Seq", "Ack", "Window", "Bytes", "Options")
	ours, theirs := bases(c.Events)
	var last time.Time
	for _, e := range c.Events {
		since := ""
		if e.Time.After(last) && !last.IsZero() {
			since = "+" + span(e.Time.Sub(last))
		}
		last = e.Time
		at := e.Time.Format(clockFormat)
		switch e.Kind {
		case recorder.Read, recorder.Write:
			line(w, at, since, e.Kind, "", "", "", "", e.Size)
		case recorder.State:
			line(w, at, since, e.Kind, e.State, "", "", "", "")
		case recorder.Timer:
			line(w, at, since, e.Kind, fmt.Sprintf("number %d", e.Size), "", "", "", "")
		case recorder.TailProbe:
			line(w, at, since, e.Kind, "", "", "", "", "")
		case recorder.Loss, recorder.Recovered:
			line(w, at, since, e.Kind, fmt.Sprintf("until %d", e.Ack-ours), "", "", "", "")
		case recorder.In:
			line(w, at, since, e.Kind, flags(e.Flags), e.Seq-theirs, acked(e, ours), e.Window, e.Size, options(e.Options))
		default:
			line(w, at, since, e.Kind, flags(e.Flags), e.Seq-ours, acked(e, theirs), e.Window, e.Size, options(e.Options))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}

// options writes those of a SYN as tcpdump does.
func options(o recorder.SynOptions) string {
	if o == (recorder.SynOptions{}) {
		return ""
	}
	var all []string
	if o.MSS != 0 {
		all = append(all, fmt.Sprint("mss ", o.MSS))
	}
	if o.SACKPermitted {
		all = append(all, "sackOK")
	}
	if o.Timestamps {
		all = append(all, "TS")
	}
	if o.WindowScale >= 0 {
		all = append(all, fmt.Sprint("wscale ", o.WindowScale))
	}
	return strings.Join(all, ",")
}

func acked(e recorder.Event, base uint32) any {
	if e.Flags&0x10 == 0 {
		return "-"
	}
	return e.Ack - base
}

// bases are the sequence numbers to count from, ours and the peer's.
func bases(events []recorder.Event) (ours, theirs uint32) {
	var haveOurs, haveTheirs bool
	lower := func(base *uint32, have *bool, n uint32) {
		if !*have || int32(n-*base) < 0 {
			*base, *have = n, true
		}
	}
	for _, e := range events {
		switch e.Kind {
		case recorder.In:
			lower(&theirs, &haveTheirs, e.Seq)
			if e.Flags&0x10 != 0 {
				lower(&ours, &haveOurs, e.Ack)
			}
		case recorder.Out, recorder.Held, recorder.Retransmit, recorder.Probe:
			lower(&ours, &haveOurs, e.Seq)
			if e.Flags&0x10 != 0 {
				lower(&theirs, &haveTheirs, e.Ack)
			}
		}
	}
	return ours, theirs
}

// flags writes TCP flags as tcpdump does.
func flags(f uint8) string {
	var b strings.Builder
	for i, c := range "FSRP.UEC" {
		if f>>i&1 != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// writePcap writes the segments of connections in the order of time, with their
// true lengths but no payload.
func writePcap(file string, conns []recorder.Conn) (err error) {
	type segment struct {
		recorder.Event
		conn *recorder.Conn
	}
	var all []segment
	seen := make(map[string]bool)
	for i := range conns {
		c := &conns[i]
		for _, e := range c.Events {
			switch e.Kind {
			case recorder.In, recorder.Out, recorder.Retransmit, recorder.Probe:
			default:
				continue
			}
			// A capture repeats what its connection's slot still has.
			if key := fmt.Sprint(c.ID, e); !seen[key] {
				seen[key] = true
				all = append(all, segment{e, c})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b segment) int { return a.Time.Compare(b.Time) })
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer closing(f.Close, &err)
	w, err := pcapgo.NewNgWriter(f, layers.LinkTypeRaw)
	if err != nil {
		return err
	}
	for _, s := range all {
		header, err := headers(s.conn, s.Event)
		if err != nil {
			return err
		}
		info := gopacket.CaptureInfo{Timestamp: s.Time, CaptureLength: len(header), Length: len(header) + s.Size}
		if err := w.WritePacket(info, header); err != nil {
			return err
		}
	}
	return w.Flush()
}

// headers makes the IP and TCP headers of a segment. Checksums are left out, and
// the options of segments without SYN, and timestamps: they were not recorded.
func headers(c *recorder.Conn, e recorder.Event) ([]byte, error) {
	from, to := c.Local, c.Remote
	if e.Kind == recorder.In {
		from, to = to, from
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()),
		Seq: e.Seq, Ack: e.Ack, Window: e.Window, DataOffset: 5,
		FIN: e.Flags&1 != 0, SYN: e.Flags&2 != 0, RST: e.Flags&4 != 0, PSH: e.Flags&8 != 0,
		ACK: e.Flags&16 != 0, URG: e.Flags&32 != 0, ECE: e.Flags&64 != 0, CWR: e.Flags&128 != 0,
	}
	size := 20
	option := func(kind layers.TCPOptionKind, data ...byte) {
		tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data})
		size += 2 + len(data)
	}
	if o := e.Options; tcp.SYN {
		if o.MSS != 0 {
			option(layers.TCPOptionKindMSS, byte(o.MSS>>8), byte(o.MSS))
		}
		if o.SACKPermitted {
			option(layers.TCPOptionKindSACKPermitted)
		}
		if o.WindowScale >= 0 {
			option(layers.TCPOptionKindWindowScale, byte(o.WindowScale))
		}
		for ; size%4 != 0; size++ {
			tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1})
		}
		tcp.DataOffset = uint8(size / 4)
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{}, ip(from.Addr(), to.Addr(), size+e.Size), tcp)
	return b.Bytes(), err
}

func ip(from, to netip.Addr, size int) gopacket.SerializableLayer {
	if from.Is4() {
		return &layers.IPv4{
			Version: 4, IHL: 5, Length: uint16(min(20+size, 65535)), TTL: 64, Protocol: layers.IPProtocolTCP,
			SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
	}
	return &layers.IPv6{
		Version: 6, Length: uint16(min(size, 65535)), HopLimit: 64, NextHeader: layers.IPProtocolTCP,
		SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
}
