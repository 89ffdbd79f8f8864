// The agent is the first process of a guest of test/guest. It mounts what programs
// expect, and carries out what the test asks. It runs nowhere else.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gotpa/tpa/test/guest/control"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "the agent is the first process of a guest: make test-guest")
		os.Exit(2)
	}
	if err := serve(); err != nil {
		fmt.Println("agent:", err)
	}
	powerOff()
}

func serve() error {
	if err := prepare(); err != nil {
		return err
	}
	if err := load(bootModules()); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	a := agent{commands: map[string]*command{}}
	in, out := json.NewDecoder(port), json.NewEncoder(port)
	if err := out.Encode(control.Response{Output: "up"}); err != nil {
		return err
	}
	for {
		var req control.Request
		if err := in.Decode(&req); err != nil {
			return err
		}
		if req.Operation == control.Off {
			return nil
		}
		if err := out.Encode(a.do(&req)); err != nil {
			return err
		}
	}
}

// prepare mounts file systems and sets limits.
func prepare() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}, {"shm", "/dev/shm", "tmpfs"},
		{"run", "/run", "tmpfs"}, {"tmp", "/tmp", "tmpfs"}, {"bpf", "/sys/fs/bpf", "bpf"}, {"huge", "/dev/hugepages", "hugetlbfs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// DPDK wants a place for its files that others cannot write to.
	if err := os.MkdirAll("/var/run", 0o755); err != nil {
		return err
	}
	if err := os.Chmod("/", 0o755); err != nil {
		return err
	}
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("HOME", "/")
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 65536, Max: 65536})
}

// bootModules are those that the serial port needs, in the order in which they go
// in.
func bootModules() []string {
	b, _ := os.ReadFile("/modules/boot")
	return strings.Fields(string(b))
}

func load(files []string) error {
	for _, name := range files {
		f, err := os.Open("/modules/" + name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// openPort waits for the serial port, which appears after its driver was loaded.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(20 * time.Second); ; {
		// The number of the device is that among all of virtio.
		if found, _ := filepath.Glob("/dev/vport*p1"); found != nil {
			return os.OpenFile(found[0], os.O_RDWR, 0)
		}
		if time.Now().After(deadline) {
			return nil, errors.New("the serial port does not appear")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

type agent struct {
	commands map[string]*command
}

func (a *agent) do(req *control.Request) (res control.Response) {
	fail := func(err error) control.Response { return control.Response{Code: -1, Err: err.Error()} }
	switch req.Operation {
	case control.Load:
		if err := load(req.Args); err != nil {
			return fail(err)
		}
		return res
	case control.Run:
		ctx, cancel := context.WithTimeout(context.Background(), req.Timeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, req.Args[0], req.Args[1:]...)
		cmd.Env = append(os.Environ(), req.Env...)
		if req.User != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(req.User), Gid: uint32(req.User)}}
		}
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		res.Output, res.Code = string(out), cmd.ProcessState.ExitCode()
		if ctx.Err() != nil {
			res.Err = fmt.Sprintf("killed after %v", req.Timeout)
		} else if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			res.Err = err.Error()
		}
		return res
	case control.Start:
		if c := a.commands[req.Name]; c != nil && !c.ended() {
			return fail(fmt.Errorf("%s runs already", req.Name))
		}
		c, err := start(req)
		if err != nil {
			return fail(err)
		}
		a.commands[req.Name] = c
		c.wait(req.Timeout, req.Until)
		return c.response()
	}
	c := a.commands[req.Name]
	if c == nil {
		return fail(fmt.Errorf("no command %q was started", req.Name))
	}
	if req.Operation == control.Stop && !c.ended() {
		c.cmd.Process.Signal(syscall.Signal(req.Signal))
		c.wait(req.Timeout, "")
	}
	return c.response()
}

// A command was started and may still run.
type command struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	out     bytes.Buffer
	changed chan struct{} // closed and made anew with each write
}

func start(req *control.Request) (*command, error) {
	c := &command{cmd: exec.Command(req.Args[0], req.Args[1:]...), done: make(chan struct{}), changed: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), req.Env...)
	c.cmd.Stdout, c.cmd.Stderr = c, c
	c.cmd.WaitDelay = time.Second
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// maxOutput is how much of a command's output is kept, in bytes.
const maxOutput = 1 << 20

// Write takes the command's output.
func (c *command) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.Len() < maxOutput {
		c.out.Write(b)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(b), nil
}

// wait returns when the command has printed until ("" for never), has ended, or
// after the timeout.
func (c *command) wait(timeout time.Duration, until string) {
	late := time.After(timeout)
	for {
		c.mu.Lock()
		printed := until != "" && strings.Contains(c.out.String(), until)
		changed := c.changed
		c.mu.Unlock()
		if printed {
			return
		}
		select {
		case <-c.done:
			return
		case <-late:
			return
		case <-changed:
		}
	}
}

func (c *command) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *command) response() control.Response {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := control.Response{Output: c.out.String(), Code: -1}
	if c.ended() {
		res.Code = c.cmd.ProcessState.ExitCode()
	} else {
		res.Err = "still runs"
	}
	return res
}

func powerOff() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
