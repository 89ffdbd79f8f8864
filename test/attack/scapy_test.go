package attack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

// python is Debian's, which knows Debian's packages.
const python = "/usr/bin/python3"

var scapy = testnet.Requirement{
	Name: "scapy",
	Probe: func() error {
		if out, err := exec.Command(python, "-c", "import scapy").CombinedOutput(); err != nil {
			return errors.Join(err, errors.New(string(out)))
		}
		return nil
	},
	Fix: "apt-get install python3-scapy",
}

// A datagram is what scapy made: one frame, or the fragments of one datagram.
type datagram struct {
	name   string
	frames [][]byte
}

// reported tells whether a host may say by an ICMP error what is wrong.
func (d *datagram) reported() bool { return strings.HasPrefix(d.name, "ICMP: ") }

// uncounted tells whether TCP drops the segment and says so nowhere, as gVisor's
// does with whatever is neither SYN nor ACK, and with resets that it ignores.
func (d *datagram) uncounted(w way) bool {
	return w.engine == accel.EngineGVisor && (d.name == "TCP: option garbage" || strings.HasPrefix(d.name, "TCP: reset"))
}

// malformed lets scapy make frames that pretend to be the next segment of a
// connection, always the same ones.
func malformed(t *testing.T, p *puppet) (list []datagram) {
	t.Helper()
	s := p.w.site
	file := filepath.Join(t.TempDir(), "malformed.pcap")
	in, err := json.Marshal(map[string]any{
		"seed": 1, "pcap": file,
		"dst_mac": s.to.MAC.String(), "src_mac": s.from.MAC.String(),
		"dst": s.addr, "src": p.addr, "dport": p.to, "sport": p.port, "seq": p.seq, "ack": p.ack,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/malformed.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	names, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(names)) {
		frame, _, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		name = strings.TrimSuffix(name, "\n")
		if n := len(list); n > 0 && strings.Contains(name, "#") && list[n-1].name == name {
			list[n-1].frames = append(list[n-1].frames, frame)
		} else {
			list = append(list, datagram{name, [][]byte{frame}})
		}
	}
	if _, _, err := r.ReadPacketData(); err != io.EOF {
		t.Fatalf("there are more frames than names: %v", err)
	}
	return list
}

// TestScapy sends frames that scapy made, which pretend to be the next segment of
// a connection and are not. Each must be found in a counter of what led to nothing.
// None may be answered by the runtime, but for what an RFC has reported to the
// source, and the connection must be as it was.
func TestScapy(t *testing.T) {
	testnet.Need(t, scapy)
	overWays(t, func(t *testing.T, w way) {
		// The wire takes longer frames than the server, as some switches do.
		s := newSiteMTU(t, w, accel.Limits{}, 3000, 1500)
		wire := s.open(true)
		p := wire.connect(7, 65535, nil)
		p.read([]byte(greeting))
		corpus := malformed(t, p)

		before := s.refused()
		last, frames, icmp := before, 0, false
		for _, d := range corpus {
			for _, f := range d.frames {
				frames++
				if err := wire.raw(f); err != nil {
					t.Fatalf("%s: send %d bytes: %v", d.name, len(f), err)
				}
			}
			r := s.refused()
			for deadline := time.Now().Add(2 * time.Second); r.sum() == last.sum() && time.Now().Before(deadline); {
				if d.uncounted(w) && r.Segments > last.Segments {
					break
				}
				r = s.refused()
			}
			if r.sum() == last.sum() && !(d.uncounted(w) && r.Segments > last.Segments) {
				t.Errorf("%s: in no counter: %x", d.name, d.frames)
			}
			// What was reported of the one before may come late.
			if a := wire.unexpected(icmp || d.reported()); a != nil {
				t.Errorf("%s: %x is answered with %x", d.name, d.frames, a)
			}
			last, icmp = r, d.reported()
		}
		if frames < 500 {
			t.Errorf("%d frames, want at least 500", frames)
		}
		t.Logf("%d frames, %d datagrams; %s", frames, len(corpus), last.since(before))

		if a := wire.unexpected(true); a != nil {
			t.Errorf("an answer came late: %x", a)
		}
		good := []byte("good")
		p.send(header.TCPFlagAck|header.TCPFlagPsh, p.seq, 65535, nil, good)
		p.seq += uint32(len(good))
		p.read(good)
	})
}

// sum counts the frames that got nowhere.
func (r refusals) sum() uint64 {
	n := r.Undelivered
	for _, group := range []map[string]uint64{r.Lost, r.Passed} {
		for _, v := range group {
			n += v
		}
	}
	return n
}

// since tells in words what has grown.
func (r refusals) since(before refusals) string {
	var parts []string
	for _, group := range []struct {
		name        string
		now, before map[string]uint64
	}{{"lost", r.Lost, before.Lost}, {"to the kernel", r.Passed, before.Passed}} {
		for _, name := range slices.Sorted(maps.Keys(group.now)) {
			if n := group.now[name] - group.before[name]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s (%s)", n, name, group.name))
			}
		}
	}
	if n := r.Undelivered - before.Undelivered; n > 0 {
		parts = append(parts, fmt.Sprintf("%d undelivered", n))
	}
	return strings.Join(parts, ", ")
}

// unexpected returns an answer that has come: a packet to somebody far away. ICMP
// errors are none if they are expected, nor is what the kernel may have answered
// where it got the frame.
func (w *wire) unexpected(icmp bool) []byte {
	for {
		f := w.poll()
		if f == nil {
			return nil
		}
		p, _ := testframe.ParseUnchecked(f)
		switch {
		case !p.Dst.IsValid() || p.Dst.IsMulticast() || p.Dst.IsLinkLocalUnicast() || p.Dst == w.site.way.addr(w.site.from):
		case isError(p) && (icmp || !w.site.way.ours()):
		case len(p.TCP()) >= header.TCPMinimumSize && !w.site.way.ours() && p.TCP().Flags().Contains(header.TCPFlagRst):
		default:
			return slices.Clone(f)
		}
	}
}

// isError tells whether a packet holds an ICMP error.
func isError(p testframe.Packet) bool {
	switch {
	case len(p.Payload) == 0:
		return false
	case p.Protocol == testframe.ProtocolICMP:
		return slices.Contains([]header.ICMPv4Type{header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem}, header.ICMPv4Type(p.Payload[0]))
	case p.Protocol == testframe.ProtocolICMPv6:
		return p.Payload[0] < 128
	}
	return false
}
