package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A Requirement is something that a test needs of the machine.
type Requirement struct {
	// Name completes "this test needs".
	Name string
	// Probe returns nil when it is there, else why not.
	Probe func() error
	// Fix is the command, or the advice, that brings it.
	Fix string
}

// Strict tells whether TPA_TEST_STRICT=1 is set: a requirement that is not met is
// then an error of the machine, and fails the test instead of skipping it.
func Strict() bool { return os.Getenv("TPA_TEST_STRICT") == "1" }

// Need skips the test, or fails it under Strict, when the machine lacks one of
// the requirements. The message says why and what brings it.
func Need(tb testing.TB, reqs ...Requirement) {
	tb.Helper()
	switch msg := missing(reqs); {
	case msg == "":
	case Strict():
		tb.Fatal(msg + " (TPA_TEST_STRICT=1 turns this skip into a failure)")
	default:
		tb.Skip(msg)
	}
}

func missing(reqs []Requirement) string {
	var msgs []string
	for _, r := range reqs {
		if err := r.Probe(); err != nil {
			msgs = append(msgs, fmt.Sprintf("this test needs %s: %v; to have it: %s", r.Name, err, r.Fix))
		}
	}
	return strings.Join(msgs, "\n")
}

// Root is the right to configure the network.
var Root = Requirement{
	Name: "root",
	Probe: func() error {
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("the user number is %d", uid)
		}
		return nil
	},
	Fix: "sudo -E make test",
}

// HugePages is a number of free 2 MB pages.
func HugePages(n int) Requirement {
	return Requirement{
		Name: fmt.Sprintf("%d free huge pages of 2 MB", n),
		Probe: func() error {
			b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
			if err != nil {
				return err
			}
			free, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				return err
			}
			if free < n {
				return fmt.Errorf("%d are free", free)
			}
			return nil
		},
		Fix: fmt.Sprintf("sysctl -w vm.nr_hugepages=%d", n),
	}
}

// DPDK is the library to build with -tags dpdk, and the C compiler for it.
var DPDK = Requirement{
	Name: "DPDK 22.11 or newer",
	Probe: sync.OnceValue(func() error {
		if _, err := exec.LookPath("gcc"); err != nil {
			return err
		}
		out, err := exec.Command("pkg-config", "--print-errors", "--atleast-version=22.11", "libdpdk").CombinedOutput()
		if err != nil && len(out) > 0 {
			return errors.New(strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", ", "))
		}
		return err
	}),
	Fix: "make deps",
}

// debianPackages tells which package holds a tool, where the names differ.
var debianPackages = map[string]string{
	"redis-cli":       "redis-tools",
	"redis-benchmark": "redis-tools",
	"redis-server":    "redis-server",
	"ip":              "iproute2",
	"ss":              "iproute2",
	"ip6tables":       "iptables",
	"promtool":        "prometheus",
}

// Tool is a program in PATH.
func Tool(name string) Requirement {
	pkg := name
	if p, ok := debianPackages[name]; ok {
		pkg = p
	}
	return Requirement{
		Name: "the program " + name,
		Probe: func() error {
			_, err := exec.LookPath(name)
			return err
		},
		Fix: "apt-get install " + pkg,
	}
}
