package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/process"
	"github.com/gotpa/tpa/cmd/tpa-bench/internal/transport"
)

// redisName is what results call the rounds of compare --server redis: a real
// redis-server, one event loop on the kernel's TCP.
const redisName = "redis"

// findRedis returns the path of redis-server, if it speaks all protocols.
func findRedis(protocols []string) (string, error) {
	if slices.ContainsFunc(protocols, func(p string) bool { return p != "resp" }) {
		return "", usageError{errors.New("--server redis: want a workload of Redis: get, set, mixed or read")}
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("compare --server redis needs redis-server in PATH (Debian: apt-get install redis-server): %w", err)
	}
	return path, nil
}

// serveRedis starts redis-server, which keeps nothing on disk, and waits until it
// is ready.
func (m *match) serveRedis(ctx context.Context) (server *process.Child, addr string, err error) {
	if addr, err = freePort(m.link.listen(transport.Kernel)); err != nil {
		return nil, "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", err
	}
	server, err = process.StartProgram("redis-server", m.redis,
		[]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", os.TempDir()},
		os.Environ(), process.Place{CPUs: m.pins.server, Netns: m.link.serverNetns()})
	if err != nil {
		return nil, "", err
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(server.Stdout())
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Ready to accept connections") {
				ready <- true
				io.Copy(io.Discard, server.Stdout())
			}
		}
		close(ready)
	}()
	select {
	case ok := <-ready:
		if ok {
			return server, addr, nil
		}
		if err = server.Stop(); err == nil {
			err = errors.New("redis-server ended before it was ready")
		}
	case <-time.After(readyTimeout):
		err = fmt.Errorf("redis-server was not ready after %v", readyTimeout)
		server.Stop()
	case <-ctx.Done():
		err = errInterrupted
		server.Stop()
	}
	return nil, "", err
}

// freePort returns addr with a port that is free in place of :0, which redis-server
// does not know.
func freePort(addr string) (string, error) {
	if !strings.HasSuffix(addr, ":0") {
		return addr, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
