package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/accel/debug"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/memory"
)

// program starts a runtime with a debug socket and two connections to it, which
// have carried 1,000 and 2,000 bytes each way.
func program(t *testing.T) (rt *accel.Runtime, socket string) {
	t.Helper()
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a, b)
	socket = filepath.Join(t.TempDir(), "debug.sock")
	start := func(d *memory.Device, addr, socket string) *accel.Runtime {
		rt, err := accel.New(accel.Config{
			Link: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Fallback: accel.FallbackNever,
			DebugSocket: socket, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	client, server := start(a, "10.0.0.1/24", "off"), start(b, "10.0.0.2/24", socket)
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	go echoserver.Run(ln)
	for i := range 2 {
		c, err := (&accel.Dialer{Runtime: client, Timeout: 10 * time.Second}).Dial("tcp", "10.0.0.2:7")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 500*(i+1))
		for range 2 {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return server, socket
}

// command runs a command and returns what it printed.
func command(ctx context.Context, args ...string) (string, error) {
	cmd := newRoot()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestInspect(t *testing.T) {
	rt, socket := program(t)
	page := httptest.NewServer(debug.Handler(rt, debug.Options{}))
	defer page.Close()
	for _, addr := range []string{socket, page.URL + "/debug/tpa/"} {
		for _, tt := range []struct {
			args []string
			want []string // regular expressions, in this order
		}{
			{[]string{"sockets"}, []string{
				`State +Shard +Recv-Q +Send-Q +Local +Peer`,
				`LISTEN +all +0 +\[::\]:7`,
				`ESTABLISHED +0 +0 +\d+ +10\.0\.0\.2:7 +10\.0\.0\.1:\d+ .* 2\.0k +2\.0k`,
				`ESTABLISHED +0 +0 +\d+ +10\.0\.0\.2:7 +10\.0\.0\.1:\d+ .* 1\.0k +1\.0k`,
			}},
			{[]string{"sockets", "--sort", "age", "-n", "1"}, []string{`ESTABLISHED .* 1\.0k +1\.0k`, `and 1 more`}},
			{[]string{"shards"}, []string{`Shard +CPU +Busy`, `0 +floats +\d+\.\d%`}},
			{[]string{"stats"}, []string{`conns\.read_bytes +3000\n`, `queue\.rx_frames +\d+`, `tcp\.passive_opens +2`}},
			{[]string{"stats", "--match", "conns"}, []string{`^conns\.read_bytes +3000\nconns\.written_bytes +3000\n$`}},
			{[]string{"stats", "--match", `passive_opens$|^conns\.read`}, []string{`^conns\.read_bytes +3000\ntcp\.passive_opens +2\n$`}},
		} {
			got, err := command(t.Context(), append(tt.args, "--addr", addr)...)
			if err != nil {
				t.Errorf("%v at %s: %v", tt.args, addr, err)
			}
			if want := regexp.MustCompile("(?s)" + strings.Join(tt.want, ".*")); !want.MatchString(got) {
				t.Errorf("%v at %s: got\n%swant %s", tt.args, addr, got, want)
			}
		}
	}
	if got, err := command(t.Context(), "stats", "--match", "nothing", "--addr", socket); err == nil || got != "" || !strings.Contains(err.Error(), "no counter has a name that fits") {
		t.Errorf("a pattern that fits nothing: got %q, %v", got, err)
	}
	if got, err := command(t.Context(), "stats", "--match", "^tcp.cookies", "--addr", socket); err != nil || !strings.Contains(got, "all of them are 0") {
		t.Errorf("counters that are 0: got %q, %v", got, err)
	}
	if _, err := command(t.Context(), "stats", "--match", "(", "--addr", socket); err == nil || !strings.Contains(err.Error(), "--match") {
		t.Errorf("a wrong pattern: %v", err)
	}
	if got, err := command(t.Context(), "config", "set", "polling.spin", "50us", "--addr", socket); err != nil || got != "polling.spin was 1ms and is 50us.\n" {
		t.Errorf("config set: got %q, %v", got, err)
	}
	if _, err := command(t.Context(), "config", "set", "queues", "2", "--addr", socket); err == nil || err.Error() != "queues cannot be changed while the program runs: set it before" {
		t.Errorf("config set of what cannot change: %v", err)
	}
	if got, err := command(t.Context(), "config", "set", "allow_from", "10.0.0.0/24,fd00::/8", "--addr", socket); err != nil || got != "allow_from was everybody and is 10.0.0.0/24,fd00::/8.\n" {
		t.Errorf("config set of prefixes: got %q, %v", got, err)
	}
	for _, args := range [][]string{{"log_level", "debug?x"}, {"log_level/debug", "x"}, {"log_level", "%64ebug"}, {"allow_from", "10.0.0.0/8, fd00::/8"}} {
		if got, err := command(t.Context(), "config", "set", args[0], args[1], "--addr", socket); err == nil || !strings.Contains(err.Error(), "no setting holds that") {
			t.Errorf("config set %q: got %q, %v", args, got, err)
		}
	}
	want := regexp.MustCompile(`polling\.spin +50µs +program +config set\npolling\.max_sleep +1ms +default +config set\n(?s:.*)log_level +what Logger takes +default`)
	if got, err := command(t.Context(), "config", "show", "--addr", socket); err != nil || !want.MatchString(got) {
		t.Errorf("config show: got\n%s%v, want %s", got, err, want)
	}
	t.Setenv("TPA_SOCKET", socket)
	out, err := command(t.Context(), "sockets", "--json")
	var s accel.Status
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || len(s.Conns) != 2 {
		t.Errorf("--json: got %d connections and %v, want 2", len(s.Conns), err)
	}
}

// TestConfig checks and shows files and the environment.
func TestConfig(t *testing.T) {
	good, bad := filepath.Join(t.TempDir(), "good.toml"), filepath.Join(t.TempDir(), "bad.toml")
	for name, text := range map[string]string{good: "queues = 2\n[polling]\nspin = \"50us\"\n", bad: "queue = 2\nmtu = 1\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := command(t.Context(), "config", "check", good); err != nil || !strings.Contains(got, "2 of ") {
		t.Errorf("a good file: got %q, %v", got, err)
	}
	if _, err := command(t.Context(), "config", "check", bad); err == nil || !strings.Contains(err.Error(), "queue is no setting") || !strings.Contains(err.Error(), "1280") {
		t.Errorf("a bad file: %v", err)
	}
	t.Setenv("TPA_CONFIG", good)
	t.Setenv("TPA_QUEUES", "3")
	if got, err := command(t.Context(), "config", "check"); err != nil || !strings.Contains(got, "good.toml and the environment: 2 of ") {
		t.Errorf("all together: got %q, %v", got, err)
	}
	want := regexp.MustCompile(`(?s)mtu +the device's +default +TPA_MTU.*queues +3 +environment +TPA_QUEUES.*polling\.spin +50µs +file +TPA_SPIN`)
	if got, err := command(t.Context(), "config", "show"); err != nil || !want.MatchString(got) {
		t.Errorf("config show: got\n%s%v, want %s", got, err, want)
	}
}

// TestWatch checks that a later look shows what changed, until it is ended.
func TestWatch(t *testing.T) {
	_, socket := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	out, err := command(ctx, "stats", "--watch=50ms", "--match", "conns", "--addr", socket)
	if err != nil {
		t.Error(err)
	}
	if got := strings.Count(out, "conns.read_bytes"); got != 1 {
		t.Errorf("bytes that were read once show %d times:\n%s", got, out)
	}
	if got := strings.Count(out, "(pid "); got < 3 {
		t.Errorf("got %d looks within a second, want one every 50ms:\n%s", got, out)
	}
}

func TestInspectNobody(t *testing.T) {
	for _, args := range [][]string{
		{"sockets", "--addr", filepath.Join(t.TempDir(), "none")},
		{"shards", "--pid", "1"},
		{"sockets", "--sort", "colour"},
	} {
		if out, err := command(t.Context(), args...); err == nil {
			t.Errorf("%v: got no error, and\n%s", args, out)
		}
	}
}

// TestTrace checks the list, the time line, the export and the file.
func TestTrace(t *testing.T) {
	_, socket := program(t)
	out, err := command(t.Context(), "trace", "--addr", socket)
	if want := regexp.MustCompile(`(?s)ID +Shard.*1 +0 +10\.0\.0\.2:7 +10\.0\.0\.1:\d+ .* open .*2 +0 +10\.0\.0\.2:7`); err != nil || !want.MatchString(out) {
		t.Errorf("list: got %v and\n%swant %s", err, out, want)
	}
	out, err = command(t.Context(), "trace", "--id", "1", "--addr", socket)
	if want := regexp.MustCompile(`(?s)Connection 1 .* in +S +0 +- +65535 +0 +mss \d+,sackOK,TS,wscale \d+\n.* state +SYN-RCVD .* out +S\. +0 +1 +65535 +0 +mss \d+,sackOK,TS,wscale \d+\n.* in +\. +1 +1 .* state +ESTABLISHED.* in +P\. +501 +501 +\d+ +500 *\n.* read +500 *\n.* write +500 *\n.* out +P\. +501 +1001 +\d+ +500 *\n`); err != nil || !want.MatchString(out) {
		t.Errorf("time line: got %v and\n%swant %s", err, out, want)
	}
	if _, err := command(t.Context(), "trace", "--id", "99", "--addr", socket); err == nil {
		t.Error("a connection that is not there: got no error")
	}
	file := filepath.Join(t.TempDir(), "trace.pcapng")
	if _, err := command(t.Context(), "trace", "--pcap", file, "--addr", socket); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	bytes := make(map[layers.TCPPort]int)
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		tcp, ok := gopacket.NewPacket(data, layers.LayerTypeIPv4, gopacket.Default).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || len(data) != 20+4*int(tcp.DataOffset) {
			t.Fatalf("%d bytes, no TCP header in them", len(data))
		}
		if tcp.SrcPort == 7 {
			bytes[7] += info.Length - len(data)
		} else {
			bytes[0] += info.Length - len(data)
		}
	}
	if bytes[7] != 3000 || bytes[0] != 3000 {
		t.Errorf("got %d bytes from the server and %d to it, want 3000 and 3000", bytes[7], bytes[0])
	}
	garbage := filepath.Join(t.TempDir(), "garbage.rec")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t.Context(), "trace", "--file", garbage); !errors.Is(err, recorder.ErrFormat) {
		t.Errorf("garbage: got %v, want %v", err, recorder.ErrFormat)
	}
}

// TestPcap checks that tcpdump reads from an export what was recorded.
func TestPcap(t *testing.T) {
	testnet.Need(t, testnet.Tool("tcpdump"))
	const syn, fin, psh, ack, rst = 2, 1, 8, 16, 4
	addr := netip.MustParseAddrPort
	start := time.Unix(1700000000, 123456000)
	event := func(after time.Duration, k recorder.Kind, flags uint8, seq, ack uint32, window uint16, size int, o recorder.SynOptions) recorder.Event {
		return recorder.Event{Time: start.Add(after), Kind: k, Flags: flags, Seq: seq, Ack: ack, Window: window, Size: size, Options: o}
	}
	none := recorder.SynOptions{}
	file := filepath.Join(t.TempDir(), "trace.pcapng")
	err := writePcap(file, []recorder.Conn{{
		ID: 1, Local: addr("10.0.0.2:7007"), Remote: addr("10.0.0.1:40000"),
		Events: []recorder.Event{
			event(0, recorder.In, syn, 1000, 0, 65535, 0, recorder.SynOptions{MSS: 1460, WindowScale: 7, SACKPermitted: true}),
			event(0, recorder.Out, syn|ack, 4294967290, 1001, 65535, 0, recorder.SynOptions{MSS: 8960, WindowScale: 0}),
			{Time: start, Kind: recorder.State, State: "ESTABLISHED"},
			event(150*time.Microsecond, recorder.In, ack|psh, 1001, 4294967291, 512, 100, none),
			{Time: start, Kind: recorder.Read, Size: 100},
			event(150*time.Microsecond, recorder.Out, ack|psh, 4294967291, 1101, 8192, 60000, none),
			event(201*time.Millisecond, recorder.Retransmit, ack, 4294967291, 1101, 8192, 1448, none),
			event(2*time.Second, recorder.In, fin|ack, 1101, 59994, 0, 0, none),
		},
	}, {
		ID: 2, Local: addr("[fd00::2]:7007"), Remote: addr("[fd00::1]:40001"),
		Events: []recorder.Event{
			event(3*time.Second, recorder.Probe, ack, 7, 8, 9, 0, none),
			event(3*time.Second, recorder.In, rst, 8, 0, 0, 0, none),
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Absolute numbers (-S), times in seconds since 1970.
	out, err := exec.CommandContext(t.Context(), "tcpdump", "-nn", "-tt", "-S", "-r", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := `1700000000.123456 IP 10.0.0.1.40000 > 10.0.0.2.7007: Flags [S], seq 1000, win 65535, options [mss 1460,sackOK,wscale 7,nop,nop,nop], length 0
1700000000.123456 IP 10.0.0.2.7007 > 10.0.0.1.40000: Flags [S.], seq 4294967290, ack 1001, win 65535, options [mss 8960,wscale 0,nop], length 0
1700000000.123606 IP 10.0.0.1.40000 > 10.0.0.2.7007: Flags [P.], seq 1001:1101, ack 4294967291, win 512, length 100
1700000000.123606 IP 10.0.0.2.7007 > 10.0.0.1.40000: Flags [P.], seq 4294967291:59995, ack 1101, win 8192, length 60000
1700000000.324456 IP 10.0.0.2.7007 > 10.0.0.1.40000: Flags [.], seq 4294967291:1443, ack 1101, win 8192, length 1448
1700000002.123456 IP 10.0.0.1.40000 > 10.0.0.2.7007: Flags [F.], seq 1101, ack 59994, win 0, length 0
1700000003.123456 IP6 fd00::2.7007 > fd00::1.40001: Flags [.], ack 8, win 9, length 0
1700000003.123456 IP6 fd00::1.40001 > fd00::2.7007: Flags [R], seq 8, win 0, length 0
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("tcpdump reads something else (-want +got):\n%s", diff)
	}
}
