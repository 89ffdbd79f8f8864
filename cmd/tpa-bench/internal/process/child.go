package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long a child may take to end when asked to.
const stopTimeout = 10 * time.Second

// Child is this program running with other arguments, or another one. Its methods may be called
// by any goroutine.
type Child struct {
	name   string
	cmd    *exec.Cmd
	stdout *os.File
	tail   tail

	ended chan struct{} // closed once the process is gone
	err   error         // how it ended; read after ended
}

// Place is where a child runs.
type Place struct {
	// CPUs are its processors. Default: wherever this process may run.
	CPUs []int
	// Netns is its network namespace. Default: that of this process.
	Netns *os.File
}

// Start runs this program with the given arguments and environment, at a place.
// name is what errors call the child. The kernel kills it should this process
// die.
func Start(name string, args, env []string, at Place) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return StartProgram(name, self, args, env, at)
}

// StartProgram does the same with the program at a path.
func StartProgram(name, path string, args, env []string, at Place) (*Child, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &Child{name: name, stdout: read, ended: make(chan struct{})}
	c.cmd = exec.Command(path, args...)
	c.cmd.Env = env
	c.cmd.Stdout = write
	c.cmd.Stderr = &c.tail
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C is for the parent, which then asks its children
		Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	go c.supervise(at, started)
	err = <-started
	write.Close()
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// supervise starts the child and waits for it, on one thread all the while: a
// child inherits the processors and the namespace of the thread that starts it,
// and the kernel's parent-death signal means that thread, not the process.
func (c *Child) supervise(at Place, started chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	if len(at.CPUs) > 0 {
		var set unix.CPUSet
		for _, cpu := range at.CPUs {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			started <- fmt.Errorf("pin to processors %v: %w", at.CPUs, err)
			return
		}
	}
	if at.Netns != nil {
		if err := unix.Setns(int(at.Netns.Fd()), unix.CLONE_NEWNET); err != nil {
			started <- fmt.Errorf("enter its network namespace: %w", err)
			return
		}
	}
	err := c.cmd.Start()
	started <- err
	if err == nil {
		c.err = c.cmd.Wait()
		close(c.ended)
	}
}

// Pid is the child's process number.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Stdout is what the child prints. One goroutine may read it.
func (c *Child) Stdout() io.Reader { return c.stdout }

// Ended is closed once the child is gone.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// Signal asks the child for something. It does nothing to one that is gone.
func (c *Child) Signal(s os.Signal) { c.cmd.Process.Signal(s) }

// Wait waits for the child to end by itself. When ctx is done first, it kills
// the child.
func (c *Child) Wait(ctx context.Context) error {
	select {
	case <-c.ended:
		return c.Err()
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("%s did not end in time%s", c.name, c.tail.quote())
	}
}

// Stop asks the child to end, kills it if it does not, and waits until it is
// gone. It may be called more than once.
func (c *Child) Stop() error {
	c.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := c.Wait(ctx)
	c.stdout.Close()
	return err
}

func (c *Child) kill() {
	c.cmd.Process.Kill()
	<-c.ended
}

// Err says how a child that is gone ended, in one sentence with the last lines
// that it wrote to standard error. It is nil for exit status 0.
func (c *Child) Err() error {
	<-c.ended
	if c.err == nil {
		return nil
	}
	how := c.err.Error()
	var exit *exec.ExitError
	if errors.As(c.err, &exit) && exit.Exited() {
		how = fmt.Sprintf("exit status %d", exit.ExitCode())
	}
	return fmt.Errorf("%s ended (%s)%s", c.name, how, c.tail.quote())
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	// mu guards the following fields
	buf []byte
}

const (
	tailBytes = 4 << 10
	tailLines = 3
)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// quote returns the last lines for the end of a sentence.
func (t *tail) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.FieldsFunc(string(bytes.TrimSpace(t.buf)), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return ""
	}
	return ": " + strings.Join(lines[max(0, len(lines)-tailLines):], "; ")
}
