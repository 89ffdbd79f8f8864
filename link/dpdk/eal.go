package dpdk

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNotSupported is wrapped by errors that say that this program, this machine
// or this driver cannot do what was asked.
var ErrNotSupported = errors.New("not supported")

// EAL is DPDK's environment, one per process. The zero value works.
type EAL struct {
	// HugePages says where packet buffers live. Default: HugePagesAuto.
	HugePages Policy
	// MemoryMB is the memory for packet buffers in MB, 16 to 65536. Without huge
	// pages it is all there will ever be, with huge pages it is what is taken at
	// the start. Default: what the first port needs, at least 64.
	MemoryMB int
	// FilePrefix is the name of this process among DPDK processes: 1 to 32
	// letters, digits, '-' and '_'. Default: "tpa" and the process number.
	FilePrefix string
	// CPUs are those that DPDK's own threads (interrupts, alarms) may run on.
	// Pollers are not bound by it. Default: those of the calling thread.
	CPUs []int
	// ExtraArgs are further EAL arguments, one element each: "--name" or
	// "--name=value". Those that load code, that choose devices, or that the
	// fields above stand for are refused. Default: none.
	ExtraArgs []string
	// Logger receives what DPDK logs. Default: slog.Default().
	Logger *slog.Logger
}

// Policy says whether to use huge pages.
type Policy int

const (
	// HugePagesAuto uses huge pages when enough of them are free.
	HugePagesAuto Policy = iota
	// HugePagesAlways fails when too few are free.
	HugePagesAlways
	// HugePagesNever keeps to ordinary pages.
	HugePagesNever
)

var policies = []string{"auto", "always", "never"}

// String returns the name as TPA_HUGEPAGES spells it.
func (p Policy) String() string {
	if p < 0 || int(p) >= len(policies) {
		return "Policy(" + strconv.Itoa(int(p)) + ")"
	}
	return policies[p]
}

// MarshalText implements encoding.TextMarshaler: it returns what String does.
func (p Policy) MarshalText() ([]byte, error) {
	if p < 0 || int(p) >= len(policies) {
		return nil, fmt.Errorf("%v is none of auto, always or never", p)
	}
	return []byte(policies[p]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler: it takes what String returns.
func (p *Policy) UnmarshalText(text []byte) error {
	i := slices.Index(policies, string(text))
	if i < 0 {
		return fmt.Errorf("Policy %q: want auto, always or never", text)
	}
	*p = Policy(i)
	return nil
}

const (
	minMemoryMB = 16
	maxMemoryMB = 65536
)

// extraArgs are the EAL arguments that EAL.ExtraArgs may hold, and whether they
// have a value. It is a list of what is allowed, so that an argument of a newer
// DPDK that loads code is refused as well.
var extraArgs = map[string]bool{
	"base-virtaddr":           true,
	"create-uio-dev":          false,
	"force-max-simd-bitwidth": true,
	"iova-mode":               true,
	"legacy-mem":              false,
	"log-level":               true,
	"match-allocations":       false,
	"mbuf-pool-ops-name":      true,
	"no-hpet":                 false,
	"single-file-segments":    false,
	"socket-limit":            true,
	"telemetry":               false,
	"vfio-intr":               true,
	"vfio-vf-token":           true,
	"vmware-tsc-map":          false,
}

var filePrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// Check refuses values out of range, as OpenPort does before it starts DPDK.
func (e EAL) Check() error {
	var errs []error
	if e.HugePages < HugePagesAuto || e.HugePages > HugePagesNever {
		errs = append(errs, fmt.Errorf("EAL.HugePages is %v: want HugePagesAuto, HugePagesAlways or HugePagesNever", e.HugePages))
	}
	if e.MemoryMB != 0 && (e.MemoryMB < minMemoryMB || e.MemoryMB > maxMemoryMB) {
		errs = append(errs, fmt.Errorf("EAL.MemoryMB is %d: want %d to %d", e.MemoryMB, minMemoryMB, maxMemoryMB))
	}
	if e.FilePrefix != "" && !filePrefix.MatchString(e.FilePrefix) {
		errs = append(errs, fmt.Errorf("EAL.FilePrefix is %q: want 1 to 32 letters, digits, '-' and '_'", e.FilePrefix))
	}
	for _, cpu := range e.CPUs {
		if cpu < 0 || cpu > 1023 {
			errs = append(errs, fmt.Errorf("EAL.CPUs holds %d: want 0 to 1023", cpu))
		}
	}
	for _, arg := range e.ExtraArgs {
		name, value, hasValue := strings.Cut(arg, "=")
		needsValue, ok := extraArgs[strings.TrimPrefix(name, "--")]
		switch {
		case !ok || !strings.HasPrefix(name, "--"):
			errs = append(errs, fmt.Errorf("EAL.ExtraArgs holds %q, which is refused: only --name or --name=value with a name among %s", arg, strings.Join(extraArgNames(), ", ")))
		case needsValue && value == "":
			errs = append(errs, fmt.Errorf("EAL.ExtraArgs holds %q, which needs a value: %s=VALUE in one element", arg, name))
		case !needsValue && hasValue:
			errs = append(errs, fmt.Errorf("EAL.ExtraArgs holds %q, which takes no value", arg))
		}
	}
	return errors.Join(errs...)
}

func extraArgNames() []string {
	names := make([]string, 0, len(extraArgs))
	for name := range extraArgs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// args returns the command line of the EAL, the program's name first.
func (e EAL) args(hugePages bool) []string {
	args := []string{
		"tpa",
		"--file-prefix=" + e.FilePrefix,
		// One lcore, which no data path uses: pollers are goroutines.
		"--lcores=0@(" + join(e.CPUs) + ")",
		// An allow list that matches no network device, or the EAL would take over
		// every PCI device that is bound to a user-space driver. Devices are plugged
		// in by name later.
		"--allow=0000:00:00.0",
		"-m", strconv.Itoa(e.MemoryMB),
	}
	if hugePages {
		// Anonymous huge pages: no mounted hugetlbfs needed, no files left.
		args = append(args, "--in-memory")
	} else {
		// Only with IOVA as VA may a buffer cross an ordinary page.
		args = append(args, "--no-huge", "--no-shconf", "--iova-mode=va")
	}
	if !slices.Contains(e.ExtraArgs, "--telemetry") {
		args = append(args, "--no-telemetry")
	}
	return append(args, e.ExtraArgs...)
}

// Version is that of the DPDK in this program, such as "DPDK 22.11.11", or ""
// for a program built without.
func Version() string { return version() }

// Memory is what the EAL has taken on one NUMA node, in bytes. Packet buffers are
// the greatest part of what is in use.
type Memory struct {
	NUMANode    int
	InUse, Free uint64
	// HugePages: the memory is huge pages, else ordinary ones.
	HugePages bool
}

// MemoryStats returns the memory of each NUMA node, nil before the EAL started. It
// takes DPDK's locks and is not for pollers.
func MemoryStats() []Memory { return memory() }

// checkVersion refuses a DPDK that is too old; s is what rte_version returns.
func checkVersion(s string) error {
	var year, month int
	if _, err := fmt.Sscanf(s, "DPDK %d.%d", &year, &month); err != nil || year < 22 || year == 22 && month < 11 {
		return fmt.Errorf("%s is installed, 22.11 or newer is needed: %w", s, ErrNotSupported)
	}
	return nil
}

func join(numbers []int) string {
	s := make([]string, len(numbers))
	for i, n := range numbers {
		s[i] = strconv.Itoa(n)
	}
	return strings.Join(s, ",")
}
