//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// The EAL starts once per process, so tests of its configuration, and tests with
// a peer, run programs: this test binary, started again with programEnv set.
const programEnv = "TPA_TEST_DPDK_PROGRAM"

// order is what a program gets on its first line of input.
type order struct {
	EAL   dpdk.EAL
	Ports []dpdk.Config
	Count int
}

// programs answer lines of input with lines of output and end with the input.
var programs = map[string]func(o order, in *bufio.Scanner) error{
	"open":    openPorts,
	"echo":    echo,
	"lazy":    readLate,
	"threads": startThreads,
	"wire":    oneEachWay,
	"fill":    fillChecksums,
	"big":     sendBig,
	"keep":    keepSecret,
	"hold":    hold,
	"watch":   watch,
}

// suppressions names what leaks in the libraries under the drivers.
var suppressions, _ = filepath.Abs("testdata/lsan.supp")

func TestMain(m *testing.M) {
	if name := os.Getenv(programEnv); name != "" {
		in := bufio.NewScanner(os.Stdin)
		in.Scan()
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		if err == nil {
			err = programs[name](o, in)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m,
		// Lives as long as the EAL: until the process ends.
		goleak.IgnoreAnyFunction("github.com/gotpa/tpa/link/dpdk.(*logReader).read"))
}

// process is a running program.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	done  bool
}

// start starts a program, which is killed when the test ends. change may be nil.
func start(tb testing.TB, program string, o order, change func(*exec.Cmd)) *process {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), programEnv+"="+program,
		// For -asan: what is not ours.
		"LSAN_OPTIONS=print_suppressions=0:suppressions="+suppressions)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if change != nil {
		change(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, lines: make(chan string, 100)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	tb.Cleanup(p.kill)
	text, err := json.Marshal(o)
	if err != nil {
		tb.Fatal(err)
	}
	p.say(tb, string(text))
	return p
}

func (p *process) say(tb testing.TB, line string) {
	tb.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		tb.Fatal(err)
	}
}

// next returns the program's next line.
func (p *process) next(tb testing.TB) string {
	tb.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			tb.Fatal("the program ended without a word")
		}
		return line
	case <-time.After(20 * time.Second):
		tb.Fatal("the program says nothing for 20 s")
		return ""
	}
}

func (p *process) expect(tb testing.TB, want string) {
	tb.Helper()
	if got := p.next(tb); got != want {
		tb.Fatalf("the program says %q, want %q", got, want)
	}
}

// end lets the program come to its end.
func (p *process) end(tb testing.TB) {
	tb.Helper()
	p.in.Close()
	for line := range p.lines {
		tb.Errorf("the program says %q", line)
	}
	p.done = true
	if err := p.cmd.Wait(); err != nil {
		tb.Error(err)
	}
}

func (p *process) kill() {
	if p.done {
		return
	}
	p.done = true
	p.cmd.Process.Kill()
	for range p.lines {
	}
	p.cmd.Wait()
}

// openPorts opens ports one after the other, tells for each the error or its
// name, and closes them when the input ends.
func openPorts(o order, in *bufio.Scanner) error {
	for i, c := range o.Ports {
		e := o.EAL
		if i > 0 && o.Count > 0 {
			e.MemoryMB += o.Count // another EAL
		}
		p, err := dpdk.Open(e, c)
		if err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " | "))
			continue
		}
		defer p.Close()
		fmt.Println("opened", p.Info().Name)
	}
	for in.Scan() {
	}
	return nil
}

// eventually polls a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	if !poll(ok) {
		tb.Fatalf("waited 20 s for %s", what)
	}
}

func poll(ok func() bool) bool {
	start := time.Now()
	for !ok() {
		switch waited := time.Since(start); {
		case waited > 20*time.Second:
			return false
		case waited > time.Millisecond:
			time.Sleep(50 * time.Microsecond)
		default:
			runtime.Gosched()
		}
	}
	return true
}

// lacking skips a test for want of something, unless everything must be there.
func lacking(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("TPA_TEST_STRICT") == "1" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// testEAL is what all ports of this process share.
var testEAL = dpdk.EAL{HugePages: dpdk.HugePagesNever, MemoryMB: 256}

// open opens a port and closes it, with all its buffers back, when the test ends.
func open(tb testing.TB, c dpdk.Config) *dpdk.Port {
	tb.Helper()
	p, err := dpdk.Open(testEAL, c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// send stages one frame made by fill and flushes it.
func send(q link.Queue, size int, o link.TxOffload, fill func([]byte)) error {
	var buf []byte
	if !poll(func() bool { buf = q.Reserve(size); return buf != nil }) {
		return fmt.Errorf("no buffer for a frame of %d bytes", size)
	}
	fill(buf[:size])
	q.Commit(size, o)
	pending, err := q.Flush()
	if err != nil || pending != 0 {
		return fmt.Errorf("frame of %d bytes: Flush returned %d, %v", size, pending, err)
	}
	return nil
}

// receive waits for one frame.
func receive(q link.Queue) (link.Frame, error) {
	frames := make([]link.Frame, 1)
	var err error
	n := 0
	if !poll(func() bool { n, err = q.Receive(frames); return n > 0 || err != nil }) {
		return link.Frame{}, fmt.Errorf("no frame arrived")
	}
	return frames[0], err
}
