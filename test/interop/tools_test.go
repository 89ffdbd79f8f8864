package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

// What people have on their machines, across a wire: the client is the kernel of
// one host, the server is tpa-bench serve on another.
//
//	client                                server
//	redis-cli, redis-benchmark,   veth    tpa-bench serve
//	curl, wrk ── kernel TCP ── eth0═eth0 ── a device of ours, or kernel TCP

// wires are the ways to the server.
var wires = []struct {
	name   string
	device string // of tpa-bench; empty: the kernel
	needs  []testnet.Requirement
	// shared says that the kernel keeps the addresses.
	shared bool
}{
	{name: "kernel", shared: true},
	{name: "af_packet", device: "net_af_packet0,iface=eth0", needs: []testnet.Requirement{testnet.DPDK}},
	{name: "af_xdp", device: "net_af_xdp0,iface=eth0", needs: []testnet.Requirement{testnet.DPDK}},
	{name: "xdp", device: "xdp:eth0", shared: true},
}

// overWires runs f with a client and a way to start servers, over each wire and
// IP version.
func overWires(t *testing.T, tool string, f func(t *testing.T, client *testnet.Host, serve func(protocol string) netip.AddrPort)) {
	testnet.Need(t, testnet.Netns, testnet.Tool(tool))
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			testnet.Need(t, w.needs...)
			binary := tpaBench(t)
			n := testnet.New(t)
			client, server := n.Host("client"), n.Host("server")
			_, si := n.Connect(client, server, testnet.Wire{})
			if !w.shared {
				si.Release()
			}
			args := []string{"--transport", "kernel"}
			if w.device != "" {
				args = []string{"--transport", "accel", "--dev", w.device, "--ip", si.IPv4.String() + "," + si.IPv6.String()}
			}
			for _, addr := range []netip.Addr{si.IPv4.Addr(), si.IPv6.Addr()} {
				t.Run(map[bool]string{true: "IPv4", false: "IPv6"}[addr.Is4()], func(t *testing.T) {
					f(t, client, func(protocol string) netip.AddrPort {
						t.Helper()
						listen := netip.AddrPortFrom(addr, 6379)
						startServer(t, server, binary, append([]string{"serve", "--protocol", protocol, "--listen", listen.String()}, args...))
						return listen
					})
				})
			}
		})
	}
}

// startServer runs tpa-bench serve until the test ends, when it must end well.
func startServer(t *testing.T, host *testnet.Host, binary string, args []string) {
	t.Helper()
	cmd := host.Command(binary, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			lines <- s.Text()
		}
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		go func() {
			for range lines {
			}
		}()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %v\n%s", args, err, &stderr)
			}
		case <-time.After(testTimeout):
			cmd.Process.Kill()
			t.Errorf("%v did not end on SIGTERM", args)
		}
	})
	select {
	case line, ok := <-lines:
		if !ok || !strings.HasPrefix(line, "ready: ") {
			t.Fatalf("%v said %q, want that it is ready\n%s", args, line, &stderr)
		}
	case <-time.After(testTimeout):
		t.Fatalf("%v is not ready after %v", args, testTimeout)
	}
}

// benchDir holds the binary for all tests of the package; TestMain removes it.
var benchDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tpa-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	benchDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var buildBench = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(benchDir, "tpa-bench")
	args := []string{"build", "-o", binary}
	if testnet.DPDK.Probe() == nil {
		args = append(args, "-tags", "dpdk")
	}
	out, err := exec.Command("go", append(args, "github.com/gotpa/tpa/cmd/tpa-bench")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tpa-bench: %w\n%s", err, out)
	}
	return binary, nil
})

// tpaBench returns the path of tpa-bench, built with DPDK where there is one.
func tpaBench(t *testing.T) string {
	t.Helper()
	binary, err := buildBench()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// run returns what a tool prints, without the last newline.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func TestRedisCLI(t *testing.T) {
	overWires(t, "redis-cli", func(t *testing.T, client *testnet.Host, serve func(string) netip.AddrPort) {
		addr := serve("resp")
		cli := func(args ...string) *exec.Cmd {
			return client.Command("redis-cli", append([]string{"-h", addr.Addr().String()}, args...)...)
		}
		for _, tt := range []struct{ command, want string }{
			{"PING", "PONG"},
			{"GET nothing", ""},
			{"SET key value", "OK"},
			{"GET key", "value"},
			{"DEL key", "1"},
			{"INCR counter", "1"},
			{"INCR counter", "2"},
			{"MSET a 1 b 2", "OK"},
			{"MGET a b c", "1\n2\n"},
			{"LPUSH list x y z", "3"},
			{"LRANGE list 0 -1", "z\ny\nx"},
		} {
			if got := run(t, cli(strings.Fields(tt.command)...)); got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.command, got, tt.want)
			}
		}
		// A value of many segments, there and back.
		want := bytes.ReplaceAll(pattern(3<<20), []byte("\n"), []byte(" "))
		set := cli("-x", "SET", "big")
		set.Stdin = bytes.NewReader(want)
		if got := run(t, set); got != "OK" {
			t.Fatalf("SET of %d bytes: %q", len(want), got)
		}
		if got := run(t, cli("GET", "big")); got != string(want) {
			t.Errorf("GET: %d bytes that differ from the %d set", len(got), len(want))
		}
		// One connection, many commands.
		many := cli()
		many.Stdin = strings.NewReader(strings.Repeat("INCR many\n", 1000))
		if lines := strings.Split(run(t, many), "\n"); len(lines) != 1000 || lines[999] != "1000" {
			t.Errorf("1000 INCR: %d replies, the last is %q", len(lines), lines[len(lines)-1])
		}
	})
}

func TestRedisBenchmark(t *testing.T) {
	overWires(t, "redis-benchmark", func(t *testing.T, client *testnet.Host, serve func(string) netip.AddrPort) {
		addr := serve("resp")
		const requests = 3200 // a multiple of the depths
		host := addr.Addr().String()
		for i, depth := range []string{"1", "16"} {
			out := run(t, client.Command("redis-benchmark", "-h", host, "-t", "ping,set,get,incr,lpush,lrange,mset",
				"-n", fmt.Sprint(requests), "-c", "20", "-P", depth, "--csv"))
			for _, test := range []string{"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH",
				"LRANGE_100", "LRANGE_300", "LRANGE_500", "LRANGE_600", "MSET"} {
				if !regexp.MustCompile(`(?m)^"` + test + `( \(.*\))?","[0-9.]+"`).MatchString(out) {
					t.Errorf("-P %s: no result for %s in\n%s", depth, test, out)
				}
			}
			if strings.Contains(out, "Error") {
				t.Errorf("-P %s: %s", depth, out)
			}
			// It does not look at replies, but each INCR must have counted once.
			want := fmt.Sprint(requests * (i + 1))
			if got := run(t, client.Command("redis-cli", "-h", host, "GET", "counter:__rand_int__")); got != want {
				t.Errorf("-P %s: the counter is %q, want %s", depth, got, want)
			}
		}
	})
}

func TestCurl(t *testing.T) {
	overWires(t, "curl", func(t *testing.T, client *testnet.Host, serve func(string) netip.AddrPort) {
		url := "http://" + serve("http").String() + "/"
		first := run(t, client.Command("curl", "-sS", "--max-time", "20", "-w", "|%{http_code} %{size_download}", url))
		page, status, _ := strings.Cut(first, "|")
		if status != "200 64" || len(page) != 64 {
			t.Errorf("got %d bytes, status and size %q; want 64, 200 64", len(page), status)
		}
		// Twenty pages over one connection.
		args := []string{"-sS", "--max-time", "20", "-w", "|%{num_connects};"}
		for range 20 {
			args = append(args, url)
		}
		pages := strings.Split(strings.TrimSuffix(run(t, client.Command("curl", args...)), ";"), ";")
		connects := 0
		for _, p := range pages {
			body, n, _ := strings.Cut(p, "|")
			if body != page {
				t.Errorf("got %q, want %q", body, page)
			}
			if n == "1" {
				connects++
			}
		}
		if len(pages) != 20 || connects != 1 {
			t.Errorf("%d pages over %d connections, want 20 over 1", len(pages), connects)
		}
		if out := run(t, client.Command("curl", "-sS", "--max-time", "20", "--http1.0", "-I", url)); !strings.Contains(out, " 200 ") {
			t.Errorf("HEAD by HTTP/1.0: %q", out)
		}
	})
}

func TestWrk(t *testing.T) {
	overWires(t, "wrk", func(t *testing.T, client *testnet.Host, serve func(string) netip.AddrPort) {
		out := run(t, client.Command("wrk", "-t1", "-c20", "-d1s", "http://"+serve("http").String()+"/"))
		requests := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out)
		if requests == nil || requests[1] == "0" || strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
			t.Errorf("wrk:\n%s", out)
		}
	})
}
