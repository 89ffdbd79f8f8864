package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/machine"
)

// TestMain lets this test program be its own child: the first argument says what
// the child does.
func TestMain(m *testing.M) {
	if os.Getenv("TPA_TEST_BENCH_CHILD") == "" {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "print":
		fmt.Println("hello from the child")
	case "fail":
		for i := range 100 {
			fmt.Fprintf(os.Stderr, "line %d\n", i)
		}
		os.Exit(3)
	case "cpus":
		fmt.Println(machine.CPUs(0))
	case "wait":
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	case "parent":
		c, err := Start("grandchild", []string{"wait"}, os.Environ(), Place{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.Pid())
		time.Sleep(time.Hour)
	}
	os.Exit(0)
}

func start(t *testing.T, cpus []int, args ...string) *Child {
	t.Helper()
	c, err := Start("the child", args, append(os.Environ(), "TPA_TEST_BENCH_CHILD=1"), Place{CPUs: cpus})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestOutput(t *testing.T) {
	c := start(t, nil, "print")
	out, err := io.ReadAll(c.Stdout())
	if err != nil || string(out) != "hello from the child\n" {
		t.Errorf("read %q, %v", out, err)
	}
	if err := c.Wait(within(t)); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := c.Stop(); err != nil {
		t.Errorf("Stop of a child that is gone: %v", err)
	}
}

func TestFailureQuotesTheLastLines(t *testing.T) {
	c := start(t, nil, "fail")
	want := "the child ended (exit status 3): line 97; line 98; line 99"
	if err := c.Wait(within(t)); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestPinned(t *testing.T) {
	before := machine.CPUs(0)
	last := before[len(before)-1]
	c := start(t, []int{last}, "cpus")
	out, _ := io.ReadAll(c.Stdout())
	if got, want := strings.TrimSpace(string(out)), fmt.Sprint([]int{last}); got != want {
		t.Errorf("the child runs on %s, want %s", got, want)
	}
	if after := machine.CPUs(0); len(after) != len(before) {
		t.Errorf("pinning a child left this process on %v of %v", after, before)
	}
	if _, err := Start("nobody", nil, nil, Place{CPUs: []int{1023}}); err == nil || !strings.Contains(err.Error(), "1023") {
		t.Errorf("a processor that is not there: %v", err)
	}
}

func TestStop(t *testing.T) {
	c := start(t, nil, "wait")
	bufio.NewReader(c.Stdout()).ReadString('\n')
	if err := c.Stop(); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("Stop: %v, want that SIGTERM ended it", err)
	}
	select {
	case <-c.Ended():
	default:
		t.Error("Stop returned before the child was gone")
	}
}

func TestWaitKills(t *testing.T) {
	c := start(t, nil, "stubborn")
	bufio.NewReader(c.Stdout()).ReadString('\n')
	c.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Wait(ctx); err == nil || !strings.Contains(err.Error(), "did not end in time") {
		t.Errorf("Wait: %v", err)
	}
	if alive(c.Pid()) {
		t.Error("the child is still alive")
	}
}

// TestParentKilled kills a parent by SIGKILL: its child must go too.
func TestParentKilled(t *testing.T) {
	parent := start(t, nil, "parent")
	line, err := bufio.NewReader(parent.Stdout()).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(child) {
		t.Fatal("the grandchild does not run")
	}
	parent.kill()
	deadline := time.Now().Add(10 * time.Second)
	for alive(child) {
		if time.Now().After(deadline) {
			syscall.Kill(child, syscall.SIGKILL)
			t.Fatal("the grandchild outlived its parent")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z")
}
