package accel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// socketOff is the value of Config.DebugSocket for no socket.
const socketOff = "off"

// Bounds of one request at the debug socket.
const (
	socketReadTimeout  = 2 * time.Second
	socketWriteTimeout = 10 * time.Second
	socketMaxRequest   = 16 << 10 // bytes
)

// A debugSocket serves what is known about a runtime on a Unix socket, and changes its
// live settings, to processes of the same user and of root, one request at a time.
//
// It speaks as much of HTTP/1.0 as tpa-bench and curl --unix-socket need:
// package net/http would add half again to the size of a small program.
type debugSocket struct {
	path     string
	listener ownListener
	done     chan struct{}

	// mu guards the following fields.
	mu     sync.Mutex
	conn   net.Conn // that is being served, nil between requests
	closed bool
}

// DebugSocketDirs are the directories that hold debug sockets unless
// Config.DebugSocket names a place, best first: /run/tpa for root, tpa in
// $XDG_RUNTIME_DIR, tpa-UID in the directory for temporary files. A socket is
// named after its process, such as 4711.sock; further runtimes of one process
// add a number: 4711-2.sock.
func DebugSocketDirs() []string {
	var dirs []string
	if os.Geteuid() == 0 {
		dirs = append(dirs, "/run/tpa")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		dirs = append(dirs, filepath.Join(dir, "tpa"))
	}
	return append(dirs, filepath.Join(os.TempDir(), "tpa-"+strconv.Itoa(os.Geteuid())))
}

// openSocket starts to serve the debug socket, or says in the log why not: no
// program should fail for want of it.
func (rt *Runtime) openSocket() {
	if rt.config.DebugSocket == socketOff {
		return
	}
	if !debugSockets {
		if rt.config.DebugSocket != "" {
			rt.log.Warn("no debug socket: on this system it could not tell who asks", "path", rt.config.DebugSocket)
		}
		return
	}
	l, err := listenDebug(rt.config.DebugSocket, rt.socketDirs)
	if err != nil {
		level := slog.LevelInfo
		if rt.config.DebugSocket != "" {
			level = slog.LevelWarn
		}
		rt.log.Log(context.Background(), level, "no debug socket: tpa-bench cannot look inside (TPA_SOCKET=off keeps it from trying)", "reason", err)
		return
	}
	s := &debugSocket{path: l.Addr().String(), listener: ownListener{l}, done: make(chan struct{})}
	rt.socket = s
	go func() {
		defer close(s.done)
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			if s.begin(c) {
				rt.answer(c)
			}
			c.Close()
		}
	}()
}

// begin makes c the connection being served, unless the socket is closed.
func (s *debugSocket) begin(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	return !s.closed
}

// close stops serving and removes the socket.
func (s *debugSocket) close() {
	if s == nil {
		return
	}
	s.listener.Close() // which removes the file
	s.mu.Lock()
	s.closed = true
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	<-s.done
}

// answer reads one request and answers it.
func (rt *Runtime) answer(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(socketReadTimeout))
	r := bufio.NewReader(io.LimitReader(c, socketMaxRequest))
	request, err := r.ReadString('\n')
	for line := request; strings.TrimSpace(line) != ""; { // the header, up to an empty line
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
	}
	if err != nil {
		return
	}
	by := "an unknown process"
	if p, ok := c.(peerConn); ok {
		by = fmt.Sprintf("process %d of user %d", p.pid, p.uid)
	}
	status, kind, body := rt.respond(request, by)
	c.SetWriteDeadline(time.Now().Add(socketWriteTimeout))
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n\r\n", status, kind, len(body))
	c.Write(body)
}

// respond returns the answer to the first line of a request of somebody.
func (rt *Runtime) respond(request, by string) (status, kind string, body []byte) {
	const plain = "text/plain; charset=utf-8"
	method, rest, _ := strings.Cut(request, " ")
	target, _, _ := strings.Cut(rest, " ")
	target, _, _ = strings.Cut(target, "?")
	if change, ok := strings.CutPrefix(target, "/settings/"); ok && method == "POST" {
		key, value, _ := strings.Cut(change, "/")
		before, err := rt.change(key, value, by)
		if err != nil {
			return "400 Bad Request", plain, []byte(err.Error() + "\n")
		}
		return "200 OK", plain, fmt.Appendf(nil, "%s was %s and is %s.\n", key, before, value)
	}
	if method != "GET" {
		return "405 Method Not Allowed", plain, []byte("Want GET, or POST for /settings/KEY/VALUE.\n")
	}
	switch target {
	case "/status.json":
		b, err := json.Marshal(rt.Status())
		if err != nil {
			return "500 Internal Server Error", plain, []byte(err.Error())
		}
		return "200 OK", "application/json", append(b, '\n')
	case "/recording":
		if b := rt.Recording(); b != nil {
			return "200 OK", "application/octet-stream", b
		}
	}
	return "404 Not Found", plain, []byte("Want /status.json, or /recording where there is a flight recorder.\n")
}

// listenDebug opens the socket at a path, or, without one, in the first of dirs that works.
func listenDebug(path string, dirs []string) (*net.UnixListener, error) {
	if path != "" {
		return listenUnix(path)
	}
	var errs []error
	for _, dir := range dirs {
		if _, err := ownDir(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		removeStale(dir)
		// Runtimes of one process take numbers.
		for n := 1; n < 100; n++ {
			name := fmt.Sprintf("%d.sock", os.Getpid())
			if n > 1 {
				name = fmt.Sprintf("%d-%d.sock", os.Getpid(), n)
			}
			l, err := listenUnix(filepath.Join(dir, name))
			if err == nil {
				return l, nil
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				errs = append(errs, err)
				break
			}
		}
	}
	return nil, errors.Join(errs...)
}

// ownDir makes a directory that only we can enter, if there is none, and refuses one
// that others made: they could put their own socket there.
func ownDir(dir string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o700)
	if made = err == nil; !made && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return made, err
	}
	if uid, ok := owner(info); !info.IsDir() || !ok || uid != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return made, fmt.Errorf("%s is not a directory of ours that nobody else can write to", dir)
	}
	return made, nil
}

// removeStale removes the sockets of processes that have ended without.
func removeStale(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".sock")
		stem, _, _ = strings.Cut(stem, "-")
		pid, err := strconv.Atoi(stem)
		if !ok || err != nil || e.Type() != fs.ModeSocket {
			continue
		}
		if ended(pid) {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func listenUnix(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil && errors.Is(err, syscall.EADDRINUSE) {
		// Somebody's, or left behind by a process that had our number.
		c, dialErr := net.DialTimeout("unix", path, time.Second)
		if dialErr == nil {
			c.Close()
			return nil, err
		}
		if !errors.Is(dialErr, syscall.ECONNREFUSED) {
			return nil, err
		}
		os.Remove(path)
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// ownListener accepts processes of our own user and of root only. The file's
// mode says the same, but modes get changed.
type ownListener struct{ *net.UnixListener }

// peerConn knows the process at the other end.
type peerConn struct {
	*net.UnixConn
	uid, pid int
}

func (l ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, pid, err := peer(c); err == nil && (uid == 0 || uid == os.Geteuid()) {
			return peerConn{c, uid, pid}, nil
		}
		c.Close()
	}
}
