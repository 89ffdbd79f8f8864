package testnet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// A Host is a network namespace. Do, Command and Netlink may be used by any
// goroutine.
type Host struct {
	// Name is for messages.
	Name string
	// Netlink speaks to the kernel inside the namespace: routes, neighbours,
	// further addresses.
	Netlink *netlink.Handle

	tb         testing.TB
	ns         netns.NsHandle
	interfaces int
}

// Do runs f with its thread inside the namespace. Sockets that f opens stay in
// it. Goroutines that f starts do not run in it. f may call tb.Fatal.
func (h *Host) Do(f func()) {
	h.tb.Helper()
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		h.tb.Fatalf("read the namespace of this thread: %v", err)
	}
	defer old.Close()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		h.tb.Fatalf("enter host %s: %v", h.Name, err)
	}
	defer func() {
		h.tb.Helper()
		if err := netns.Set(old); err != nil {
			// The thread is of no use to anyone now. It stays locked, so that the
			// runtime ends it with this goroutine.
			h.tb.Fatalf("leave host %s: %v", h.Name, err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Command returns a command that runs inside the namespace. If it still runs when
// the test ends, it is sent SIGTERM, and SIGKILL 5 seconds later; its error then
// means nothing.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	h.tb.Helper()
	// nsenter finds the namespace through this process, and turns into the
	// command, so that the process number and signals are those of the command.
	path := filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(h.ns)))
	cmd := exec.CommandContext(h.tb.Context(), "nsenter", append([]string{"--net=" + path, "--", name}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Sysctl sets a kernel parameter of the namespace. The key is a path below
// /proc/sys, such as net/ipv4/ip_forward.
func (h *Host) Sysctl(key, value string) {
	h.tb.Helper()
	h.Do(func() {
		h.tb.Helper()
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
			h.tb.Fatalf("host %s: %v", h.Name, err)
		}
	})
}

func (h *Host) nextInterface() *Interface {
	i := &Interface{Host: h, Name: fmt.Sprintf("eth%d", h.interfaces)}
	h.interfaces++
	return i
}

// close drops the last references to the namespace; with them go its
// interfaces.
func (h *Host) close() {
	if h.Netlink != nil {
		h.Netlink.Close()
	}
	h.ns.Close()
}
