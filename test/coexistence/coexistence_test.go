// Package coexistence shows that a program that shares an interface with the
// kernel takes its own flows and nothing else, whatever happens to it. It holds
// tests only: the server runs in a process and a network namespace of its own,
// with one veth pair to its clients.
package coexistence

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/xdp"
	"github.com/tidwall/redcon"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain turns the test binary into the server.
func TestMain(m *testing.M) {
	if addr := os.Getenv("COEXISTENCE_SERVE"); addr != "" {
		if err := serve(addr, os.Getenv("COEXISTENCE_DIAL")); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playRules plays a device with flow rules on an interface, see rules_test.go.
var playRules func(name string) (applied func(), err error)

// serve answers Redis commands on an accelerated listener; see answer.
// It says on standard output how it serves. SIGTERM closes the listener, and the
// server ends when the last connection has. With dial set, each command is
// forwarded to that address first.
func serve(addr, dial string) error {
	applied := func() {}
	if name := os.Getenv("COEXISTENCE_RULES"); name != "" {
		var err error
		if applied, err = playRules(name); err != nil {
			return err
		}
	}
	ln, err := accel.Listen("tcp", addr)
	if err != nil {
		return err
	}
	applied()
	rt, err := accel.Default()
	if err != nil {
		return err
	}
	accelerated, why := rt.Accelerated()
	var conns sync.WaitGroup
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	var closing atomic.Bool
	go func() {
		<-sig
		closing.Store(true)
		ln.Close()
		fmt.Println("closed")
	}()
	fmt.Printf("serving: accelerated %v (%v)\n", accelerated, why)
	for {
		c, err := ln.Accept()
		if closing.Load() {
			break
		}
		if err != nil {
			return err
		}
		conns.Add(1)
		go func() {
			defer conns.Done()
			defer c.Close()
			answer(c, dial)
		}()
	}
	conns.Wait()
	return rt.Close()
}

const port = 6379

// A site is a server host and a client host.
type site struct {
	*testing.T
	client, server *testnet.Host
	ci, si         *testnet.Interface
}

func newSite(t *testing.T, w testnet.Wire) *site {
	t.Helper()
	testnet.Need(t, testnet.Root)
	n := testnet.New(t)
	s := &site{T: t, client: n.Host("client"), server: n.Host("server")}
	s.ci, s.si = n.Connect(s.client, s.server, w)
	return s
}

// A process is a running server.
type process struct {
	*exec.Cmd
	site  *site
	lines chan string
	log   logged // of standard error
}

// A logged is what was written, for any goroutine.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (j *logged) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *logged) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// start starts a server, and waits until it serves.
func (s *site) start(port int, env ...string) *process {
	s.Helper()
	p := s.launch(port, env...)
	if line := p.line(); line != "serving: accelerated true (<nil>)" {
		s.Fatalf("the server says %q", line)
	}
	return p
}

func (s *site) launch(port int, env ...string) *process {
	s.Helper()
	return s.run(s.server.Command(os.Args[0]), port, env...)
}

// run starts a server by a command.
func (s *site) run(cmd *exec.Cmd, port int, env ...string) *process {
	s.Helper()
	p := &process{Cmd: cmd, site: s, lines: make(chan string, 16)}
	p.Env = append(append(os.Environ(), "TPA_DEV="+s.si.Name, "TPA_FALLBACK=never",
		fmt.Sprintf("COEXISTENCE_SERVE=:%d", port)), env...)
	p.Stderr = io.MultiWriter(os.Stderr, &p.log)
	out, err := p.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := p.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			p.lines <- sc.Text()
		}
	}()
	return p
}

func (p *process) line() string {
	p.site.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.site.Fatal("the server ended without a word")
		}
		return line
	case <-time.After(20 * time.Second):
		p.site.Fatal("the server says nothing for 20 s")
	}
	return ""
}

// kill ends the server with SIGKILL.
func (p *process) kill() {
	p.site.Helper()
	if err := p.Process.Kill(); err != nil {
		p.site.Fatal(err)
	}
	p.Wait()
}

func (p *process) terminate() {
	p.site.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		p.site.Fatal(err)
	}
}

// dial connects from a host.
func dial(h *testnet.Host, addr string) (c net.Conn, err error) {
	h.Do(func() { c, err = net.DialTimeout("tcp", addr, 10*time.Second) })
	return c, err
}

func at(i *testnet.Interface, port int) (v4, v6 string) {
	return netip.AddrPortFrom(i.IPv4.Addr(), uint16(port)).String(), netip.AddrPortFrom(i.IPv6.Addr(), uint16(port)).String()
}

// ping sends a command and checks the answer.
func ping(c net.Conn) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return err
	}
	b := make([]byte, 7)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "+PONG\r\n" {
		return fmt.Errorf("got %q, want +PONG", b)
	}
	return nil
}

// served connects and sends one command.
func (s *site) served(addr string) error {
	c, err := dial(s.client, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return ping(c)
}

// eventually retries until f succeeds, and returns how long that took.
func (s *site) eventually(what string, f func() error) time.Duration {
	s.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > time.Minute {
			s.Fatalf("%s: %v after a minute", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// resets returns how many segments with RST the server's kernel has sent.
func (s *site) resets() int {
	s.Helper()
	out, err := s.server.Command("cat", "/proc/net/snmp").Output()
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "OutRsts" {
				n, err := strconv.Atoi(fields[i])
				if err != nil {
					s.Fatal(err)
				}
				return n
			}
		}
	}
	s.Fatal("no OutRsts in /proc/net/snmp")
	return 0
}

// attached tells whether a program is attached to the server's interface, as XDP
// or behind it.
func (s *site) attached() bool {
	s.Helper()
	l, err := s.server.Netlink.LinkByName(s.si.Name)
	if err != nil {
		s.Fatal(err)
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return true
	}
	var behind *link.QueryResult
	s.server.Do(func() {
		behind, err = link.QueryPrograms(link.QueryOptions{Target: s.si.Index, Attach: ebpf.AttachTCXIngress})
	})
	if err != nil {
		s.Fatal(err)
	}
	return len(behind.Programs) > 0
}

// A load keeps connections busy until stop.
type load struct {
	cancel   context.CancelFunc
	running  sync.WaitGroup
	requests atomic.Int64
	failures atomic.Int64
	last     atomic.Value // error
}

// load runs request on each of n connections to addr, and connects again when one
// fails.
func (s *site) load(h *testnet.Host, n int, addr string, request func(net.Conn) error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range n {
		l.running.Go(func() {
			var c net.Conn
			for ctx.Err() == nil {
				var err error
				if c == nil {
					if c, err = dial(h, addr); err != nil {
						c = nil
					}
				}
				if err == nil {
					// A peer that is dead leaves us waiting until the next keep-alive.
					stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
					err = request(c)
					stop()
				}
				if err != nil && ctx.Err() != nil {
					break
				}
				if err != nil {
					l.failures.Add(1)
					l.last.Store(err.Error())
					if c != nil {
						c.Close()
						c = nil
					}
					time.Sleep(time.Millisecond)
					continue
				}
				l.requests.Add(1)
			}
			if c != nil {
				c.Close()
			}
		})
	}
	s.Cleanup(l.stop)
	return l
}

// ask is load for one goroutine with a request that has its own connections.
func (s *site) ask(request func() error) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	l.running.Go(func() {
		for ctx.Err() == nil {
			if err := request(); err != nil {
				l.failures.Add(1)
				l.last.Store(err.Error())
				time.Sleep(time.Millisecond)
				continue
			}
			l.requests.Add(1)
		}
	})
	s.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.running.Wait()
}

// ok fails the test when requests failed.
func (l *load) ok(t *testing.T, what string) {
	t.Helper()
	if n := l.failures.Load(); n > 0 {
		t.Errorf("%s: %d of %d requests failed, the last one with: %v", what, n, n+l.requests.Load(), l.last.Load())
	}
}

// TestCoexistence: the kernel serves HTTP, a neighbouring port, UDP, pings and its
// own outbound connections on the interface and the addresses of an accelerated
// server that is started, loaded by redis-benchmark, stopped, killed and started
// again. None of the kernel's requests fails, and the kernel resets none of the
// server's connections while the server lives.
func TestCoexistence(t *testing.T) {
	kernelRequests := int64(100_000)
	if testing.Short() {
		kernelRequests = 10_000
	}
	s := newSite(t, testnet.Wire{})
	testnet.Need(t, testnet.Tool("ping"), testnet.Tool("redis-benchmark"))
	neighbour4, neighbour6 := at(s.si, port+1)
	outbound4, outbound6 := at(s.ci, 8000)
	server4, server6 := at(s.si, port)
	echoServer(t, s.server, fmt.Sprintf(":%d", port+1))
	echoServer(t, s.client, ":8000")
	kernel := map[string]*load{
		"neighbouring port, IPv4": s.load(s.client, 4, neighbour4, echo),
		"neighbouring port, IPv6": s.load(s.client, 4, neighbour6, echo),
		"outbound, IPv4":          s.load(s.server, 2, outbound4, echo),
		"outbound, IPv6":          s.load(s.server, 2, outbound6, echo),
		"new connections": s.ask(func() error {
			c, err := dial(s.client, neighbour6)
			if err != nil {
				return err
			}
			defer c.Close()
			return echo(c)
		}),
		"UDP, IPv4":  s.udp(s.si.IPv4.Addr()),
		"UDP, IPv6":  s.udp(s.si.IPv6.Addr()),
		"HTTP, IPv4": s.http(s.si.IPv4.Addr()),
		"HTTP, IPv6": s.http(s.si.IPv6.Addr()),
	}
	var pings []*exec.Cmd
	for _, h := range []struct {
		from *testnet.Host
		to   *testnet.Interface
	}{{s.client, s.si}, {s.server, s.ci}} {
		for _, a := range []netip.Addr{h.to.IPv4.Addr(), h.to.IPv6.Addr()} {
			p := h.from.Command("ping", "-q", "-i", "0.02", "-W", "5", a.String())
			p.Stdout = new(strings.Builder)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			pings = append(pings, p)
		}
	}
	total := func() (n int64) {
		for _, l := range kernel {
			n += l.requests.Load()
		}
		return n
	}

	resets := s.watchResets()
	for round := 0; round < 3 || total() < kernelRequests; round++ {
		resets() // peers of the killed server had some
		start := time.Now()
		p := s.start(port)
		served := []*load{s.load(s.client, 2, server4, ping), s.load(s.client, 2, server6, ping)}
		benchmarks := []*benchmark{s.benchmark(s.si.IPv4.Addr()), s.benchmark(s.si.IPv6.Addr())}
		target := total() + kernelRequests/6
		for served[0].requests.Load() < 500 || served[1].requests.Load() < 500 || total() < target {
			if served[0].failures.Load()+served[1].failures.Load() > 0 || t.Failed() {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		for _, b := range benchmarks {
			b.stop()
		}
		t.Logf("round %d: %v, %d and %d requests served, %d and %d of redis-benchmark", round, time.Since(start),
			served[0].requests.Load(), served[1].requests.Load(), benchmarks[0].requests, benchmarks[1].requests)
		if n := resets(); n != 0 {
			t.Errorf("round %d: the kernel sent %d resets from the server's port while the server lived", round, n)
		}
		if round%2 == 0 {
			for _, l := range served {
				l.ok(t, "accelerated")
			}
			busy := s.benchmark(s.si.IPv4.Addr())
			busy.begun()
			p.kill()
			busy.abort()
			s.eventually("program detached", func() error {
				if s.attached() {
					return errors.New("still attached")
				}
				return nil
			})
		} else {
			for _, l := range served {
				l.stop()
				l.ok(t, "accelerated")
			}
			p.terminate()
			p.Wait()
		}
		for _, l := range served {
			l.stop()
		}
		if round%2 == 0 {
			s.eventually("resets for the peers of the killed server", func() error {
				if resets() == 0 {
					return errors.New("none")
				}
				return nil
			})
		}
		if t.Failed() {
			break
		}
	}
	for what, l := range kernel {
		l.stop()
		l.ok(t, what)
		if l.requests.Load() == 0 {
			t.Errorf("%s: no requests", what)
		}
	}
	for _, p := range pings {
		p.Process.Signal(syscall.SIGINT)
		p.Wait()
		if out := p.Stdout.(*strings.Builder).String(); !strings.Contains(out, " 0% packet loss") {
			t.Errorf("%v: %s", p.Args[3:], out)
		}
	}
	t.Logf("%d requests of the kernel's", total())
}

// TestDial: an accelerated server connects to the client's host, by both IP
// versions, while the kernel does so too.
func TestDial(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	up4, up6 := at(s.ci, 8000)
	var ln net.Listener
	var err error
	s.client.Do(func() { ln, err = net.Listen("tcp", ":8000") })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go redcon.Serve(ln, func(c redcon.Conn, _ redcon.Command) {
		c.WriteString("PONG")
	}, nil, nil)
	addr, _ := at(s.si, port)
	for _, up := range []string{up4, up6} {
		before := s.resets()
		p := s.start(port, "COEXISTENCE_DIAL="+up)
		kernel := s.load(s.server, 1, up, ping)
		l := s.load(s.client, 4, addr, ping)
		s.eventually("requests with an upstream", func() error {
			if n := l.requests.Load(); n < 300 && l.failures.Load() == 0 {
				return fmt.Errorf("%d requests", n)
			}
			return nil
		})
		if n := s.resets() - before; n != 0 {
			t.Errorf("to %s: the kernel sent %d resets", up, n)
		}
		l.stop()
		kernel.stop()
		l.ok(t, "accelerated, to "+up)
		kernel.ok(t, "kernel, to "+up)
		p.terminate()
		p.Wait()
	}
}

// TestTwoServers: servers with different ports are accelerated side by side on one
// interface. A port that one has is refused to the other at once, both ways round.
// None notices when others come, are refused, are loaded and are killed.
func TestTwoServers(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	before := s.resets()
	var ports, servers []int
	var processes []*process
	var loads []*load
	serve := func(port int) {
		t.Helper()
		p := s.start(port)
		processes = append(processes, p)
		ports, servers = append(ports, port), append(servers, p.Process.Pid)
		addr4, addr6 := at(s.si, port)
		loads = append(loads, s.load(s.client, 4, addr4, ping), s.load(s.client, 4, addr6, ping))
	}
	for _, p := range []int{port, port + 1, port + 2} {
		serve(p)
	}
	goOn := func(what string, loads []*load) {
		t.Helper()
		var from []int64
		for _, l := range loads {
			from = append(from, l.requests.Load())
		}
		s.eventually(what, func() error {
			for i, l := range loads {
				if n := l.requests.Load() - from[i]; n < 200 {
					return fmt.Errorf("load %d: %d requests more", i, n)
				}
			}
			return nil
		})
	}
	goOn("three servers", loads)
	for _, p := range ports {
		// The best of some: most of the time is that of a process to start.
		took := time.Hour
		for try := 0; try < 5 && took > time.Second; try++ {
			start := time.Now()
			line := s.launch(p, "TPA_FALLBACK=auto").line()
			took = min(took, time.Since(start))
			if !strings.Contains(line, "address already in use") {
				t.Errorf("another server on port %d says %q", p, line)
			}
		}
		if took > time.Second {
			t.Errorf("port %d was refused after %v, want 1 s", p, took)
		}
		s.server.Do(func() {
			if ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p)); !errors.Is(err, syscall.EADDRINUSE) {
				if err == nil {
					ln.Close()
				}
				t.Errorf("a kernel listener on port %d: %v, want EADDRINUSE", p, err)
			}
		})
	}
	// One that wants AF_XDP and nothing else hears who has it.
	line := s.launch(port+3, "TPA_DEV=xdp:"+s.si.Name).line()
	if !strings.Contains(line, "another process that uses this library") || !strings.Contains(line, fmt.Sprintf("process %d", servers[0])) {
		t.Errorf("a server that insists on AF_XDP says %q, want process %d named", line, servers[0])
	}
	goOn("refused", loads)
	if n := s.resets() - before; n != 0 {
		t.Errorf("the kernel sent %d resets", n)
	}

	// The first goes, with the interface's XDP. The others stay, and the next one
	// has it again.
	for _, l := range loads[:2] {
		l.stop()
		l.ok(t, "the first server")
	}
	processes[0].kill()
	goOn("the first was killed", loads[2:])
	serve(port)
	goOn("the first is back", loads[2:])
	processes[1].kill()
	for _, l := range loads[2:4] {
		l.stop()
	}
	goOn("the second was killed", loads[4:])
	for i, l := range loads[4:] {
		l.stop()
		l.ok(t, fmt.Sprintf("load %d", i+4))
	}
	for _, p := range processes[2:] {
		p.kill()
	}
}

// TestHandOver: a server that has closed its listener finishes the connections
// that it has, while another one has the port for new ones; and the other way
// round, one that starts leaves alone the connections that the kernel has.
func TestHandOver(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	for _, addr := range func() []string { a, b := at(s.si, port); return []string{a, b} }() {
		connect := func() net.Conn {
			t.Helper()
			c, err := dial(s.client, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
			return c
		}
		before := s.resets()
		// The kernel has the port first, by a server without acceleration.
		kernel := s.launch(port, "TPA_FALLBACK=auto", "TPA_DEV=nowhere")
		if line := kernel.line(); !strings.HasPrefix(line, "serving: accelerated false") {
			t.Fatalf("the server says %q", line)
		}
		old := connect()
		kernel.terminate()
		if line := kernel.line(); line != "closed" {
			t.Fatalf("the server says %q", line)
		}
		p := s.start(port)
		conns := []net.Conn{old, connect(), connect()}
		for _, c := range conns {
			if err := ping(c); err != nil {
				t.Errorf("two servers at %s: %v", addr, err)
			}
		}
		// And back: the accelerated one drains.
		p.terminate()
		if line := p.line(); line != "closed" {
			t.Fatalf("the server says %q", line)
		}
		var next *process
		s.eventually("port free", func() error {
			next = s.launch(port, "TPA_FALLBACK=auto", "TPA_DEV=nowhere")
			if line := next.line(); !strings.HasPrefix(line, "serving: accelerated false") {
				return errors.New(line)
			}
			return nil
		})
		for range 100 {
			conns = append(conns, connect())
			for _, c := range conns[:4] {
				if err := ping(c); err != nil {
					t.Fatalf("three servers at %s: %v", addr, err)
				}
			}
		}
		if n := s.resets() - before; n != 0 {
			t.Errorf("the kernel sent %d resets", n)
		}
		for _, c := range conns {
			c.Close()
		}
		p.Wait() // ends by itself with its last connection
		kernel.Wait()
		if s.attached() {
			t.Error("a program stayed attached")
		}
		next.kill()
	}
}

// TestTakeOver: one accelerated server after the other takes the port, each while the
// one before finishes its connections. The interface's XDP goes from one to another,
// too. No connection is lost.
func TestTakeOver(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	before := s.resets()
	addr4, addr6 := at(s.si, port)
	var conns []net.Conn // two of each server
	var servers []*process
	for generation := range 5 {
		if generation > 0 {
			servers[generation-1].terminate()
			if line := servers[generation-1].line(); line != "closed" {
				t.Fatalf("generation %d says %q", generation-1, line)
			}
		}
		servers = append(servers, s.start(port))
		for _, addr := range []string{addr4, addr6} {
			c, err := dial(s.client, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
		for range 100 {
			for i, c := range conns {
				if err := ping(c); err != nil {
					t.Fatalf("connection %d of %d, generation %d: %v", i, len(conns), generation, err)
				}
			}
		}
		// Two servers drain at a time; then the elder ends, and leaves the interface's
		// XDP to the next one, if it had it.
		if len(conns) == 6 {
			for _, c := range conns[:2] {
				c.Close()
			}
			conns = conns[2:]
			servers[generation-2].Wait()
		}
	}
	if n := s.resets() - before; n != 0 {
		t.Errorf("the kernel sent %d resets", n)
	}
	for _, c := range conns {
		c.Close()
	}
	servers[3].Wait()
	servers[4].kill()
}

// TestChanges: the network around a loaded server changes, and connections go on.
func TestChanges(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	p := s.start(port)
	addr4, addr6 := at(s.si, port)
	loads := []*load{s.load(s.client, 4, addr4, ping), s.load(s.client, 4, addr6, ping)}
	nl := s.server.Netlink
	serverLink := func() netlink.Link {
		l, err := nl.LinkByName(s.si.Name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// goesOn waits for more requests of all loads.
	goesOn := func(what string) {
		t.Helper()
		var from []int64
		for _, l := range loads {
			from = append(from, l.requests.Load())
		}
		d := s.eventually(what, func() error {
			for i, l := range loads {
				if l.requests.Load() < from[i]+200 {
					return fmt.Errorf("load %d: %d requests more", i, l.requests.Load()-from[i])
				}
			}
			return nil
		})
		t.Logf("%s: goes on after %v", what, d)
	}
	goesOn("start")

	large, err := dial(s.client, addr4)
	must(err)
	defer large.Close()
	must(bulk(large, 1<<20))
	must(nl.LinkSetMTU(serverLink(), 1400))
	goesOn("MTU 1400")
	if err := bulk(large, 1<<20); err != nil {
		t.Errorf("1 MB on an old connection, MTU 1400: %v", err)
	}
	must(nl.LinkSetMTU(serverLink(), 1500))
	goesOn("MTU 1500")

	for _, added := range []netip.Prefix{netip.MustParsePrefix("10.99.1.77/24"), netip.MustParsePrefix("fd99:1::77/64")} {
		a := &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: added.Addr().AsSlice(), Mask: net.CIDRMask(added.Bits(), added.Addr().BitLen())}}
		must(nl.AddrAdd(serverLink(), a))
		to := netip.AddrPortFrom(added.Addr(), port).String()
		s.eventually("address added", func() error { return s.served(to) })
		must(nl.AddrDel(serverLink(), a))
	}
	goesOn("address added and deleted")

	clientLink, err := s.client.Netlink.LinkByName(s.ci.Name)
	must(err)
	s.client.Sysctl("net/ipv4/conf/all/arp_notify", "1")
	s.client.Sysctl("net/ipv6/conf/all/ndisc_notify", "1")
	must(s.client.Netlink.LinkSetHardwareAddr(clientLink, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	goesOn("the neighbour has another MAC address")

	// More neighbours than the server remembers.
	neighbour := func(i int) *netlink.Neigh {
		return &netlink.Neigh{
			LinkIndex: s.si.Index, IP: net.IPv4(10, 99, byte(2+i>>8), byte(i)),
			HardwareAddr: net.HardwareAddr{2, 0, 1, 0, byte(i >> 8), byte(i)}, State: netlink.NUD_PERMANENT,
		}
	}
	for i := range 6000 {
		must(nl.NeighSet(neighbour(i)))
	}
	goesOn("6000 neighbours")
	for i := range 6000 {
		must(nl.NeighDel(neighbour(i)))
	}
	goesOn("6000 neighbours gone")

	must(nl.LinkSetDown(serverLink()))
	time.Sleep(300 * time.Millisecond) // the kernel drops everything meanwhile
	must(nl.LinkSetUp(serverLink()))
	// IPv6 addresses go with the link.
	must(nl.AddrReplace(serverLink(), &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: s.si.IPv6.Addr().AsSlice(), Mask: net.CIDRMask(64, 128)}}))
	goesOn("interface down and up")
	for i, l := range loads {
		l.stop()
		l.ok(t, fmt.Sprintf("load %d", i))
	}
	p.kill()
}

// bulk asks for n bytes and reads them.
func bulk(c net.Conn, n int) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(c, "BULK %d\r\n", n); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, c, int64(len(fmt.Sprintf("$%d\r\n\r\n", n))+n))
	return err
}

// TestJumbo: an interface with an MTU that XDP cannot have is shared by a packet
// socket, with all of its MTU.
func TestJumbo(t *testing.T) {
	for _, offloads := range []bool{false, true} {
		s := newSite(t, testnet.Wire{MTU: 9000, Offloads: offloads})
		p := s.start(port)
		addr4, addr6 := at(s.si, port)
		for _, addr := range []string{addr4, addr6} {
			c, err := dial(s.client, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := device(t, c); got != "XDP filter, ingress, MTU 9000" {
				t.Errorf("the server serves through %s", got)
			}
			if err := bulk(c, 10<<20); err != nil {
				t.Errorf("10 MB from %s: %v", addr, err)
			}
		}
		p.kill()
	}
}

// device asks the server what it serves through.
func device(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "DEVICE x\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)[1:]
}

// TestFallback: what keeps a server from being accelerated is named, with the way
// out; it then serves through the kernel and counts that, or ends if it must not.
func TestFallback(t *testing.T) {
	testnet.Need(t, testnet.Tool("setpriv"))
	s := newSite(t, testnet.Wire{})
	addr4, _ := at(s.si, port)
	for _, tt := range []struct {
		name string
		env  []string
		drop string // capabilities
		want []string
	}{
		{"no device", []string{"TPA_DEV="}, "", []string{"no device is configured", "set TPA_DEV"}},
		{"no such interface", []string{"TPA_DEV=nowhere"}, "", []string{"nowhere", "no such interface", "ip link"}},
		{"not Ethernet", []string{"TPA_DEV=lo"}, "", []string{"not an Ethernet interface"}},
		{"no capabilities", nil, "-all", []string{"CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN", "setcap"}},
		{"no CAP_NET_RAW", nil, "-net_raw", []string{"CAP_NET_RAW", "setcap"}},
		{"too many queues", []string{"TPA_QUEUES=2"}, "", []string{"2 queues", "has 1", "ethtool -L"}},
		{"MTU too great", []string{"TPA_MTU=9000"}, "", []string{"Config.MTU is 9000", "1500"}},
		{"steering of another kind of device", []string{"TPA_STEERING=rules"}, "", []string{"TPA_STEERING"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &site{T: t, client: s.client, server: s.server, ci: s.ci, si: s.si}
			for _, policy := range []string{"never", "auto"} {
				p := s.launchWithout(tt.drop, append(tt.env, "TPA_FALLBACK="+policy)...)
				line := p.line()
				for _, w := range tt.want {
					if !strings.Contains(line, w) {
						t.Errorf("fallback %s: the server says %q, not %q", policy, line, w)
					}
				}
				if policy == "never" {
					if !strings.HasPrefix(line, "error:") {
						t.Errorf("the server says %q, want an error", line)
					}
					p.Wait()
					continue
				}
				c, err := dial(s.client, addr4)
				if err != nil {
					t.Fatal(err)
				}
				if got := device(t, c); got != "kernel, 1 listeners fell back" {
					t.Errorf("the server serves through %s", got)
				}
				c.Close()
				p.kill()
			}
		})
	}
}

// TestRights: the capabilities that the error of a server without any asks for are
// enough.
func TestRights(t *testing.T) {
	testnet.Need(t, testnet.Tool("setpriv"))
	_, list, _ := strings.Cut(xdp.Capabilities, "setcap cap_")
	list, _, _ = strings.Cut(list, "+ep")
	rights := "-all,+" + strings.ReplaceAll(list, ",cap_", ",+")
	for _, dev := range []string{"xdp:", "packet:"} {
		t.Run(dev, func(t *testing.T) {
			s := newSite(t, testnet.Wire{})
			p := s.launchWithout(rights, "TPA_DEV="+dev+s.si.Name)
			if line := p.line(); line != "serving: accelerated true (<nil>)" {
				t.Fatalf("with %s the server says %q", rights, line)
			}
			addr, _ := at(s.si, port)
			if err := s.served(addr); err != nil {
				t.Error(err)
			}
			if log := p.log.String(); strings.Contains(log, "WARN") {
				t.Errorf("with %s the server warns: %s", rights, log)
			}
		})
	}
}

// launchWithout starts a server without some capabilities, as setpriv names them.
func (s *site) launchWithout(capabilities string, env ...string) *process {
	if capabilities == "" {
		return s.launch(port, env...)
	}
	return s.run(s.server.Command("setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities, os.Args[0]), port, env...)
}

// TestGone: a server whose interface is removed says so, and ends when told to.
func TestGone(t *testing.T) {
	for _, dev := range []string{"xdp:", "packet:"} {
		s := newSite(t, testnet.Wire{})
		p := s.start(port, "TPA_DEV="+dev+s.si.Name)
		addr, _ := at(s.si, port)
		if err := s.served(addr); err != nil {
			t.Fatal(err)
		}
		l, err := s.server.Netlink.LinkByName(s.si.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.server.Netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
		s.eventually("said", func() error {
			if log := p.log.String(); !strings.Contains(log, "interface is gone") {
				return fmt.Errorf("log %q", log)
			}
			return nil
		})
		p.terminate()
		if line := p.line(); line != "closed" {
			t.Errorf("the server says %q", line)
		}
		p.Wait()
	}
}

// TestPathMTU: a link further away takes smaller packets than ours. The kernel
// hears of it, and the server gets the news.
func TestPathMTU(t *testing.T) {
	testnet.Need(t, testnet.Root)
	n := testnet.New(t)
	s := &site{T: t, client: n.Host("client"), server: n.Host("server")}
	router := n.Host("router")
	s.ci, _ = n.Connect(s.client, router, testnet.Wire{})
	var near *testnet.Interface
	near, s.si = n.Connect(router, s.server, testnet.Wire{})
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		router.Sysctl(key, "1")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// The router sends no more than 1400 bytes to the client, who does not know.
	toClient, err := router.Netlink.LinkByName("eth0")
	must(err)
	must(router.Netlink.LinkSetMTU(toClient, 1400))
	for _, r := range []struct {
		host *testnet.Host
		via  *testnet.Interface
		dst  string
		gw   string
	}{
		{s.client, s.ci, "10.99.2.0/24", "10.99.1.2"}, {s.client, s.ci, "fd99:2::/64", "fd99:1::2"},
		{s.server, s.si, "10.99.1.0/24", near.IPv4.Addr().String()}, {s.server, s.si, "fd99:1::/64", near.IPv6.Addr().String()},
	} {
		_, dst, err := net.ParseCIDR(r.dst)
		must(err)
		must(r.host.Netlink.RouteAdd(&netlink.Route{LinkIndex: r.via.Index, Dst: dst, Gw: net.ParseIP(r.gw)}))
	}
	p := s.start(port)
	addr4, addr6 := at(s.si, port)
	for _, addr := range []string{addr4, addr6} {
		start := time.Now()
		c, err := dial(s.client, addr)
		must(err)
		if err := bulk(c, 10<<20); err != nil {
			t.Errorf("10 MB from %s: %v", addr, err)
		}
		c.Close()
		t.Logf("10 MB from %s in %v", addr, time.Since(start))
	}
	p.kill()
}

// TestGateway: clients behind a router, whose address moves to another one while
// they are served.
func TestGateway(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ipNet := func(a netip.Addr, bits int) *net.IPNet {
		return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
	}
	lo, err := s.client.Netlink.LinkByName("lo")
	must(err)
	eth, err := s.client.Netlink.LinkByName(s.ci.Name)
	must(err)
	p := s.start(port)
	for _, tt := range []struct {
		name                  string
		behind                netip.Addr
		nobody, gateway, next netip.Addr
		server                netip.Addr
		prefix                int
	}{
		{"IPv4", netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("10.99.1.99"), s.ci.IPv4.Addr(), netip.MustParseAddr("10.99.1.200"), s.si.IPv4.Addr(), 24},
		{"IPv6", netip.MustParseAddr("fd00:200::1"), netip.MustParseAddr("fd99:1::99"), s.ci.IPv6.Addr(), netip.MustParseAddr("fd99:1::200"), s.si.IPv6.Addr(), 64},
	} {
		must(s.client.Netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(tt.behind, tt.behind.BitLen()), Flags: unix.IFA_F_NODAD}))
		must(s.client.Netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(tt.next, tt.prefix), Flags: unix.IFA_F_NODAD}))
		route := func(gw netip.Addr) {
			t.Helper()
			must(s.server.Netlink.RouteReplace(&netlink.Route{
				LinkIndex: s.si.Index, Dst: ipNet(tt.behind, tt.behind.BitLen()), Gw: gw.AsSlice(),
			}))
		}
		route(tt.nobody)
		route(tt.gateway)
		var c net.Conn
		s.eventually("connection by the gateway", func() (err error) {
			s.client.Do(func() {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: tt.behind.AsSlice()}, Timeout: 5 * time.Second}
				c, err = d.Dial("tcp", netip.AddrPortFrom(tt.server, port).String())
			})
			return err
		})
		defer c.Close()
		l := s.ask(func() error { return ping(c) })
		more := func(what string) {
			t.Helper()
			from := l.requests.Load()
			s.eventually(what, func() error {
				if n := l.requests.Load() - from; n < 200 && l.failures.Load() == 0 {
					return fmt.Errorf("%d requests", n)
				}
				return nil
			})
		}
		more(tt.name + ", requests by the gateway")
		route(tt.next)
		s.eventually(tt.name+", new gateway known", func() error {
			all, err := s.server.Netlink.NeighList(s.si.Index, 0)
			for _, n := range all {
				if n.IP.Equal(tt.next.AsSlice()) && len(n.HardwareAddr) == 6 {
					return nil
				}
			}
			return fmt.Errorf("not among %d neighbours, %v", len(all), err)
		})
		more(tt.name + ", requests by the new gateway")
		l.stop()
		l.ok(t, tt.name)
	}
	p.kill()
}

// TestRestart: a server that is killed under load leaves nothing behind, its
// clients hear of it, and the next one serves at once.
func TestRestart(t *testing.T) {
	for _, dev := range []string{"xdp:", "packet:"} {
		t.Run(strings.TrimSuffix(dev, ":"), func(t *testing.T) { testRestart(t, dev) })
	}
}

func testRestart(t *testing.T, dev string) {
	s := newSite(t, testnet.Wire{})
	addr4, addr6 := at(s.si, port)
	accepted := time.Hour
	for _, addr := range []string{addr4, addr6, addr4, addr6} {
		start := time.Now()
		p := s.start(port, "TPA_DEV="+dev+s.si.Name)
		s.eventually("first connection", func() error { return s.served(addr) })
		first := time.Since(start)
		accepted = min(accepted, first)
		c, err := dial(s.client, addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
		busy := s.load(s.client, 8, addr, ping)
		s.eventually("load", func() error {
			if busy.requests.Load() < 1000 {
				return fmt.Errorf("%d requests", busy.requests.Load())
			}
			return nil
		})
		if !s.attached() {
			t.Error("no program is attached while the server lives")
		}
		p.kill()
		busy.stop()
		detached := s.eventually("program detached", func() error {
			if s.attached() {
				return errors.New("still attached")
			}
			return nil
		})
		// The peer's next segment is answered by the kernel.
		start = time.Now()
		if err := ping(c); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a peer of the dead server: %v, want ECONNRESET", err)
		}
		reset := time.Since(start)
		c.Close()
		free := s.eventually("port free", func() (err error) {
			s.server.Do(func() {
				var ln net.Listener
				if ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
					ln.Close()
				}
			})
			return err
		})
		for what, d := range map[string]time.Duration{"program detached": detached, "peer reset": reset, "port free": free} {
			if d > time.Second {
				t.Errorf("%s after %v, want 1 s", what, d)
			}
		}
		t.Logf("first connection %v after the start of the process; after the kill: program detached %v, peer reset %v, port free %v", first, detached, reset, free)
	}
	// The best of four: the machine may have other things to do, too.
	if accepted > 500*time.Millisecond {
		t.Errorf("a server accepts %v after its start, want 500 ms", accepted)
	}
}
