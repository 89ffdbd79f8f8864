package accel_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/fault"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

// crashVariable makes the test program one that dies, in the way that its value
// names.
const crashVariable = "TPA_TEST_CRASH"

// doomed is a queue whose poller panics when it is told to.
type doomed struct {
	link.Queue
	die *atomic.Bool
}

func (d doomed) Receive(frames []link.Frame) (int, error) {
	if d.die.Load() {
		panic("the queue went mad")
	}
	return d.Queue.Receive(frames)
}

type doomedDevice struct {
	link.Device
	die atomic.Bool
}

func (d *doomedDevice) Queue(i int) link.Queue { return doomed{d.Device.Queue(i), &d.die} }

// TestCrashing is the program that dies. It answers two requests first: with
// gVisor's TCP the first may come before Accept, with which recording begins.
func TestCrashing(t *testing.T) {
	how, socket, ok := strings.Cut(os.Getenv(crashVariable), ":")
	if !ok {
		t.Skip("it is run by TestCrash")
	}
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dev := &doomedDevice{Device: b}
	start := func(d link.Device, addr, socket string) *accel.Runtime {
		rt, err := accel.New(accel.Config{Link: d, Addrs: prefixes(addr), Fallback: accel.FallbackNever, DebugSocket: socket, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	client, server := start(a, "10.0.0.1/24", "off"), start(dev, "10.0.0.2/24", socket)
	ln, err := (&accel.ListenConfig{Runtime: server}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		request := make([]byte, 100)
		for n := 0; ; n++ {
			if _, err := io.ReadFull(c, request); err != nil {
				panic(err)
			}
			if n == 2 && how == "handler" {
				panic("the handler went mad")
			}
			c.Write(request)
		}
	}()
	c, err := (&accel.Dialer{Runtime: client, Timeout: 10 * time.Second}).Dial("tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	request := make([]byte, 100)
	for range 2 {
		c.Write(request)
		if _, err := io.ReadFull(c, request); err != nil {
			t.Fatal(err)
		}
	}
	os.Stdout.WriteString("answered\n")
	if how == "poller" {
		dev.die.Store(true)
	}
	if how != "killed" {
		c.Write(request)
	}
	select {} // until it is killed, or dies of its own
}

// TestCrash checks that what happened to a connection can be read after the
// program died.
func TestCrash(t *testing.T) {
	for _, tt := range []struct{ how, stderr, panicked string }{
		{how: "killed"},
		{how: "handler", stderr: "panic: the handler went mad"},
		{how: "poller", stderr: "panic: the queue went mad", panicked: "the queue went mad"},
	} {
		t.Run(tt.how, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashing$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), crashVariable+"="+tt.how+":"+filepath.Join(dir, "tpa.sock"))
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "answered\n" {
				t.Errorf("got %q and %v", line, err)
			}
			if tt.how == "killed" {
				cmd.Process.Signal(syscall.SIGKILL)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), tt.stderr) {
				t.Fatalf("the program ended with %v and printed\n%s", err, &stderr)
			}
			data, err := os.ReadFile(filepath.Join(dir, "tpa.rec"))
			if err != nil {
				t.Fatal(err)
			}
			rec, err := recorder.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if rec.PID != cmd.Process.Pid || rec.Panic != tt.panicked {
				t.Errorf("got process %d and panic %q, want %d and %q", rec.PID, rec.Panic, cmd.Process.Pid, tt.panicked)
			}
			kinds := map[recorder.Kind]int{}
			for _, c := range rec.Conns {
				for _, e := range c.Events {
					if c.Captured.IsZero() {
						kinds[e.Kind]++
					}
				}
			}
			for _, k := range []recorder.Kind{recorder.State, recorder.In, recorder.Read, recorder.Write, recorder.Out} {
				if kinds[k] == 0 {
					t.Errorf("no %v among %v", k, kinds)
				}
			}
			if captured := len(rec.Conns) > 1; captured != (tt.panicked != "") || captured && rec.Conns[1].Reason != recorder.Panic {
				t.Errorf("got %d connections, want the open one, and its capture if the poller panicked", len(rec.Conns))
			}
		})
	}
}

// TestRecordingStaysOnceReplaced checks that a recording that a crash left is not
// lost when the program starts again under the same socket.
func TestRecordingStaysOnceReplaced(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tpa.rec")
	if err := os.WriteFile(file, []byte("of a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, a)
	rt, err := accel.New(accel.Config{
		Link: a, Addrs: prefixes("10.0.0.1/24"), Fallback: accel.FallbackNever, DebugSocket: filepath.Join(dir, "tpa.sock"), Logger: silent,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file + ".old"); string(got) != "of a crash" {
		t.Errorf("got %q and %v", got, err)
	}
	rt.Close()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: got %v, want no file", err)
	}
}

// TestCapture loses segments and checks that the recorder notices, by itself.
func TestCapture(t *testing.T) {
	a, b, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bad, err := fault.Wrap(a, fault.Config{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, bad, b)
	start := func(d link.Device, addr string, log *slog.Logger) *accel.Runtime {
		rt, err := accel.New(accel.Config{Link: d, Addrs: prefixes(addr), Fallback: accel.FallbackNever, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		return rt
	}
	client, server := start(bad, "10.0.0.1/24", silent), start(b, "10.0.0.2/24", silent)
	conns := echoes(t, client, server, 2)
	eventually(t, "all acknowledgements have arrived", func() bool {
		return !slices.ContainsFunc(server.Status().Conns, func(c accel.ConnStatus) bool { return c.SendQueue > 0 })
	})
	// The first loses what it sends and the probe that follows, so that its timer
	// runs out; then the second is reset.
	if err := bad.SetTransmit(fault.Impairment{Drop: 1}); err != nil {
		t.Fatal(err)
	}
	conns[0].Write([]byte("lost"))
	eventually(t, "data and probe are lost", func() bool {
		_, sent := bad.Counters()
		return sent.Dropped >= 2 && conns[0].(interface{ Info() tpanet.Info }).Info().Retransmits > 0
	})
	if err := bad.SetTransmit(fault.Impairment{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conns[0], make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	conns[1].(interface{ SetLinger(int) error }).SetLinger(0)
	inTrouble, reset := conns[0].LocalAddr().String(), conns[1].LocalAddr().String()
	conns[1].Close()
	// A capture ends soon after the timer ran out, the recording of the open
	// connection goes on.
	for _, want := range []struct {
		reason, local, course string
	}{
		{"timeout", inTrouble, "write out tail probe again timeout loss"},
		{"", inTrouble, "write out tail probe again timeout loss (again timeout )*again (in )+recovered .*read"},
		{"reset by us", reset, ""},
	} {
		course := regexp.MustCompile(want.course)
		got := ""
		eventually(t, fmt.Sprintf("%q is recorded of %s", want.reason, want.local), func() bool {
			rec, err := recorder.Decode(client.Recording())
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(rec.Conns, func(c recorder.Conn) bool {
				return c.Reason.String() == want.reason && c.Local.String() == want.local
			})
			if i < 0 {
				return false
			}
			var kinds []string
			for _, e := range rec.Conns[i].Events {
				kinds = append(kinds, e.Kind.String())
			}
			got = strings.Join(kinds, " ")
			return true
		})
		if !course.MatchString(got) {
			t.Errorf("%q: got %s, want %s", want.reason, got, want.course)
		}
	}
	if !slices.ContainsFunc(client.Status().Events, func(e accel.Event) bool { return strings.Contains(e.Message, "connection in trouble") }) {
		t.Error("the events do not tell")
	}
}

// TestStates checks the states that a connection goes through when it is closed in
// order, with either TCP.
func TestStates(t *testing.T) {
	for _, engine := range []accel.Engine{accel.EngineTPA, accel.EngineGVisor} {
		t.Run(engine.String(), func(t *testing.T) {
			t.Parallel()
			client, server := newPair(t, memory.Options{}, accel.Config{TCP: accel.TCP{Engine: engine}})
			conn := echoes(t, client, server, 1)[0]
			conn.Close()
			for _, tt := range []struct {
				rt   *accel.Runtime
				want string
			}{
				// Whose FIN meets which acknowledgement is a matter of chance. Handshakes
				// are those of our own TCP.
				{client, `^(SYN-SENT )?ESTABLISHED( FIN-WAIT1)?( FIN-WAIT2| CLOSING)* TIME-WAIT`},
				{server, `^(SYN-RCVD )?ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED`},
			} {
				states, want := "", regexp.MustCompile(tt.want)
				for deadline := time.Now().Add(10 * time.Second); !want.MatchString(states); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("got %q, want %s", states, want)
					}
					rec, err := recorder.Decode(tt.rt.Recording())
					if err != nil {
						t.Fatal(err)
					}
					states = ""
					for _, e := range rec.Conns[0].Events {
						if e.Kind == recorder.State {
							states += e.State + " "
						}
					}
				}
			}
		})
	}
}
