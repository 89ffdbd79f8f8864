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
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// The server under attack is this test's program, started again inside a host of
// its own, so that its memory is its own. It serves
//
//	7    echo, after a greeting
//	9    discard, that never reads
//	19   more and more bytes
//	80   HTTP
//
// and answers each line on its standard input with a report.

const serverEnv = "TPA_ATTACK_SERVER"

const greeting = "hello\n"

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
	c := accel.Config{Fallback: accel.Never, DebugSocket: "off", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if err := json.Unmarshal([]byte(config), &c.Limits); err != nil {
		return err
	}
	c.Device = "xdp:eth0"
	rt, err := accel.New(c)
	if err != nil {
		return err
	}
	defer rt.Close()
	lc := accel.ListenConfig{Runtime: rt}
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
	web := http.Server{ReadHeaderTimeout: 2 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "page\n")
	})}
	go web.Serve(ln)
	fmt.Println("ready")
	out := json.NewEncoder(os.Stdout)
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		if err := out.Encode(state(rt)); err != nil {
			return err
		}
	}
	return nil
}

func state(rt *accel.Runtime) report {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := report{Heap: int64(m.HeapAlloc), Goroutines: runtime.NumGoroutine(), Drops: make(map[string]uint64)}
	for _, s := range rt.Stats().Shards {
		r.Resets += s.Stack.TCP.ResetsSent.Value()
		r.Cookies += s.Stack.TCP.ListenOverflowSynCookieSent.Value()
		r.Conns += s.Flows
		r.ReadBytes += s.Conns.ReadBytes
		r.RxFrames += s.Queue.RxFrames
		r.Limits = append(r.Limits, s.Limits)
	}
	for _, v := range rt.Stats().Sharing.Steering.Verdicts {
		if v.Name == "SYN answered" {
			r.Answered = v.Frames
		}
	}
	for _, d := range rt.Status().Drops {
		r.Drops[d.Place+": "+d.Reason] += d.Packets
	}
	return r
}

// A site is a server under attack and the host that attacks it, where the
// clients live, too.
type site struct {
	t        *testing.T
	outside  *testnet.Host
	from, to *testnet.Interface
	ipv6     bool          // the clients use IPv6
	synFlood bool          // the clients come when the filter answers
	slowest  time.Duration // client of the last attack
	stdin    io.Writer
	reports  *json.Decoder
}

func newSite(t *testing.T, limits accel.Limits) *site {
	t.Helper()
	testnet.Need(t, testnet.Root)
	n := testnet.New(t)
	outside, server := n.Host("attack-outside"), n.Host("attack-server")
	from, to := n.Connect(outside, server, testnet.Wire{})
	s := &site{t: t, outside: outside, from: from, to: to}
	// Spoofed sources have a way back, so that each costs the server an answer. The
	// kernel outside drops those answers.
	gateway(t, server, from)
	queue(t, outside, from)
	config, err := json.Marshal(limits)
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
		case <-time.After(patience):
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

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func (s *site) report() (r report) {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, "report\n"); err != nil {
		s.t.Fatal(err)
	}
	if err := s.reports.Decode(&r); err != nil {
		s.t.Fatal(err)
	}
	return r
}
