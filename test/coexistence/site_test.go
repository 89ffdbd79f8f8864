package coexistence

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

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
	log   testnet.Output // of standard error
}

// ways are the prefixes of TPA_DEV by which this kernel shares an interface.
func ways() []string {
	if testnet.TCX.Probe() != nil {
		return []string{"xdp:"}
	}
	return []string{"xdp:", "packet:"}
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
	// By itself a server would choose a packet socket here.
	p.Env = append(append(os.Environ(), "TPA_DEV=xdp:"+s.si.Name, "TPA_FALLBACK=never",
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
	case <-time.After(time.Minute):
		p.site.Fatal("the server says nothing for a minute")
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
	is, err := s.si.Filtered()
	if err != nil {
		s.Fatal(err)
	}
	return is
}
