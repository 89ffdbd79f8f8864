//go:build dpdk && cgo && linux

package dpdk

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// logReader passes what DPDK logs to a slog.Logger, and keeps the errors of the
// current operation, so that the operation's own error can tell the reason.
type logReader struct {
	logger *slog.Logger

	mu     sync.Mutex
	errors []string
	marks  map[string]chan struct{}
	marked int
}

// logError and below are errors (rte_log.h).
const logError = 4

// What the EAL adds to every error of a driver's.
const (
	attachFailed = "Failed to attach device on primary process"
	driverFailed = "EAL: Driver cannot attach the device"
)

// markPrefix starts a message that DPDK cannot have written.
const markPrefix = "\x01mark "

// newLogReader starts a reader and returns the file descriptor to log to.
func newLogReader(logger *slog.Logger) (*logReader, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	if logger == nil {
		logger = slog.Default()
	}
	r := &logReader{logger: logger, marks: make(map[string]chan struct{})}
	go r.read(os.NewFile(uintptr(fds[0]), "dpdk log"))
	return r, fds[1], nil
}

// read runs until the process ends, as the EAL does.
func (r *logReader) read(f *os.File) {
	record := make([]byte, 1024)
	for {
		n, err := f.Read(record)
		if err != nil {
			return
		}
		if n < 1 {
			continue
		}
		level, text := int(record[0]), string(record[1:n])
		if strings.HasPrefix(text, markPrefix) {
			r.mu.Lock()
			if c, ok := r.marks[text]; ok {
				close(c)
				delete(r.marks, text)
			}
			r.mu.Unlock()
			continue
		}
		for line := range strings.Lines(text) {
			r.add(level, strings.TrimSpace(line))
		}
	}
}

func (r *logReader) add(level int, line string) {
	if line == "" {
		return
	}
	// DPDK calls many a thing an error or a warning that is part of trying, and
	// what makes an operation fail is in the operation's error.
	r.logger.Debug("dpdk", "severity", level, "message", line)
	if level <= logError && !strings.HasSuffix(line, attachFailed) && !strings.HasPrefix(line, driverFailed) {
		r.mu.Lock()
		if len(r.errors) < 16 {
			r.errors = append(r.errors, line)
		}
		r.mu.Unlock()
	}
}

// sync waits until everything logged so far has been read.
func (r *logReader) sync() {
	c := make(chan struct{})
	r.mu.Lock()
	r.marked++
	mark := fmt.Sprintf("%s%d", markPrefix, r.marked)
	r.marks[mark] = c
	r.mu.Unlock()
	logMark(mark)
	select {
	case <-c:
	case <-time.After(time.Second):
		// The log overflowed and the mark was lost.
	}
}

// begin forgets the errors of earlier operations.
func (r *logReader) begin() {
	r.sync()
	r.mu.Lock()
	r.errors = nil
	r.mu.Unlock()
}

// reason returns the errors that were logged since begin, in one line, with a
// separator in front; or nothing.
func (r *logReader) reason() string {
	r.sync()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errors) == 0 {
		return ""
	}
	return " (DPDK: " + strings.Join(r.errors, "; ") + ")"
}
