package accel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/link/memory"
)

func overSocket(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// withSocket returns an accelerated runtime with a debug socket.
func withSocket(t *testing.T, path string) *accel.Runtime {
	t.Helper()
	dev, peer, err := memory.Pair(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, dev, peer)
	t.Cleanup(func() { peer.Close() })
	rt, err := accel.New(accel.Config{
		Link: dev, Addrs: prefixes("10.0.0.1/24"), DebugSocket: path, Fallback: accel.FallbackNever, Logger: silent,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

// TestFallbackLeavesNothing checks that a runtime that fell back opens neither a
// socket nor the recorder's file.
func TestFallbackLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	rt, err := accel.New(accel.Config{DebugSocket: filepath.Join(dir, "debug.sock"), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if ok, _ := rt.Accelerated(); ok {
		t.Fatal("it is accelerated without a device")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("got %v, %v; want an empty directory", left, err)
	}
	if s := rt.Status(); s.Program.Socket != "" || rt.Recording() != nil {
		t.Errorf("got socket %q and a recording of %d bytes, want neither", s.Program.Socket, len(rt.Recording()))
	}
}

func TestDebugSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	rt := withSocket(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("got mode %v, want a socket of mode 0600", got)
	}
	resp, err := overSocket(path).Get("http://tpa/status.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s accel.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s.Program.PID != os.Getpid() || s.Program.Socket != path {
		t.Errorf("got %+v, %v; want the status of this process", s.Program, err)
	}
	for _, tt := range []struct {
		method, path string
		want         int
	}{{"GET", "/recording", 200}, {"GET", "/", 404}, {"POST", "/status.json", 405},
		{"POST", "/settings/polling.spin/50us", 200}, {"POST", "/settings/polling.spin/soon", 400}, {"POST", "/settings/queues/2", 400},
		{"GET", "/settings/polling.spin/60us", 404}, {"POST", "/settings/", 400}} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, "http://tpa"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := overSocket(path).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: got status %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
		}
	}
	if s := settingOf(rt, "polling.spin"); s.Value != "50µs" {
		t.Errorf("polling.spin is %s, want 50µs", s.Value)
	}
	by := fmt.Sprintf("process %d of user %d", os.Getpid(), os.Geteuid())
	if events := fmt.Sprint(rt.Status().Events); !strings.Contains(events, "INFO setting changed [{key polling.spin} {value 50us} {before 1ms} {by "+by) {
		t.Errorf("the event log does not say who changed it, %s: %s", by, events)
	}
	// One that says nothing does not hold Close up.
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	rt.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: got %v, want no socket", err)
	}
}

// TestDebugSocketPlaces checks the default places, two runtimes of one process,
// and what dead processes left.
func TestDebugSocketPlaces(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	dirs := accel.DebugSocketDirs()
	if os.Geteuid() == 0 {
		dirs = dirs[1:]
		if accel.DebugSocketDirs()[0] != "/run/tpa" {
			t.Errorf("root: got %v, want /run/tpa first", accel.DebugSocketDirs())
		}
	}
	if dirs[0] != filepath.Join(dir, "tpa") {
		t.Errorf("got %v, want %s/tpa first", dirs, dir)
	}
	place := accel.DebugSocketDirs()[0]
	if err := os.MkdirAll(place, 0o700); err != nil {
		t.Fatal(err)
	}
	// A process that has ended.
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(place, strconv.Itoa(cmd.Process.Pid)+".sock")
	leave(t, stale)
	first, second := withSocket(t, ""), withSocket(t, "")
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of a dead process is still there: %v", err)
	}
	pid := strconv.Itoa(os.Getpid())
	a, b := first.Status().Program.Socket, second.Status().Program.Socket
	if a == b || filepath.Dir(a) != place || filepath.Base(a)[:len(pid)] != pid {
		t.Errorf("got sockets %q and %q, want two in %s named after %s", a, b, place, pid)
	}
	if got := withSocket(t, "off").Status().Program.Socket; got != "" {
		t.Errorf("off: got socket %q", got)
	}
}

// leave leaves a socket that nobody listens on.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	t.Cleanup(func() { os.Remove(path) })
}

func TestDebugSocketTakesOverAndRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	leave(t, path)
	if got := withSocket(t, path).Status().Program.Socket; got != path {
		t.Errorf("a socket that nobody listens on: got %q, want it taken over", got)
	}
	if got := withSocket(t, path).Status().Program.Socket; got != "" {
		t.Errorf("a socket in use: got %q, want none", got)
	}
}

// TestDebugSocketUsers checks that another user is turned away even where the
// file's mode lets them in.
func TestDebugSocketUsers(t *testing.T) {
	if os.Getenv("TPA_TEST_SOCKET") != "" {
		resp, err := overSocket(os.Getenv("TPA_TEST_SOCKET")).Get("http://tpa/status.json")
		if err == nil {
			resp.Body.Close()
			t.Fatalf("another user got status %d", resp.StatusCode)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "tpa-socket")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "debug.sock")
	withSocket(t, path)
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "test")
	for name, change := range map[string]func() error{
		"directory": func() error { return os.Chmod(dir, 0o755) },
		"socket":    func() error { return os.Chmod(path, 0o666) },
		"program":   func() error { return os.WriteFile(exe, binary, 0o755) },
	} {
		if err := change(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	cmd := exec.Command(exe, "-test.run=^TestDebugSocketUsers$")
	cmd.Dir = "/"
	cmd.Env = []string{"TPA_TEST_SOCKET=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
