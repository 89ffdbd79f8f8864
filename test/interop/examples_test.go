package interop

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

// TestExamples runs the programs of the folder examples, accelerated, as their
// comments say, and talks to them from another host.
func TestExamples(t *testing.T) {
	testnet.Need(t, testnet.Netns, testnet.Tool("curl"), testnet.Tool("redis-cli"))
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", dir, "./examples/...")
	build.Dir = filepath.Join("..", "..")
	run(t, build)

	n := testnet.New(t)
	client, server := n.Host("client"), n.Host("server")
	ci, si := n.Connect(client, server, testnet.Wire{})
	ip := si.IPv4.Addr().String()
	command := func(h *testnet.Host, name string, args ...string) *exec.Cmd {
		cmd := h.Command(filepath.Join(dir, name), args...)
		cmd.Env = append(cmd.Environ(), "TPA_DEV="+si.Name, "TPA_FALLBACK=never", "TPA_SOCKET=off")
		return cmd
	}
	serve := func(t *testing.T, name string, args ...string) {
		t.Helper()
		cmd := command(server, name, args...)
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
			if t.Failed() {
				t.Logf("%s says:\n%s", name, &log)
			}
		})
	}
	// ask runs a client until the server is there and it gets its answer.
	ask := func(t *testing.T, cmd func() *exec.Cmd) string {
		t.Helper()
		for deadline := time.Now().Add(testTimeout); ; time.Sleep(10 * time.Millisecond) {
			out, err := cmd().CombinedOutput()
			if err == nil && !bytes.Contains(out, []byte("Connection refused")) {
				return strings.TrimSpace(string(out))
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v: %v\n%s", cmd().Args, err, out)
			}
		}
	}
	tool := func(h *testnet.Host, name string, args ...string) func() *exec.Cmd {
		return func() *exec.Cmd { return h.Command(name, args...) }
	}
	for _, tt := range []struct {
		name  string
		serve func(t *testing.T)
		ask   func() *exec.Cmd
		want  string // a part of the answer
	}{
		{"http", func(t *testing.T) { serve(t, "http") },
			tool(client, "curl", "-sS", "http://"+net.JoinHostPort(ip, "8080")), "hello, " + ci.IPv4.Addr().String()},
		{"http by a link-local address", func(t *testing.T) { serve(t, "http") },
			tool(client, "curl", "-sS", "http://["+si.LinkLocal().String()+"%25"+ci.Name+"]:8080"), "hello, [" + ci.LinkLocal().String() + "%" + si.Name + "]"},
		{"tls", func(t *testing.T) { serve(t, "tls") },
			tool(client, "curl", "-sSk", "https://"+net.JoinHostPort(ip, "8443")), "hello over HTTP/2.0, TLS 1.3"},
		{"grpc", func(t *testing.T) { serve(t, "grpc") },
			func() *exec.Cmd { return command(client, "grpc", "-ask", net.JoinHostPort(ip, "50051")) }, "is SERVING"},
		{"redis", func(t *testing.T) { serve(t, "redis") },
			tool(client, "redis-cli", "-h", ip, "-p", "6380", "set", "key", "value"), "OK"},
		{"redis on the same host", func(t *testing.T) { serve(t, "redis") },
			tool(server, "redis-cli", "-p", "6380", "set", "key", "value"), "OK"},
		{"cache", func(t *testing.T) { serve(t, "cache") },
			tool(client, "redis-cli", "-h", ip, "-p", "6381", "set", "key", "value"), "OK"},
		{"proxy", func(t *testing.T) {
			serve(t, "redis")
			ask(t, tool(server, "redis-cli", "-p", "6380", "ping"))
			serve(t, "proxy", "-backend", "127.0.0.1:6380")
		}, tool(client, "redis-cli", "-h", ip, "-p", "5433", "ping"), "PONG"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.serve(t)
			if got := ask(t, tt.ask); !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
