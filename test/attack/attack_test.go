package attack

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// rate is what the floods send, but for those of SYNs, which the server's queue
// does not see. Another flood that the queue cannot take loses the clients' frames
// as well, on a machine whose processors others use, too.
var rate = flag.Int("attack.rate", 20_000, "frames per second of floods other than of SYNs, 0 for as fast as possible")

// paced repeats f at the rate until stop.
func paced(stop <-chan struct{}, f func()) {
	start, sent := time.Now(), 0
	until(stop, func() {
		if sent++; *rate > 0 && sent%32 == 0 {
			time.Sleep(time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(*rate))))
		}
		f()
	})
}

// maxGrowth is how much the server's heap may grow under an attack, in bytes.
const maxGrowth = 32 << 20

func (s *site) bounded(before, after report) {
	s.t.Helper()
	if grown := after.Heap - before.Heap; grown > maxGrowth {
		s.t.Errorf("the heap grew by %.1f MB, want at most %d", mb(grown), maxGrowth>>20)
	}
}

// until repeats f until stop.
func until(stop <-chan struct{}, f func()) {
	for {
		select {
		case <-stop:
			return
		default:
			f()
		}
	}
}

// TestSYNFlood sends SYNs from everywhere as fast as one processor can, whatever
// the rate of the other floods: the filter answers them.
func TestSYNFlood(t *testing.T) {
	for _, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, accel.Limits{})
			s.ipv6, s.synFlood = version == "IPv6", true
			w := s.open(false)
			sent, start := uint64(0), time.Now()
			before, after := s.under(func(stop <-chan struct{}) {
				g := segment{dst: s.target(), dstPort: 7, flags: header.TCPFlagSyn, window: 1024, options: []byte{2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1}}
				until(stop, func() {
					g.src, g.srcPort, g.seq = spoofed(), g.srcPort+1, g.seq+12345
					if s.ipv6 {
						g.src = spoofed6()
					}
					w.send(&g)
					sent++
				})
			})
			t.Logf("%.0f SYNs per second, %d of %d answered by the filter, %d by TCP",
				float64(sent)/time.Since(start).Seconds(), after.Answered, sent, after.Cookies)
			s.flooded(before, after)
		})
	}
}

// maxVisit is how long a client may take during a flood, on a machine that others
// use, too: docs/testing.md has what it takes on an idle one.
const maxVisit = 10 * time.Second

// flooded checks what a flood of SYNs has done.
func (s *site) flooded(before, after report) {
	s.t.Helper()
	s.bounded(before, after)
	if after.Cookies == before.Cookies {
		s.t.Error("no SYN cookie was sent: the flood was too weak to tell anything")
	}
	if after.Answered == before.Answered {
		s.t.Error("the filter answered no SYN")
	}
	if n := after.Limits[0].HalfOpen; n > 2048 {
		s.t.Errorf("%d handshakes are in memory, want at most twice the limit of 1024", n)
	}
	if s.slowest > maxVisit {
		s.t.Errorf("the slowest client took %v, want at most %v", s.slowest, maxVisit)
	}
}

// TestFloods lets hping3 send what it can, from everywhere, to a port that
// listens.
func TestFloods(t *testing.T) {
	testnet.Need(t, testnet.Tool("hping3"))
	for _, tt := range []struct{ name, flags string }{
		{"SYN", "-S"}, {"ACK", "-A"}, {"RST", "-R"}, {"FIN", "-F"}, {"XMAS", "-SAFRUP"}, {"null", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, accel.Limits{})
			s.synFlood = tt.name == "SYN"
			start := time.Now()
			before, after := s.under(func(stop <-chan struct{}) {
				pace := []string{"--flood"}
				if *rate > 0 && tt.name != "SYN" {
					pace = []string{"-i", fmt.Sprintf("u%d", 1_000_000 / *rate)}
				}
				s.run(stop, "hping3", append(append(strings.Fields(tt.flags), pace...), "-q", "--rand-source", "-p", "7", s.to.IPv4.Addr().String())...)
			})
			s.bounded(before, after)
			if tt.name == "SYN" {
				s.flooded(before, after)
			}
			// A second's worth may have been saved up.
			if allowed := uint64(1000 * (time.Since(start).Seconds() + 2)); after.Resets-before.Resets > allowed && after.Cookies == 0 {
				t.Errorf("%d resets sent, want at most %d", after.Resets-before.Resets, allowed)
			}
		})
	}
}

// run runs a tool outside until stop.
func (s *site) run(stop <-chan struct{}, name string, args ...string) {
	cmd := s.outside.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	select {
	case <-stop:
		cmd.Process.Kill()
		<-ended
	case <-ended:
		s.t.Errorf("%s ended of itself: %s", name, &out)
	}
}

// TestOutOfOrder sends every second byte of a stream, one in a segment, on some
// connections: each costs the server far more memory than a byte.
func TestOutOfOrder(t *testing.T) {
	s := newSite(t, accel.Limits{})
	w := s.open(true)
	var puppets []*puppet
	for range 8 {
		puppets = append(puppets, w.connect(7, 65535, nil))
	}
	before, after := s.under(func(stop <-chan struct{}) {
		at := uint32(1)
		paced(stop, func() {
			p := puppets[at/2%uint32(len(puppets))]
			p.send(header.TCPFlagAck, p.seq+at, 65535, nil, []byte{'x'})
			at = (at + 2) % 60_000
		})
	})
	s.bounded(before, after)
	if after.ReadBytes-before.ReadBytes > clients*100 {
		t.Errorf("the server read %d bytes, want those of the clients: %d", after.ReadBytes-before.ReadBytes, clients*100)
	}
}

// TestSACKHoles asks for much with the smallest segments and acknowledges every
// second one of them, which makes the server keep and walk long lists
// (CVE-2019-11477, -11478 and -11479).
func TestSACKHoles(t *testing.T) {
	s := newSite(t, accel.Limits{})
	w := s.open(true)
	p := w.connect(19, 65535, []byte{2, 4, 0, 48, 4, 2, 1, 1})
	before, after := s.under(func(stop <-chan struct{}) {
		at := uint32(0)
		paced(stop, func() {
			var blocks []byte
			for i := range uint32(4) {
				left := p.ack + at + 96*i + 48
				for _, edge := range []uint32{left, left + 48} {
					blocks = append(blocks, byte(edge>>24), byte(edge>>16), byte(edge>>8), byte(edge))
				}
			}
			p.send(header.TCPFlagAck, p.seq, 65535, append([]byte{1, 1, 5, 34}, blocks...), nil)
			at = (at + 96) % 60_000
		})
	})
	s.bounded(before, after)
}

// TestZeroWindow lets many connections ask for much and take nothing.
func TestZeroWindow(t *testing.T) {
	const memory, hoarders = 16 << 20, 100
	s := newSite(t, accel.Limits{Memory: memory})
	w := s.open(true)
	puppets := make([]*puppet, hoarders)
	for i := range puppets {
		puppets[i] = w.connect(19, 0, nil)
	}
	// They keep their windows shut, and say that they live.
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		until(stop, func() {
			for _, p := range puppets {
				p.send(header.TCPFlagAck, p.seq, 0, nil, nil)
			}
			time.Sleep(100 * time.Millisecond)
		})
	}()
	defer func() { close(stop); <-ended }()
	var r report
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		r = s.report()
		l := r.Limits[0]
		if held := l.Census.ReceiveBytes + l.Census.SendBytes; l.ResetMemory > 0 && held <= memory {
			t.Logf("%d connections were reset, the others hold %.1f MB of %d; heap %.1f MB", l.ResetMemory, mb(held), memory>>20, mb(r.Heap))
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("memory is not bounded: %+v", l)
		}
	}
	s.visits()
}

// TestSlowloris holds connections to an HTTP server that never finish their
// requests.
func TestSlowloris(t *testing.T) {
	const slow = 300
	s := newSite(t, accel.Limits{})
	before, after := s.under(func(stop <-chan struct{}) {
		var wg sync.WaitGroup
		for range slow {
			c, err := s.dial(80)
			if err != nil {
				t.Error(err)
				break
			}
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
				until(stop, func() {
					c.Write([]byte{'x'})
					time.Sleep(100 * time.Millisecond)
				})
			})
		}
		wg.Wait()
	})
	s.bounded(before, after)
	c, err := s.dial(80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
	if page, err := io.ReadAll(c); !bytes.HasSuffix(page, []byte("\r\n\r\npage\n")) {
		t.Errorf("got %q, %v; want the page", page, err)
	}
}

// TestScan lets nmap look for ports in all its ways, and wants it to find those
// that there are.
func TestScan(t *testing.T) {
	testnet.Need(t, testnet.Tool("nmap"))
	s := newSite(t, accel.Limits{})
	before, after := s.under(func(stop <-chan struct{}) {
		for _, way := range []string{"-sS", "-sA", "-sF", "-sN", "-sX", "-sT"} {
			cmd := s.outside.Command("nmap", way, "-n", "-Pn", "-T5", "--max-retries", "2", "-p", "1-200", "-oG", "-", s.to.IPv4.Addr().String())
			out, err := cmd.CombinedOutput()
			if _, failed := err.(*exec.ExitError); failed {
				t.Errorf("nmap %s: %v\n%s", way, err, out)
			}
			if way == "-sS" || way == "-sT" {
				for _, port := range []string{"7/open", "9/open", "19/open", "80/open"} {
					if !strings.Contains(string(out), " "+port) {
						t.Errorf("nmap %s does not find %s:\n%s", way, port, out)
					}
				}
			}
		}
		<-stop
	})
	s.bounded(before, after)
}
