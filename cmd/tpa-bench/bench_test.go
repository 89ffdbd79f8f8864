package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/load"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/report"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
	"github.com/gotpa/tpa/internal/testnet"
)

// TestMain lets this test program be tpa-bench, also for the children of compare.
func TestMain(m *testing.M) {
	if os.Getenv("TPA_TEST_BENCH_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// bench is a run of the program.
type bench struct {
	*exec.Cmd
	stdout bytes.Buffer
	stderr watched
}

// watched is a buffer that tells when something is written.
type watched struct {
	mu sync.Mutex
	// mu guards the following fields
	buf     bytes.Buffer
	written chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.written <- struct{}{}:
	default:
	}
	return w.buf.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// start starts the program, and has it killed at the end of the test.
func start(t *testing.T, args ...string) *bench {
	t.Helper()
	b := &bench{Cmd: exec.Command(os.Args[0], args...)}
	b.stderr.written = make(chan struct{}, 1)
	b.Env = append(os.Environ(), "TPA_TEST_BENCH_MAIN=1")
	b.Stdout, b.Stderr = &b.stdout, &b.stderr
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Process.Kill() })
	return b
}

// status waits for the program and returns its exit status.
func (b *bench) status(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { b.Process.Kill() })
	defer timer.Stop()
	err := b.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	}
	t.Fatalf("%v: %v\n%s", b.Args[1:], err, b.stderr.String())
	return -1
}

// serving starts a server and returns it with its address.
func serving(t *testing.T, args ...string) (b *bench, addr string) {
	t.Helper()
	b = &bench{Cmd: exec.Command(os.Args[0], append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)}
	b.Env = append(os.Environ(), "TPA_TEST_BENCH_MAIN=1")
	b.Stderr = &b.stderr
	out, err := b.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("no line of the server: %v\n%s", err, b.stderr.String())
	}
	var protocol string
	if _, err := fmt.Sscanf(line, "ready: %s on %s (kernel)\n", &protocol, &addr); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return b, addr
}

func TestServe(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		b, addr := serving(t, "--protocol", "echo")
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		b.Process.Signal(sig)
		if got := b.status(t); got != 0 || b.stderr.String() != "" {
			t.Errorf("%v: exit status %d, standard error %q, want 0 and nothing", sig, got, b.stderr.String())
		}
		c.Close()
	}
}

// TestUsage wants exit status 2 and one line that says what is wrong.
func TestUsage(t *testing.T) {
	tests := []struct {
		args string
		want string // part of the line
	}{
		{"serve --protocol gopher", `unknown protocol "gopher": want one of resp, echo, discard, digest, http`},
		{"serve --transport udp", `unknown transport "udp": want kernel or accel`},
		{"serve now", `serve takes no arguments: "now"`},
		{"run --workload sleep", `unknown workload "sleep": want one of get,`},
		{"run --conns 0", "0 connections: want 1 to"},
		{"run --conns many", "invalid argument"},
		{"run --duration 0s", "a duration of 0s: want more than 0"},
		{"run --threads -1", "--threads -1: want 1 to 1024"},
		{"run -o html", `unknown output format "html": want one of table, json, csv, hdr, benchstat`},
		{"run --nothing", "unknown flag: --nothing"},
		{"compare --transports kernel,kernel", "--transports names kernel twice"},
		{"compare --transports udp", `unknown transport "udp"`},
		{"compare --link wifi", `unknown link "wifi": want one of memif, xdp, packet`},
		{"compare --client kernel", "the kernel has no memif"},
		{"compare --link xdp --client udp", `unknown transport "udp"`},
		{"compare --server nginx", `unknown server "nginx": want redis`},
		{"compare --server redis --workload rr", "want a workload of Redis"},
		{"compare --mtu 10", "--mtu 10: want 68 to 65389 bytes"},
		{"compare --rounds 0", "--rounds 0: want 1 to 1000"},
		{"compare --dev eth0", "--dev: compare sets that itself for each side"},
		{"compare --server-cpus 4711", "CPU 4711 is none that this process may use"},
		{"run --arrivals poisson", "random arrivals in a closed loop"},
		{"run --rate 10 --schedule 10:1s", "a rate and a schedule"},
		{"run --schedule 10", "want requests per second and a time"},
		{"run --schedule 0:1s", "want requests per second and a time"},
		{"run --rate 10 --arrivals late", "want even or poisson"},
		{"plot", "accepts 1 arg(s), received 0"},
		{"plot -o gif x", `unknown output format "gif"`},
	}
	for _, tt := range tests {
		b := start(t, strings.Fields(tt.args)...)
		if got := b.status(t); got != exitUsage {
			t.Errorf("%s: exit status %d, want %d", tt.args, got, exitUsage)
		}
		oneSentence(t, tt.args, b.stderr.String(), tt.want)
	}
}

// oneSentence wants standard error to be one line with want in it.
func oneSentence(t *testing.T, what, stderr, want string) {
	t.Helper()
	if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "tpa-bench: ") || !strings.Contains(stderr, want) {
		t.Errorf("%s: standard error\n%s\nwant one line with %q", what, stderr, want)
	}
}

func TestFailures(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := ln.Addr().String()
	defer ln.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close() // nobody listens there now
	tests := [][]string{
		// what is wrong, the arguments
		{"connection refused", "run", "--addr", free.Addr().String()},
		{"address already in use", "serve", "--listen", taken},
		{"no such file", "plot", "/nonexistent/results.json"},
		{"not the results of run or compare -o json", "plot", os.Args[0]},
		{"no device", "serve", "--transport", "accel"},
		{"no device", "run", "--transport", "accel"},
		{"TPA_QUEUES", "serve", "--transport", "accel", "--queues", "x"},
		{"no such file", "compare", "--transports", "kernel", "--rounds", "1", "--duration", "50ms", "--warmup", "0s", "-q", "--out", "/nonexistent/out"},
	}
	if transport.DPDKVersion() == "none" {
		tests = append(tests, []string{"-tags dpdk", "compare"})
	}
	for _, tt := range tests {
		b := start(t, tt[1:]...)
		if got := b.status(t); got != exitFailed {
			t.Errorf("%v: exit status %d, want %d", tt[1:], got, exitFailed)
		}
		oneSentence(t, fmt.Sprint(tt[1:]), b.stderr.String(), tt[0])
	}
}

func TestRun(t *testing.T) {
	server, addr := serving(t)
	file := filepath.Join(t.TempDir(), "run.json")
	b := start(t, "run", "--addr", addr, "--conns", "4", "--duration", "300ms", "--warmup", "50ms", "--verify", "--threads", "1",
		"--server-pid", strconv.Itoa(server.Process.Pid), "-o", "json", "--out", file)
	if got := b.status(t); got != 0 {
		t.Fatalf("exit status %d\n%s", got, b.stderr.String())
	}
	if out := b.stdout.String(); !strings.Contains(out, "requests/s") || !strings.Contains(out, "p99.9") {
		t.Errorf("standard output has no table:\n%s", out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Run
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	if r.Transport != "kernel" || r.Conns != 4 || r.Requests == 0 || r.RPS <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P999 ||
		r.ClientCPU <= 0 || r.ServerCPU <= 0 || r.Errors != 0 || r.Seconds < 0.3 {
		t.Errorf("run %+v", r)
	}
}

// TestRunErrors runs GETs against an echo server.
func TestRunErrors(t *testing.T) {
	_, addr := serving(t, "--protocol", "echo")
	b := start(t, "run", "--addr", addr, "--conns", "2", "--duration", "100ms", "--warmup", "0s", "-q", "-o", "json")
	if got := b.status(t); got != exitFailed {
		t.Errorf("exit status %d, want %d", got, exitFailed)
	}
	oneSentence(t, "GETs to an echo server", b.stderr.String(), "does not answer the request")
}

// TestRunInterrupted presses Ctrl-C.
func TestRunInterrupted(t *testing.T) {
	_, addr := serving(t)
	b := start(t, "run", "--addr", addr, "--conns", "2", "--duration", "1h", "--warmup", "0s", "-o", "json")
	<-b.stderr.written // the first live line
	b.Process.Signal(os.Interrupt)
	if got := b.status(t); got != 0 {
		t.Errorf("exit status %d\n%s", got, b.stderr.String())
	}
	var r report.Run
	if err := json.Unmarshal(b.stdout.Bytes(), &r); err != nil || !r.Interrupted || r.Requests == 0 {
		t.Errorf("run %+v, %v", r, err)
	}
}

// readOne reads the results of one setting.
func readOne(r io.Reader) (*report.Comparison, error) {
	all, err := report.Read(r)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%d results, want 1", len(all))
	}
	return all[0], nil
}

func compareArgs(transports string, more ...string) []string {
	return append([]string{"compare", "--transports", transports, "--conns", "4", "--duration", "500ms", "--warmup", "50ms", "--rounds", "2"}, more...)
}

func needTwoCPUs(t *testing.T) {
	t.Helper()
	if _, err := choosePins(nil, nil); err != nil {
		if os.Getenv("TPA_TEST_STRICT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestCompare runs the kernel against itself and plots the results.
func TestCompare(t *testing.T) {
	needTwoCPUs(t)
	for _, w := range load.Workloads {
		t.Run(w.Name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "results.json")
			b := start(t, compareArgs("kernel", "--workload", w.Name, "-o", "json", "--out", file)...)
			if got := b.status(t); got != 0 {
				t.Fatalf("exit status %d\n%s", got, b.stderr.String())
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c, err := readOne(f)
			if err != nil {
				t.Fatal(err)
			}
			k := c.Transports["kernel"]
			if c.Workload != w.Name || c.Rounds != 2 || len(c.Runs) != 2 || c.Ratio != nil || k.RPS <= 0 || k.Errors != 0 || k.ServerCPU <= 0 || k.ClientCPU <= 0 {
				t.Errorf("comparison %+v", c)
			}
			if w.Name != "get" {
				return
			}
			for format, want := range map[string]string{"html": "<!DOCTYPE html>", "table": "requests/s", "benchstat": "BenchmarkGet/", "json": "{"} {
				p := start(t, "plot", file, "-o", format)
				if got := p.status(t); got != 0 || !strings.Contains(p.stdout.String(), want) {
					t.Errorf("plot -o %s: exit status %d, %.80q\n%s", format, got, p.stdout.String(), p.stderr.String())
				}
			}
		})
	}
}

// TestSweep runs two workloads with two numbers of connections, until each has its
// requests, by the flags of redis-benchmark.
func TestSweep(t *testing.T) {
	_, addr := serving(t)
	b := start(t, "run", "--addr", addr, "-t", "get,set", "-c", "1,2", "-n", "100", "-d", "10", "-P", "2", "--warmup", "0s", "-q", "--csv", "--slo", "rps>1,max<1h")
	if got := b.status(t); got != exitOK {
		t.Fatalf("exit status %d\n%s", got, b.stderr.String())
	}
	lines, err := csv.NewReader(&b.stdout).ReadAll()
	if err != nil || len(lines) != 5 {
		t.Fatalf("%d lines, %v, want 5", len(lines), err)
	}
	for i, want := range [][]string{{"get", "1", "10", "2"}, {"get", "2", "10", "2"}, {"set", "1", "10", "2"}, {"set", "2", "10", "2"}} {
		if got := lines[i+1][2:6]; !slices.Equal(got, want) {
			t.Errorf("line %d is of %q, want %q", i+1, got, want)
		}
		if n, _ := strconv.Atoi(lines[i+1][8]); n < 100 {
			t.Errorf("line %d: %d requests, want 100", i+1, n)
		}
	}
	b = start(t, "run", "--addr", addr, "-n", "10", "--warmup", "0s", "-q", "--slo", "max<1ns")
	if got := b.status(t); got != exitSLO {
		t.Errorf("exit status %d for a broken bound, want %d\n%s", got, exitSLO, b.stderr.String())
	}
	oneSentence(t, "a broken bound", b.stderr.String(), "max<1ns is broken by get, 50 connections")
}

// TestPlotAndDiffOfRun has run's own results shown again.
func TestPlotAndDiffOfRun(t *testing.T) {
	_, addr := serving(t)
	file := filepath.Join(t.TempDir(), "run.json")
	b := start(t, "run", "--addr", addr, "-c", "1", "-n", "100", "--warmup", "0s", "-q", "-o", "json", "--out", file)
	if got := b.status(t); got != exitOK {
		t.Fatalf("exit status %d\n%s", got, b.stderr.String())
	}
	for _, tt := range [][]string{{"<!DOCTYPE html>", "plot", file}, {"requests/s", "diff", file, file}} {
		p := start(t, tt[1:]...)
		if got := p.status(t); got != exitOK || !strings.Contains(p.stdout.String(), tt[0]) {
			t.Errorf("%q: exit status %d, %.80q\n%s", tt[1:], got, p.stdout.String(), p.stderr.String())
		}
	}
}

// TestCompareRedis runs a real redis-server beside the kernel's rounds.
func TestCompareRedis(t *testing.T) {
	needTwoCPUs(t)
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip(err)
	}
	b := start(t, compareArgs("kernel", "--server", "redis", "--rounds", "1", "-q", "-o", "json")...)
	if got := b.status(t); got != 0 {
		t.Fatalf("exit status %d\n%s", got, b.stderr.String())
	}
	c, err := readOne(&b.stdout)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Names(), []string{"kernel", "redis"}; !slices.Equal(got, want) {
		t.Fatalf("columns %v, want %v", got, want)
	}
	if r := c.Transports["redis"]; r.RPS <= 0 || r.Errors != 0 || r.ServerCPU <= 0 {
		t.Errorf("redis %+v", r)
	}
}

func TestCompareWithoutRedis(t *testing.T) {
	needTwoCPUs(t)
	t.Setenv("PATH", "")
	b := start(t, "compare", "--transports", "kernel", "--server", "redis")
	if got := b.status(t); got != exitFailed {
		t.Errorf("exit status %d, want %d", got, exitFailed)
	}
	oneSentence(t, "compare", b.stderr.String(), "needs redis-server in PATH (Debian: apt-get install redis-server)")
}

// compareBoth compares both transports in one round. While other processes have the
// processors, hardly anything may be answered in the time that it measures: it then
// measures for longer.
func compareBoth(t *testing.T, flags ...string) *report.Comparison {
	t.Helper()
	for duration := 500 * time.Millisecond; ; duration *= 4 {
		last := duration > 5*time.Second
		args := append([]string{"--rounds", "1", "--duration", duration.String(), "-q", "-o", "json"}, flags...)
		b := start(t, compareArgs("kernel,accel", args...)...)
		got := b.status(t)
		if got != 0 && !last && strings.Contains(b.stderr.String(), "no request was answered") {
			continue
		}
		if got != 0 {
			t.Fatalf("exit status %d\n%s", got, b.stderr.String())
		}
		c, err := readOne(&b.stdout)
		if err != nil {
			t.Fatal(err)
		}
		few := func(r report.Run) bool { return r.Requests < 100 }
		if last || !slices.ContainsFunc(c.Runs, few) {
			return c
		}
	}
}

// TestCompareAccel runs both transports, the accelerated one over a memif pair.
func TestCompareAccel(t *testing.T) {
	needTwoCPUs(t)
	if transport.DPDKVersion() == "none" {
		t.Skip("this program was built without DPDK: go test -tags dpdk")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	runs := []string{
		"get --handler coroutine", "get --handler callback", "get --checksum no", "crr --checksum no", "read --mtu 9000", "write --mtu 9000 --checksum no",
	}
	for _, w := range load.Workloads {
		runs = append(runs, w.Name)
	}
	for _, flags := range runs {
		t.Run(flags, func(t *testing.T) {
			c := compareBoth(t, strings.Fields("--workload "+flags)...)
			a := c.Transports["accel"]
			if c.Ratio == nil || c.Ratio.RPS <= 0 || a.RPS <= 0 || a.Errors != 0 || a.ServerCPU <= 0 || a.ClientCPU <= 0 || c.Machine.DPDK != transport.DPDKVersion() {
				t.Errorf("comparison %+v", c)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCompareXDP runs both transports over a veth pair, by both ways to share it and
// with both kinds of client.
func TestCompareXDP(t *testing.T) {
	needTwoCPUs(t)
	testnet.Need(t, testnet.Root, testnet.Netns)
	for _, tt := range []struct{ link, client, workload, conditions string }{
		{"xdp", "kernel", "get", "accel on AF_XDP with clients of the kernel"},
		{"xdp", "accel", "get", "accel on AF_XDP at both ends"},
		{"xdp", "kernel", "read", ""},
		{"xdp", "kernel", "crr", ""},
		{"packet", "kernel", "get", "accel on packet sockets with clients of the kernel"},
		{"packet", "kernel", "read", ""},
	} {
		t.Run(tt.link+" "+tt.client+" "+tt.workload, func(t *testing.T) {
			c := compareBoth(t, "--link", tt.link, "--client", tt.client, "--workload", tt.workload)
			a, k := c.Transports["accel"], c.Transports["kernel"]
			if c.Ratio == nil || a.RPS <= 0 || k.RPS <= 0 || a.Errors+k.Errors != 0 || c.Link != tt.link || c.Client != tt.client || !strings.Contains(c.Conditions(), tt.conditions) {
				t.Errorf("comparison %+v", c)
			}
		})
	}
}

// TestCompareXDPKilled kills compare by SIGKILL: its namespaces go with its
// children.
func TestCompareXDPKilled(t *testing.T) {
	needTwoCPUs(t)
	testnet.Need(t, testnet.Root, testnet.Netns)
	b := start(t, compareArgs("accel", "--link", "xdp", "--duration", "1h", "-q")...)
	pids := serverAndClient(t, b)
	var inside []string
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			t.Fatal(err)
		}
		inside = append(inside, ns)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil || slices.Contains(inside, own) || inside[0] == inside[1] {
		t.Errorf("server and client are in %v, the test in %s, %v", inside, own, err)
	}
	b.Process.Kill()
	b.Wait()
	waitGone(t, pids)
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if ns, _ := os.Readlink(path); slices.Contains(inside, ns) {
			t.Errorf("%s still is in a namespace of the comparison", path)
		}
	}
}

// TestCompareXDPNeedsRoot asks for namespaces as nobody.
func TestCompareXDPNeedsRoot(t *testing.T) {
	needTwoCPUs(t)
	b := &bench{Cmd: exec.Command(os.Args[0], "compare", "--link", "xdp")}
	if os.Geteuid() == 0 {
		testnet.Need(t, testnet.Tool("setpriv"))
		b.Cmd = exec.Command("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", os.Args[0], "compare", "--link", "xdp")
	}
	b.Env = append(os.Environ(), "TPA_TEST_BENCH_MAIN=1")
	b.Stdout, b.Stderr = &b.stdout, &b.stderr
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	if got := b.status(t); got != exitFailed {
		t.Errorf("exit status %d, want %d", got, exitFailed)
	}
	oneSentence(t, "without privileges", b.stderr.String(), "run it as root")
}

// children returns the processes that a process has started.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread is gone
		}
		for _, f := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}

// serverAndClient waits until a compare has both its children.
func serverAndClient(t *testing.T, b *bench) []int {
	t.Helper()
	if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children"); err != nil {
		t.Skip("this kernel does not list children")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if pids := children(t, b.Process.Pid); len(pids) == 2 {
			slices.Sort(pids) // the server is older
			return pids
		}
		if time.Now().After(deadline) {
			t.Fatalf("no server and client\n%s", b.stderr.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func waitGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for _, pid := range pids {
		for syscall.Kill(pid, 0) == nil {
			if time.Now().After(deadline) {
				syscall.Kill(pid, syscall.SIGKILL)
				t.Fatalf("child %d is still alive", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// TestCompareInterrupted presses Ctrl-C in the first round.
func TestCompareInterrupted(t *testing.T) {
	needTwoCPUs(t)
	b := start(t, compareArgs("kernel", "--duration", "1h", "--warmup", "0s", "-o", "json")...)
	pids := serverAndClient(t, b)
	<-b.stderr.written // the first live line
	b.Process.Signal(os.Interrupt)
	if got := b.status(t); got != 0 {
		t.Errorf("exit status %d\n%s", got, b.stderr.String())
	}
	c, err := readOne(&b.stdout)
	if err != nil || len(c.Runs) != 1 || !c.Runs[0].Interrupted || c.Runs[0].Requests == 0 {
		t.Errorf("comparison %+v, %v", c, err)
	}
	waitGone(t, pids)
}

// TestCompareKilled kills compare by SIGKILL: nobody may stay behind.
func TestCompareKilled(t *testing.T) {
	needTwoCPUs(t)
	t.Setenv("TMPDIR", t.TempDir()) // compare cannot clean up
	b := start(t, compareArgs("kernel", "--duration", "1h", "-q")...)
	pids := serverAndClient(t, b)
	b.Process.Kill()
	b.Wait()
	waitGone(t, pids)
}

// TestChildDies kills the server, or the client, in mid-round.
func TestChildDies(t *testing.T) {
	needTwoCPUs(t)
	for i, who := range []string{"server", "client"} {
		b := start(t, compareArgs("kernel", "--duration", "1h", "-q")...)
		pids := serverAndClient(t, b)
		syscall.Kill(pids[i], syscall.SIGKILL)
		if got := b.status(t); got != exitFailed {
			t.Errorf("%s killed: exit status %d, want %d", who, got, exitFailed)
		}
		oneSentence(t, who+" killed", b.stderr.String(), "the kernel "+who+" ended (signal: killed)")
		waitGone(t, pids)
	}
}

// TestHelp wants the one table of device flags in the help of each command that
// can have a device.
func TestHelp(t *testing.T) {
	for _, cmd := range []string{"serve", "run", "compare"} {
		b := start(t, cmd, "--help")
		if got := b.status(t); got != 0 {
			t.Errorf("%s --help: exit status %d", cmd, got)
		}
		if out := b.stdout.String(); !strings.Contains(out, deviceHelp()) {
			t.Errorf("%s --help lacks the table of device flags:\n%s", cmd, out)
		}
	}
	for _, f := range deviceFlags {
		if !strings.HasPrefix(f.env, "TPA_") {
			t.Errorf("--%s stands for %s", f.name, f.env)
		}
	}
}
