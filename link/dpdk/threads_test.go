//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/link/dpdk"
)

// threadFields returns fields of a thread's status, by thread name.
func threadFields(fields ...string) (map[string][]string, error) {
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return nil, err
	}
	threads := make(map[string][]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		values := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			values[name] = strings.TrimSpace(value)
		}
		for _, f := range fields {
			threads[values["Name"]] = append(threads[values["Name"]], values[f])
		}
	}
	return threads, nil
}

// startThreads starts the EAL on CPU 0 and tells about its threads.
func startThreads(o order, in *bufio.Scanner) error {
	runtime.LockOSThread()
	var before, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	if err := unix.SchedGetaffinity(0, &after); err != nil {
		return err
	}
	fmt.Println("affinity kept:", before == after)
	threads, err := threadFields("Cpus_allowed_list", "SigBlk")
	if err != nil {
		return err
	}
	for name, values := range threads {
		if !strings.Contains(name, "intr") && !strings.Contains(name, "telemetry") && !strings.Contains(name, "rte_mp") {
			delete(threads, name)
			continue
		}
		// The kernel never lets SIGKILL and SIGSTOP be blocked, libc not its own 32
		// and 33.
		if len(values) != 2 || values[0] != "0" || values[1] != "fffffffe7ffbfeff" {
			return fmt.Errorf("thread %s: %q, want CPU 0 and all signals blocked", name, values)
		}
	}
	fmt.Println("threads:", len(threads))
	in.Scan()
	return p.Close()
}

// The EAL neither pins the caller's thread, nor runs anything but its interrupt
// thread, nor takes a signal from the program.
func TestThreads(t *testing.T) {
	p := start(t, "threads", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever, CPUs: []int{0}},
		Ports: []dpdk.Config{{Device: "net_null0"}},
	}, silent(t))
	p.expect(t, "affinity kept: true")
	p.expect(t, "threads: 1")
	p.end(t)
}
