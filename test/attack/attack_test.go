package attack

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

// rate is what the floods send, but for those of SYNs where a filter answers them:
// the server's queue does not see these. Another flood that the queue cannot take
// loses the clients' frames as well, on a machine whose processors others use, too.
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

// TestSYNFlood sends SYNs from everywhere: where the filter answers them, as fast
// as one processor can, whatever the rate of the other floods.
func TestSYNFlood(t *testing.T) {
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{})
		s.synFlood = w.filters()
		sent, start := uint64(0), time.Now()
		pace := paced
		if w.filters() {
			pace = until
		}
		before, after := s.under(s.flood(header.TCPFlagSyn, []byte{2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1}, pace, &sent))
		t.Logf("%.0f SYNs per second, %d of %d answered by the filter, %d by TCP",
			float64(sent)/time.Since(start).Seconds(), after.Answered, sent, after.Cookies)
		s.flooded(before, after)
	})
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
	if s.way.filters() && after.Answered == before.Answered {
		s.t.Error("the filter answered no SYN")
	}
	if n := after.Limits[0].HalfOpen; n > 2048 {
		s.t.Errorf("%d handshakes are in memory, want at most twice the limit of 1024", n)
	}
	if s.slowest > maxVisit {
		s.t.Errorf("the slowest client took %v, want at most %v", s.slowest, maxVisit)
	}
}

// flood sends segments from everywhere to a port that listens, and counts them.
func (s *site) flood(flags header.TCPFlags, options []byte, pace func(<-chan struct{}, func()), sent *uint64) func(stop <-chan struct{}) {
	w := s.open(false)
	return func(stop <-chan struct{}) {
		g := testframe.TCP{Dst: netip.AddrPortFrom(s.addr, 7), Flags: flags, Window: 1024, Options: options}
		pace(stop, func() {
			g.Src = netip.AddrPortFrom(s.spoofed(), g.Src.Port()+1)
			g.Seq, g.Ack = g.Seq+12345, g.Ack+54321
			w.send(&g)
			*sent++
		})
	}
}

// TestFloods sends segments that belong to no connection, from everywhere, to a
// port that listens: hping3 does over IPv4, frames of ours over IPv6, of which
// hping3 knows nothing.
func TestFloods(t *testing.T) {
	const limit = 1000 // resets per second, the default
	overWays(t, func(t *testing.T, w way) {
		for _, tt := range []struct {
			name, hping string
			flags       header.TCPFlags
			seldom      bool
			answered    bool // by resets (RFC 9293 section 3.10.7.2)
		}{
			{name: "ACK", hping: "-A", flags: header.TCPFlagAck, answered: true},
			{name: "RST", hping: "-R", flags: header.TCPFlagRst},
			{name: "FIN", hping: "-F", flags: header.TCPFlagFin},
			{name: "SYN", hping: "-S", flags: header.TCPFlagSyn, seldom: true},
			{name: "XMAS", hping: "-SAFRUP", flags: 0x3f, seldom: true},
			{name: "null", seldom: true},
		} {
			if tt.seldom && !w.first() {
				continue
			}
			t.Run(tt.name, func(t *testing.T) {
				s := newSite(t, w, accel.Limits{})
				s.synFlood = tt.name == "SYN" && w.filters()
				attack := s.flood(tt.flags, nil, paced, new(uint64))
				if !w.ipv6 {
					testnet.Need(t, testnet.Tool("hping3"))
					pace := []string{"--flood"}
					if *rate > 0 && tt.name != "SYN" {
						pace = []string{"-i", fmt.Sprintf("u%d", 1_000_000 / *rate)}
					}
					args := append(append(strings.Fields(tt.hping), pace...), "-q", "--rand-source", "-p", "7", s.addr.String())
					attack = func(stop <-chan struct{}) { s.run(stop, "hping3", args...) }
				}
				start := time.Now()
				before, after := s.under(attack)
				s.bounded(before, after)
				if tt.name == "SYN" {
					s.flooded(before, after)
				}
				if n := after.RxFrames - before.RxFrames + after.Answered; n < 200 {
					t.Errorf("%d frames arrived: the flood was too weak to tell anything", n)
				}
				resets := after.Resets - before.Resets
				// A second's worth may have been saved up.
				if allowed := uint64(limit * (time.Since(start).Seconds() + 2)); resets > allowed {
					t.Errorf("%d resets sent, want at most %d", resets, allowed)
				}
				if tt.answered != (resets > clients) {
					t.Errorf("%d resets sent, want many: %t", resets, tt.answered)
				}
			})
		}
	})
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
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{})
		wire := s.open(true)
		var puppets []*puppet
		for range 8 {
			puppets = append(puppets, wire.connect(7, 65535, nil))
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
		// They are connections still: what is missing brings an answer.
		for _, p := range puppets {
			p.send(header.TCPFlagAck|header.TCPFlagPsh, p.seq, 65535, nil, []byte{'x'})
		}
		for deadline := time.Now().Add(testTimeout); s.report().ReadBytes <= after.ReadBytes; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("what was missing came, and nothing was read")
			}
		}
	})
}

// TestSACKHoles asks for much with the smallest segments and acknowledges every
// second one of them, which makes the server keep and walk long lists
// (CVE-2019-11477, -11478 and -11479).
func TestSACKHoles(t *testing.T) {
	const mss = 48
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{})
		wire := s.open(true)
		p := wire.connect(19, 65535, []byte{2, 4, 0, mss, 4, 2, 1, 1})
		size := 0
		for ok := true; ok && size == 0; { // the SYN-ACK may come twice
			var h header.TCP
			if h, ok = wire.answer(p.addr, p.port, testTimeout); ok {
				size = len(h.Payload())
			}
		}
		if size == 0 || size > mss {
			t.Fatalf("the server sends %d bytes in a segment, want 1 to %d", size, mss)
		}
		before, after := s.under(func(stop <-chan struct{}) {
			at := uint32(0)
			paced(stop, func() {
				var blocks []byte
				for i := range uint32(4) {
					left := p.ack + at + 2*mss*i + mss
					for _, edge := range []uint32{left, left + mss} {
						blocks = append(blocks, byte(edge>>24), byte(edge>>16), byte(edge>>8), byte(edge))
					}
				}
				p.send(header.TCPFlagAck, p.seq, 65535, append([]byte{1, 1, 5, 34}, blocks...), nil)
				at = (at + 2*mss) % 60_000
			})
		})
		s.bounded(before, after)
	})
}

// TestZeroWindow lets many connections ask for much and take nothing.
func TestZeroWindow(t *testing.T) {
	const memory, hoarders = 16 << 20, 100
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{Memory: memory})
		before := s.report()
		wire := s.open(true)
		puppets := make([]*puppet, hoarders)
		for i := range puppets {
			puppets[i] = wire.connect(19, 0, nil)
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
		for deadline := time.Now().Add(testTimeout); ; time.Sleep(50 * time.Millisecond) {
			r := s.report()
			l := r.Limits[0]
			// Between two counts, buffers may fill that the first of them had freed.
			if held := l.Census.ReceiveBytes + l.Census.SendBytes; l.ResetMemory > 0 && held <= memory && r.Heap-before.Heap <= maxGrowth {
				t.Logf("%d connections were reset, the others hold %.1f MB of %d; heap %.1f MB", l.ResetMemory, mb(held), memory>>20, mb(r.Heap))
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("memory is not bounded: heap %+.1f MB, %+v", mb(r.Heap-before.Heap), l)
			}
		}
		s.visits()
	})
}

// TestSlowloris holds connections to an HTTP server that never finish their
// requests. The server's deadlines cut them all off.
func TestSlowloris(t *testing.T) {
	const slow = 300
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{})
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
					deadline := time.Now().Add(headerTimeout + testTimeout)
					_, err := io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
					for err == nil && time.Now().Before(deadline) {
						time.Sleep(100 * time.Millisecond)
						_, err = c.Write([]byte{'x'})
					}
					if err == nil {
						t.Error("a connection without a request is still there")
					}
				})
			}
			wg.Wait()
			<-stop
		})
		s.bounded(before, after)
		c, err := s.dial(80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testTimeout))
		fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
		if page, err := io.ReadAll(c); !bytes.HasSuffix(page, []byte("\r\n\r\npage\n")) {
			t.Errorf("got %q, %v; want the page", page, err)
		}
	})
}

// TestScan lets nmap look for ports in all its ways, and wants it to find those
// that there are.
func TestScan(t *testing.T) {
	testnet.Need(t, testnet.Tool("nmap"))
	overWays(t, func(t *testing.T, w way) {
		s := newSite(t, w, accel.Limits{})
		before, after := s.under(func(stop <-chan struct{}) {
			kinds := []string{"-sS"}
			if w.first() {
				kinds = append(kinds, "-sA", "-sF", "-sN", "-sX", "-sT")
			}
			for _, kind := range kinds {
				args := []string{kind, "-n", "-Pn", "-T5", "--max-retries", "2", "-p", "1-200", "-oG", "-", s.addr.String()}
				if w.ipv6 {
					args = append(args, "-6")
				}
				out, err := s.outside.Command("nmap", args...).CombinedOutput()
				if _, failed := err.(*exec.ExitError); failed {
					t.Errorf("nmap %s: %v\n%s", kind, err, out)
				}
				if kind == "-sS" || kind == "-sT" {
					for _, port := range []string{"7/open", "9/open", "19/open", "80/open"} {
						if !strings.Contains(string(out), " "+port) {
							t.Errorf("nmap %s does not find %s:\n%s", kind, port, out)
						}
					}
				}
			}
			<-stop
		})
		s.bounded(before, after)
	})
}
