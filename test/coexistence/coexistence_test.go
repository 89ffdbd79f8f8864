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

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/tidwall/redcon"
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

// serve answers Redis commands on an accelerated listener, with PONG and echoes.
// It says on standard output how it serves. SIGTERM closes the listener, and the
// server ends when the last connection has. With dial set, each command is
// forwarded to that address first.
func serve(addr, dial string) error {
	ln, err := accel.Listen("tcp", addr)
	if err != nil {
		return err
	}
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

func answer(c net.Conn, dial string) {
	r := redcon.NewReader(c)
	w := redcon.NewWriter(c)
	for {
		cmd, err := r.ReadCommand()
		if err != nil {
			return
		}
		switch {
		case dial != "":
			up, err := accel.Dial("tcp", dial)
			if err != nil {
				w.WriteError("ERR " + err.Error())
				break
			}
			fmt.Fprint(up, "PING\r\n")
			line, err := bufio.NewReader(up).ReadString('\n')
			up.Close()
			if err != nil {
				w.WriteError("ERR " + err.Error())
				break
			}
			w.WriteString(strings.TrimSpace(line))
		case len(cmd.Args) > 1:
			w.WriteBulk(cmd.Args[1])
		default:
			w.WriteString("PONG")
		}
		if w.Flush() != nil {
			return
		}
	}
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
	p := &process{Cmd: s.server.Command(os.Args[0]), site: s, lines: make(chan string, 16)}
	p.Env = append(append(os.Environ(), "TPA_DEV="+s.si.Name, "TPA_FALLBACK=never",
		fmt.Sprintf("COEXISTENCE_SERVE=:%d", port)), env...)
	p.Stderr = os.Stderr
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
		if time.Since(start) > 20*time.Second {
			s.Fatalf("%s: %v after 20 s", what, err)
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

// attached tells whether an XDP program is attached to the server's interface.
func (s *site) attached() bool {
	s.Helper()
	l, err := s.server.Netlink.LinkByName(s.si.Name)
	if err != nil {
		s.Fatal(err)
	}
	x := l.Attrs().Xdp
	return x != nil && x.Attached
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
					err = request(c)
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

// echoServer serves bytes back on a port of the kernel.
func echoServer(t *testing.T, h *testnet.Host, addr string) {
	t.Helper()
	var ln net.Listener
	var err error
	h.Do(func() { ln, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

func echo(c net.Conn) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	const msg = "kernel\n"
	if _, err := io.WriteString(c, msg); err != nil {
		return err
	}
	b := make([]byte, len(msg))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != msg {
		return fmt.Errorf("got %q, want %q", b, msg)
	}
	return nil
}

// TestCoexistence: the kernel serves a neighbouring port, UDP, pings and its own
// outbound connections on the interface and the addresses of an accelerated server
// that is started, loaded, stopped, killed and started again. None of the kernel's
// requests fails, and the kernel resets none of the server's connections while the
// server lives.
func TestCoexistence(t *testing.T) {
	kernelRequests := int64(100_000)
	if testing.Short() {
		kernelRequests = 10_000
	}
	s := newSite(t, testnet.Wire{})
	testnet.Need(t, testnet.Tool("ping"))
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
		"new connections": s.load(s.client, 1, neighbour4, func(net.Conn) error {
			c, err := dial(s.client, neighbour6)
			if err != nil {
				return err
			}
			defer c.Close()
			return echo(c)
		}),
		"UDP": s.udp(),
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

	for round := 0; round < 3 || total() < kernelRequests; round++ {
		before := s.resets()
		p := s.start(port)
		served := []*load{s.load(s.client, 8, server4, ping), s.load(s.client, 8, server6, ping)}
		target := total() + kernelRequests/6
		for served[0].requests.Load() < 1000 || served[1].requests.Load() < 1000 || total() < target {
			if served[0].failures.Load()+served[1].failures.Load() > 0 || t.Failed() {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if n := s.resets() - before; n != 0 {
			t.Errorf("round %d: the kernel sent %d resets while the server lived", round, n)
		}
		if round%2 == 0 {
			for _, l := range served {
				l.ok(t, "accelerated")
			}
			p.kill()
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

// udp keeps a UDP socket of the kernel busy. Datagrams may not be lost here.
func (s *site) udp() *load {
	s.Helper()
	var server net.PacketConn
	var err error
	s.server.Do(func() { server, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(b[:n], from)
		}
	}()
	addr, _ := at(s.si, port)
	var c net.Conn
	s.client.Do(func() { c, err = net.Dial("udp", addr) })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	neighbour, _ := at(s.si, port+1)
	return s.load(s.client, 1, neighbour, func(net.Conn) error { return echo(c) })
}

// TestRestart: a server that is killed under load leaves nothing behind, its
// clients hear of it, and the next one serves at once.
func TestRestart(t *testing.T) {
	s := newSite(t, testnet.Wire{})
	addr4, addr6 := at(s.si, port)
	for _, addr := range []string{addr4, addr6, addr4} {
		p := s.start(port)
		first := s.eventually("first connection", func() error { return s.served(addr) })
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
		start := time.Now()
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
		t.Logf("first connection after %v; after the kill: program detached %v, peer reset %v, port free %v", first, detached, reset, free)
	}
}
