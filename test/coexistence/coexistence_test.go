package coexistence

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/redcon"

	"github.com/gotpa/tpa/internal/testnet"
)

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
	t.Logf("%d requests to the kernel", total())
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
	testnet.Need(t, testnet.TCX)
	s := newSite(t, testnet.Wire{})
	before := s.resets()
	var ports, servers []int
	var processes []*process
	var loads []*load
	serve := func(port int, env ...string) {
		t.Helper()
		p := s.start(port, env...)
		processes = append(processes, p)
		ports, servers = append(ports, port), append(servers, p.Process.Pid)
		addr4, addr6 := at(s.si, port)
		loads = append(loads, s.load(s.client, 4, addr4, ping), s.load(s.client, 4, addr6, ping))
	}
	serve(port)
	// One that chooses for itself, and one that would have AF_XDP.
	serve(port+1, "TPA_DEV="+s.si.Name)
	serve(port+2, "TPA_DEV="+s.si.Name, "TPA_XDP_BUSY_POLL=50us")
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
		if line := s.launch(p, "TPA_FALLBACK=auto").line(); !strings.Contains(line, "address already in use") {
			t.Errorf("another server on port %d says %q", p, line)
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
