package machine

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessTime returns the processor time that a process of this machine has
// used, user and system, all threads. pid 0 is this process.
func ProcessTime(pid int) (time.Duration, error) {
	// A process' CPU clock is named by its number: see MAKE_PROCESS_CPUCLOCK in
	// the kernel's include/linux/posix-timers_types.h. It counts in nanoseconds
	// where /proc/PID/stat counts in ticks of 10 ms.
	const schedClock = 2
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = ^int32(pid)<<3 | schedClock
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// ModeTimes returns the processor time of a process by mode, in ticks of 10 ms:
// what it computed itself, and what the kernel did for it. pid 0 is this process.
func ModeTimes(pid int) (user, system time.Duration, err error) {
	name := "self"
	if pid != 0 {
		name = strconv.Itoa(pid)
	}
	b, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15. The second field is a
	// name in parentheses that may hold anything.
	rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(rest) < 13 {
		return 0, 0, fmt.Errorf("/proc/%s/stat has %d fields", name, len(rest)+2)
	}
	const tick = time.Second / 100 // USER_HZ, fixed for programs
	return time.Duration(number(rest[11])) * tick, time.Duration(number(rest[12])) * tick, nil
}

// Times are times of a set of processors, summed, since the machine started.
// They count in ticks of 10 ms.
type Times struct {
	Busy, // user, system and interrupts
	Interrupts, // of Busy: interrupts and soft interrupts
	Stolen, // taken by the hypervisor
	Total time.Duration
}

// CPUTimes returns the times of the given processors.
func CPUTimes(cpus []int) (Times, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Times{}, err
	}
	return cpuTimes(string(b), cpus), nil
}

func cpuTimes(stat string, cpus []int) (t Times) {
	const tick = time.Second / 100 // USER_HZ, fixed for programs
	for line := range strings.Lines(stat) {
		name, rest, _ := strings.Cut(line, " ")
		cpu, err := strconv.Atoi(strings.TrimPrefix(name, "cpu"))
		if !strings.HasPrefix(name, "cpu") || err != nil || !slices.Contains(cpus, cpu) {
			continue
		}
		var f [8]time.Duration // user nice system idle iowait irq softirq steal
		for i, s := range strings.Fields(rest) {
			if i < len(f) { // guest time follows, and is in user already
				f[i] = time.Duration(number(s)) * tick
			}
		}
		t.Interrupts += f[5] + f[6]
		t.Busy += f[0] + f[1] + f[2] + f[5] + f[6]
		t.Stolen += f[7]
		for _, d := range f {
			t.Total += d
		}
	}
	return t
}

// Sub returns the times between two readings.
func (t Times) Sub(earlier Times) Times {
	return Times{
		Busy:       t.Busy - earlier.Busy,
		Interrupts: t.Interrupts - earlier.Interrupts,
		Stolen:     t.Stolen - earlier.Stolen,
		Total:      t.Total - earlier.Total,
	}
}

// LoadAverage returns the mean number of runnable tasks over the last minute.
func LoadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}
