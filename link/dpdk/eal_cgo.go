//go:build dpdk && cgo && linux

package dpdk

// #cgo pkg-config: libdpdk
// #cgo noescape tpa_rx_burst
// #cgo nocallback tpa_rx_burst
// #cgo noescape tpa_tx_burst
// #cgo nocallback tpa_tx_burst
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const hugePagesDir = "/sys/kernel/mm/hugepages"

// environment is the EAL of this process.
var environment struct {
	mu      sync.Mutex
	started bool
	failed  error // the EAL cannot be started a second time
	config  EAL   // as the first Open gave it
	log     *logReader
	lcores  []C.int // reserved and free
}

func version() string { return C.GoString(C.tpa_version()) }

func memory() []Memory {
	env := &environment
	env.mu.Lock()
	defer env.mu.Unlock()
	if !env.started {
		return nil
	}
	var all []Memory
	for n := C.unsigned(0); ; n++ {
		var node C.int
		var total, unused C.uint64_t
		var huge C.bool
		if !C.tpa_memory(n, &node, &total, &unused, &huge) {
			return all
		}
		all = append(all, Memory{NUMANode: int(node), InUse: uint64(total - unused), Free: uint64(unused), HugePages: bool(huge)})
	}
}

// startEAL starts the EAL or checks that the running one is as wanted. d is what
// the port needs. The caller holds environment.mu.
func startEAL(e EAL, d demand) error {
	env := &environment
	if env.failed != nil {
		return fmt.Errorf("the EAL failed to start earlier in this process and cannot be started again: %w", env.failed)
	}
	if env.started {
		if !e.same(env.config) && !e.same(EAL{}) {
			return errors.New("the EAL of this process runs with another configuration: it is set by the first port that is opened, give the same EAL or a zero one")
		}
		return nil
	}
	wanted := e
	if err := checkVersion(version()); err != nil {
		return err
	}
	if e.FilePrefix == "" {
		e.FilePrefix = fmt.Sprintf("tpa%d", os.Getpid())
	}
	if len(e.CPUs) == 0 {
		var err error
		if e.CPUs, err = allowedCPUs(); err != nil {
			return err
		}
	}
	hugePages, err := e.chooseMemory(d, readSupply(hugePagesDir, "/proc/meminfo"))
	if err != nil {
		return err
	}
	if env.log == nil {
		log, fd, err := newLogReader(e.Logger)
		if err != nil {
			return err
		}
		if err := errno(C.tpa_log_to(C.int(fd))); err != nil {
			return err
		}
		env.log = log
	}
	args := e.args(hugePages)
	cpus := make([]C.int, len(e.CPUs))
	for i, cpu := range e.CPUs {
		cpus[i] = C.int(cpu)
	}
	env.log.begin()
	err = errno(C.tpa_eal_start(C.int(len(args)), cStrings(args), cInts(cpus), C.int(len(cpus))))
	// Without shared files nothing is in it; telemetry would be.
	os.Remove(C.GoString(C.tpa_runtime_dir()))
	if err != nil {
		env.failed = fmt.Errorf("cannot start DPDK's EAL with %q: %w%s", args[1:], err, env.log.reason())
		return env.failed
	}
	env.started, env.config = true, wanted
	return nil
}

// same tells whether two environments differ in nothing but their loggers.
func (e EAL) same(o EAL) bool {
	return e.HugePages == o.HugePages && e.MemoryMB == o.MemoryMB && e.FilePrefix == o.FilePrefix &&
		slices.Equal(e.CPUs, o.CPUs) && slices.Equal(e.ExtraArgs, o.ExtraArgs)
}

// allowedCPUs returns the CPUs that this thread may run on.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	var cpus []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// takeLcore returns an lcore number that nobody else has, or -1: then mempools
// work without a cache, only slower. The caller holds environment.mu.
func takeLcore() C.int {
	env := &environment
	if n := len(env.lcores); n > 0 {
		lcore := env.lcores[n-1]
		env.lcores = env.lcores[:n-1]
		return lcore
	}
	return max(C.tpa_lcore_take(), -1)
}

// putLcores gives numbers back. The caller holds environment.mu.
func putLcores(lcores ...C.int) {
	environment.lcores = append(environment.lcores, slices.DeleteFunc(lcores, func(l C.int) bool { return l < 0 })...)
}

func logMark(mark string) {
	s, free := cString(mark)
	defer free()
	C.tpa_log_mark(s)
}

// errno turns what the shim returned into an error: nil from 0 upwards.
func errno(ret C.int) error {
	if ret >= 0 {
		return nil
	}
	return syscall.Errno(-ret)
}
