package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk"
)

// The server under attack is this test's program, started again inside a host of
// its own, so that its memory is its own. It serves
//
//	7    echo, after a greeting
//	9    discard, that never reads
//	19   more and more bytes
//	80   HTTP
//
// and answers each line on its standard input: "refused" with refusals, any other
// with a report.

const serverEnv = "TPA_TEST_ATTACK_SERVER"

const greeting = "hello\n"

// headerTimeout is how long the HTTP server waits for a request.
const headerTimeout = 500 * time.Millisecond

// A report is the state of the server.
type report struct {
	Heap       int64 // bytes in use after a collection
	Goroutines int
	Resets     uint64 // sent
	Cookies    uint64 // SYN cookies sent by TCP
	Answered   uint64 // SYNs answered by the filter
	Conns      int
	ReadBytes  uint64
	RxFrames   uint64
	Limits     []accel.LimitStats
	Drops      map[string]uint64
}

func TestMain(m *testing.M) {
	if config := os.Getenv(serverEnv); config != "" {
		if err := runServer(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runServer(config string) error {
	signal.Ignore(syscall.SIGTERM) // it ends with its standard input
	var o order
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		return err
	}
	rt, err := accel.New(accel.Config{
		Device: o.Device, Addrs: o.Addrs, Gateways: o.Gateways, MTU: o.MTU,
		TCP: accel.TCP{Engine: o.Engine}, Limits: o.Limits, DPDK: accel.DPDK{HugePages: dpdk.HugePagesNever},
		Fallback: accel.FallbackNever, DebugSocket: "off",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	lc := accel.ListenConfig{Runtime: rt, KeepAlive: -1}
	for port, serve := range map[string]func(net.Conn){
		":7": func(c net.Conn) {
			io.WriteString(c, greeting)
			io.Copy(c, c)
		},
		":9": func(c net.Conn) { // never reads
			var b [1]byte
			time.Sleep(time.Minute)
			c.Read(b[:])
		},
		":19": func(c net.Conn) {
			b := make([]byte, 64<<10)
			for {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		},
	} {
		ln, err := lc.Listen(context.Background(), "tcp", port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); serve(c) }()
			}
		}()
	}
	ln, err := lc.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		return err
	}
	web := http.Server{ReadHeaderTimeout: headerTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "page\n")
	})}
	go web.Serve(ln)
	fmt.Println("ready")
	out := json.NewEncoder(os.Stdout)
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var answer any
		if s.Text() == "refused" {
			answer = refused(rt)
		} else {
			answer = state(rt)
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return rt.Close() // which finds buffers of DPDK that are lost
}

// synAnswered is the filter's action on SYNs that it answers itself.
const synAnswered = "SYN answered"

// refusals count the frames that did not get through.
type refusals struct {
	Lost map[string]uint64 // by place and reason
	// Passed went to the kernel, whose business the filter took them to be.
	Passed map[string]uint64
	// Undelivered are the sound IP packets, but for their extension headers and
	// being fragments, that led to nothing for TCP, UDP or ICMP.
	Undelivered uint64
	// Segments are those that were sound as such.
	Segments uint64
}

func refused(rt *accel.Runtime) refusals {
	r := refusals{Lost: make(map[string]uint64), Passed: make(map[string]uint64)}
	s := rt.Status()
	for _, d := range s.Drops {
		if !d.Out {
			r.Lost[d.Place+": "+d.Reason] += d.Packets
		}
	}
	for _, sh := range s.Shards {
		r.Undelivered += sh.IP.Valid - sh.IP.Delivered
		r.Segments += sh.TCP.SegmentsReceived
	}
	if s.Sharing != nil {
		for _, v := range s.Sharing.Steering.Frames[1:] { // the first is ours
			if v.Name != synAnswered {
				r.Passed[v.Name] += v.Frames
			}
		}
	}
	return r
}

func state(rt *accel.Runtime) report {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := report{Heap: int64(m.HeapAlloc), Goroutines: runtime.NumGoroutine(), Drops: make(map[string]uint64)}
	for _, s := range rt.Stats().Shards {
		r.Resets += s.TCP.ResetsSent
		r.Cookies += s.TCP.CookiesSent
		r.Conns += s.Flows
		r.ReadBytes += s.Conns.ReadBytes
		r.RxFrames += s.Queue.RxFrames
		r.Limits = append(r.Limits, s.Limits)
	}
	status := rt.Status()
	if status.Sharing != nil {
		for _, v := range status.Sharing.Steering.Frames {
			if v.Name == synAnswered {
				r.Answered = v.Frames
			}
		}
	}
	for _, d := range status.Drops {
		r.Drops[d.Place+": "+d.Reason] += d.Packets
	}
	return r
}

// A site is a server under attack and the host that attacks it, where the
// clients live, too.
type site struct {
	t        *testing.T
	way      way
	addr     netip.Addr // of the server
	outside  *testnet.Host
	from, to *testnet.Interface
	synFlood bool          // the clients come when the filter answers
	slowest  time.Duration // client of the last attack
	stdin    io.Writer
	reports  *json.Decoder
}

func newSite(t *testing.T, w way, limits accel.Limits) *site {
	t.Helper()
	return newSiteMTU(t, w, limits, 0, 0)
}

// newSiteMTU makes a site whose wire and server have MTUs of their own, 0 for the
// default.
func newSiteMTU(t *testing.T, w way, limits accel.Limits, wireMTU, mtu int) *site {
	t.Helper()
	n := testnet.New(t)
	outside, server := n.Host("attack-outside"), n.Host("attack-server")
	from, to := n.Connect(outside, server, testnet.Wire{MTU: wireMTU})
	s := &site{t: t, way: w, addr: w.addr(to), outside: outside, from: from, to: to}
	// Spoofed sources have a way back, so that each costs the server an answer. The
	// kernel outside drops those answers.
	silent(t, outside)
	gateways(t, server, from)
	queue(t, outside, from)
	o := w.order(from, to, limits)
	o.MTU = mtu
	config, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := server.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if !cmd.ProcessState.Success() {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(testTimeout):
			cmd.Process.Signal(syscall.SIGQUIT)
			t.Error("the server does not end")
		}
	})
	r := bufio.NewReader(stdout)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	s.stdin, s.reports = stdin, json.NewDecoder(r)
	return s
}

// testTimeout is how long a test waits for what must come.
const testTimeout = 20 * time.Second

func (s *site) report() (r report) {
	s.t.Helper()
	s.ask("report", &r)
	return r
}

func (s *site) refused() (r refusals) {
	s.t.Helper()
	s.ask("refused", &r)
	return r
}

func (s *site) ask(question string, answer any) {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, question+"\n"); err != nil {
		s.t.Fatal(err)
	}
	if err := s.reports.Decode(answer); err != nil {
		s.t.Fatal(err)
	}
}
