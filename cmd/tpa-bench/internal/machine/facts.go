package machine

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Facts are what does not change during a measurement.
type Facts struct {
	CPUModel string `json:"cpu_model"`
	Cores    int    `json:"cores"`     // processors that this process may use
	CPUList  []int  `json:"cpu_list"`  // their numbers
	MemoryMB int    `json:"memory_mb"` // of the machine
	Kernel   string `json:"kernel"`    // release
	OS       string `json:"os"`        // distribution
	Arch     string `json:"arch"`
	Governor string `json:"governor"` // of frequency; "none" where the machine has none to set
	Virtual  bool   `json:"virtual"`  // runs under a hypervisor
	HugeFree int    `json:"huge_pages_free"`
	Go       string `json:"go"`
	GVisor   string `json:"gvisor"`   // module version
	DPDK     string `json:"dpdk"`     // "none": built without
	Revision string `json:"revision"` // of this program's source
}

// Read collects the facts. What cannot be had is "unknown". dpdk is the version
// of DPDK in this program.
func Read(dpdk string) Facts {
	cpus := CPUs(0)
	f := Facts{
		CPUModel: "unknown",
		Cores:    len(cpus),
		CPUList:  cpus,
		Kernel:   "unknown",
		OS:       "unknown",
		Arch:     runtime.GOARCH,
		Governor: "none",
		Go:       runtime.Version(),
		GVisor:   "unknown",
		DPDK:     dpdk,
		Revision: "unknown",
	}
	eachPair("/proc/cpuinfo", ":", func(key, value string) {
		switch key {
		case "model name", "Model":
			f.CPUModel = value
		case "flags":
			f.Virtual = strings.Contains(" "+value+" ", " hypervisor ")
		}
	})
	eachPair("/proc/meminfo", ":", func(key, value string) {
		switch key {
		case "MemTotal":
			f.MemoryMB = number(strings.TrimSuffix(value, " kB")) / 1024
		case "HugePages_Free":
			f.HugeFree = number(value)
		}
	})
	eachPair("/etc/os-release", "=", func(key, value string) {
		if key == "PRETTY_NAME" {
			f.OS = strings.Trim(value, `"`)
		}
	})
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); err == nil {
		f.Governor = strings.TrimSpace(string(b))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "gvisor.dev/gvisor" {
				f.GVisor = m.Version
			}
		}
		modified := ""
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				f.Revision = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					modified = " with changes"
				}
			}
		}
		f.Revision += modified
	}
	return f
}

// CPUs returns the processors that a process may run on, in order. pid 0 is this
// process. It returns none for a process that is not there.
func CPUs(pid int) []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(pid, &set) != nil {
		return nil
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// eachPair calls do for each line "key SEPARATOR value" of a file.
func eachPair(file, separator string, do func(key, value string)) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), separator); ok {
			do(strings.TrimSpace(key), strings.TrimSpace(value))
		}
	}
}

func number(s string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(s))
	return n
}
