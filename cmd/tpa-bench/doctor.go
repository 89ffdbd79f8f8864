package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/link/dpdk"
	"github.com/gotpa/tpa/link/xdp"
)

// A finding is what doctor says about one precondition.
type finding struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, note or missing
	Found string `json:"found"`
	// Consequence and Fix are empty where all is well.
	Consequence string `json:"consequence,omitempty"`
	Fix         string `json:"fix,omitempty"`
}

const (
	stateOK      = "ok"
	stateNote    = "note"    // works, but could be better
	stateMissing = "missing" // a mode does not work
)

// host is what doctor looks at.
type host struct {
	fs         fs.FS // the root of the file system
	uid        int
	cpus       int
	gomaxprocs int
	memlock    uint64 // bytes, RLIM_INFINITY for no limit
	dpdk       string // version, empty without
	xdpSocket  error  // of making an AF_XDP socket
	// queues and pinned are TPA_QUEUES and TPA_CPUS.
	queues int
	pinned []int
	// ask asks the kernel about an interface.
	ask func(name string) ethernet
}

func newDoctor() *cobra.Command {
	var dev string
	var asJSON, clean bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the machine offers, and say how to fix what is missing",
		Long: `doctor looks at everything that acceleration depends on: DPDK, huge pages, IOMMU and
VFIO, capabilities, locked memory, AF_XDP, the interfaces with their drivers,
queues, RSS and offloads, processors. It takes TPA_QUEUES and TPA_CPUS into account.
For each it prints what it found, what follows from it, and the command that fixes
it; at the end, the best mode that works now. It changes nothing, but with --clean:
that puts back what programs that are gone have left on interfaces: how interrupts
are deferred, and filters that TPA_XDP_PIN kept. Run it as the user and in the container that the program
runs in.

Exit status: 0 if a mode other than the kernel's works, else 1.`,
		Example: `  tpa-bench doctor --dev eth0`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if clean {
				cleaned, err := xdp.Clean()
				for _, name := range cleaned {
					fmt.Fprintf(out, "put back: %s\n", name)
				}
				if len(cleaned) == 0 && err == nil {
					fmt.Fprintln(out, "nothing was left")
				}
				return err
			}
			m := thisHost()
			findings, best := m.examine(dev)
			if asJSON {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				if err := e.Encode(map[string]any{"findings": findings, "best": best}); err != nil {
					return err
				}
			} else {
				printFindings(out, findings, best)
			}
			if best.Mode == modeKernel {
				return fmt.Errorf("no acceleration here: %s", best.Why)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dev, "dev", "", "look at this `INTERFACE` (default all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&clean, "clean", false, "put back what programs that are gone have left on interfaces, and look at nothing")
	return cmd
}

func thisHost() *host {
	m := &host{
		fs: os.DirFS("/"), uid: os.Geteuid(), cpus: runtime.NumCPU(), gomaxprocs: runtime.GOMAXPROCS(0), dpdk: dpdk.Version(),
		queues: queues(), ask: askKernel,
	}
	if c, err := accel.ConfigFromEnv(); err == nil {
		m.pinned = c.CPUs
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		m.memlock = limit.Cur
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err == nil {
		unix.Close(fd)
	}
	m.xdpSocket = err
	return m
}

// Modes, best first.
const (
	modeDPDK   = "dpdk"
	modeXDP    = "af_xdp"
	modePacket = "packet"
	modeKernel = "kernel"
)

// best is the best mode that works now.
type best struct {
	Mode string `json:"mode"`
	Why  string `json:"why"`
	Use  string `json:"use,omitempty"` // settings that choose it
}

func (m *host) examine(dev string) ([]finding, best) {
	var all []finding
	add := func(f finding) bool {
		all = append(all, f)
		return f.State != stateMissing
	}
	add(m.kernel())
	cpus := m.processors()
	all = append(all, cpus...)
	capable := add(m.capabilities())
	xdp := add(m.afXDP()) && capable
	add(m.lockedMemory())
	hasDPDK := add(m.dpdkVersion())
	nics, bound, uio := m.interfaces(dev), m.devicesOf("vfio-pci"), m.devicesOf("uio_pci_generic", "igb_uio")
	huge := add(m.hugePages(uio))
	vfio := add(m.vfio(uio))
	all = append(all, m.cards()...)
	usable := slices.DeleteFunc(slices.Clone(nics), func(n iface) bool {
		return n.attached != 0 || n.plan != nil && n.plan.Refused != "" && !m.hasLinux(6, 6)
	})
	for _, n := range nics {
		all = append(all, n.findings(m.queues)...)
	}
	if dev != "" && len(nics) == 0 {
		add(finding{Name: "interface " + dev, State: stateMissing, Found: "no Ethernet interface of that name in this network namespace",
			Consequence: "nothing can use it", Fix: "`ip link` lists those there are"})
	}
	add(m.runtimeDir())
	if dev != "" {
		bound, uio = nil, nil // not what was asked about
	}
	switch {
	case dev != "" && len(nics) == 0:
		return all, best{modeKernel, "there is no interface " + dev, ""}
	case hasDPDK && vfio && len(bound) > 0:
		return all, best{modeDPDK, "DPDK drives " + bound[0] + ", which is bound to vfio-pci", "TPA_DEV=" + bound[0]}
	case hasDPDK && huge && len(uio) > 0:
		return all, best{modeDPDK, "DPDK drives " + uio[0] + ", which is bound to a driver of UIO", "TPA_DEV=" + uio[0]}
	case xdp && len(usable) > 0 && usable[0].plan != nil && !usable[0].native() && m.hasLinux(6, 6):
		n := usable[0]
		return all, best{modePacket, "a packet socket on " + n.name + ", whose driver does not run XDP as it is", "TPA_DEV=" + n.name}
	case xdp && len(usable) > 0 && usable[0].plan != nil && usable[0].plan.Slower != "" && m.hasLinux(6, 6):
		n := usable[0]
		return all, best{modePacket, "a packet socket on " + n.name + ", faster here than AF_XDP", "TPA_DEV=" + n.name}
	case xdp && len(usable) > 0:
		n := usable[0]
		return all, best{modeXDP, "AF_XDP on " + n.name + ", shared with the kernel", fmt.Sprintf("TPA_DEV=%s TPA_QUEUES=%d", n.name, max(1, min(n.queues, m.cpus-1)))}
	case capable && len(nics) > 0 && m.hasLinux(6, 6):
		n := nics[0]
		return all, best{modePacket, "a packet socket on " + n.name + ", behind the XDP program of another", "TPA_DEV=" + n.name}
	case hasDPDK:
		return all, best{modeDPDK, "DPDK with virtual devices only: no device is bound to vfio-pci or to a driver of UIO, and no interface can be used by AF_XDP", "TPA_DEV=net_memif0,…"}
	case xdp:
		return all, best{modeKernel, "AF_XDP works, but there is no interface to use it on, or another program has them", ""}
	}
	return all, best{modeKernel, "AF_XDP does not work, and there is no DPDK device", ""}
}

// read returns a file's content without white space around, "" for none.
func (m *host) read(name string) string {
	b, err := fs.ReadFile(m.fs, name)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

func (m *host) kernel() finding {
	f := finding{Name: "Linux", State: stateOK, Found: m.read("proc/sys/kernel/osrelease")}
	if !m.hasLinux(5, 10) {
		f.State = stateMissing
		f.Consequence = "AF_XDP needs 5.10 or newer here"
		f.Fix = "upgrade the kernel"
	}
	return f
}

// hasLinux tells whether the kernel is of a version, or newer.
func (m *host) hasLinux(major, minor int) bool {
	var is [2]int
	fmt.Sscanf(m.read("proc/sys/kernel/osrelease"), "%d.%d", &is[0], &is[1])
	return slices.Compare(is[:], []int{major, minor}) >= 0
}

func (m *host) processors() []finding {
	f := finding{Name: "processors", State: stateOK, Found: fmt.Sprintf("%d, GOMAXPROCS %d, pollers %d", m.cpus, m.gomaxprocs, m.queues)}
	switch {
	case m.gomaxprocs <= m.queues && len(m.pinned) > 0:
		f.State = stateMissing
		f.Consequence = "pinned pollers would take every processor that Go may use: accel refuses to start"
		f.Fix = fmt.Sprintf("GOMAXPROCS=%d or more, or fewer queues (TPA_QUEUES)", m.queues+1)
	case m.gomaxprocs <= m.queues:
		f.State = stateNote
		f.Consequence = "pollers and the program take turns; kernel sockets of the program wait for them, too"
		f.Fix = "give the program more processors than pollers (GOMAXPROCS > TPA_QUEUES)"
	}
	isolated := m.read("sys/devices/system/cpu/isolated")
	i := finding{Name: "isolated processors", State: stateOK, Found: isolated}
	var shared []string
	for _, cpu := range m.pinned {
		if !inRanges(isolated, cpu) {
			shared = append(shared, strconv.Itoa(cpu))
		}
	}
	switch {
	case isolated == "":
		i.State, i.Found = stateNote, "none"
		i.Consequence = "other processes interrupt pollers: the highest percentiles are worse"
		i.Fix = m.isolate()
	case len(m.pinned) == 0:
		i.State = stateNote
		i.Consequence = "no poller runs on them: unpinned threads stay away from isolated processors"
		i.Fix = "set TPA_CPUS to processors among " + isolated
	case len(shared) > 0:
		i.State = stateNote
		i.Consequence = "pollers are pinned to others too: " + strings.Join(shared, ", ")
		i.Fix = "set TPA_CPUS to processors among " + isolated
	}
	return []finding{f, i}
}

// isolate is how to keep processors for pollers, where there are enough.
func (m *host) isolate() string {
	last := min(m.queues, m.cpus-1) // at least one is left for everything else
	if last < 1 {
		return "use a machine with more processors"
	}
	var cpus []string
	for i := m.cpus - last; i < m.cpus; i++ {
		cpus = append(cpus, strconv.Itoa(i))
	}
	list := strings.Join(cpus, ",")
	return fmt.Sprintf("boot with isolcpus=%s nohz_full=%s and set TPA_CPUS=%s", list, list, list)
}

// inUserNamespace tells whether this is not the first user namespace, whose capabilities
// alone the kernel wants for programs of BPF.
func (m *host) inUserNamespace() bool {
	ids := strings.Fields(m.read("proc/self/uid_map"))
	return len(ids) > 0 && !slices.Equal(ids, []string{"0", "0", "4294967295"})
}

// inRanges tells whether a list such as "2-5,8" holds a number.
func inRanges(list string, n int) bool {
	for part := range strings.SplitSeq(list, ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		low, err1 := strconv.Atoi(from)
		high, err2 := strconv.Atoi(to)
		if err1 == nil && err2 == nil && low <= n && n <= high {
			return true
		}
	}
	return false
}

// Capabilities by number, of capability(7).
const sysAdmin = 21 // stands for those that were a part of it

var wanted = []struct {
	bit, instead uint
	name         string
}{{12, 12, "net_admin"}, {13, 13, "net_raw"}, {39, sysAdmin, "bpf"}, {38, sysAdmin, "perfmon"}}

func (m *host) capabilities() finding {
	f := finding{Name: "capabilities", State: stateOK}
	var have uint64
	for l := range strings.Lines(m.read("proc/self/status")) {
		if hex, ok := strings.CutPrefix(l, "CapEff:"); ok {
			have, _ = strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	var missing []string
	for _, c := range wanted {
		if have>>c.bit&1 == 0 && have>>c.instead&1 == 0 {
			missing = append(missing, "cap_"+c.name)
		}
	}
	if m.inUserNamespace() {
		f.State, f.Found = stateMissing, "those of a user namespace (rootless container)"
		f.Consequence = "AF_XDP does not work: programs of BPF want the capabilities of the host"
		f.Fix = "run outside of it: setcap and --privileged do not help inside"
		return f
	}
	if len(missing) == 0 {
		f.Found = "those that AF_XDP needs"
		return f
	}
	f.State, f.Found = stateMissing, "without "+strings.Join(missing, ", ")
	f.Consequence = "AF_XDP does not work as this user"
	f.Fix = "setcap cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon+ep PROGRAM (and cap_net_bind_service for ports below 1024), or AmbientCapabilities= in its systemd unit"
	return f
}

func (m *host) afXDP() finding {
	f := finding{Name: "AF_XDP", State: stateOK, Found: "sockets can be made"}
	if m.xdpSocket != nil {
		f.State, f.Found = stateMissing, m.xdpSocket.Error()
		f.Consequence = "no AF_XDP"
		f.Fix = "run as root or with the capabilities above, on a kernel with CONFIG_XDP_SOCKETS, outside of containers that filter socket()"
	}
	return f
}

// lockable is how much memory the queues of a small set-up lock, in bytes.
const lockable = 64 << 20

func (m *host) lockedMemory() finding {
	f := finding{Name: "locked memory", State: stateOK, Found: "unlimited"}
	if m.memlock == unix.RLIM_INFINITY {
		return f
	}
	f.Found = fmt.Sprintf("at most %d KB", m.memlock>>10)
	if m.memlock < lockable && m.uid != 0 {
		f.State = stateNote
		f.Consequence = "packet buffers may not fit: opening a queue fails with ENOBUFS or EPERM"
		f.Fix = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit"
	}
	return f
}

func (m *host) dpdkVersion() finding {
	if m.dpdk != "" {
		return finding{Name: "DPDK", State: stateOK, Found: m.dpdk}
	}
	f := finding{
		Name: "DPDK", State: stateMissing, Found: "this program was built without",
		Consequence: "no DPDK devices",
		Fix:         "apt-get install libdpdk-dev && go build -tags dpdk",
	}
	if v := m.installedDPDK(); v != "" {
		f.Found += ", " + v + " is installed"
		f.Fix = "go build -tags dpdk"
	}
	return f
}

// installedDPDK is the version of the DPDK to build with, "" for none.
func (m *host) installedDPDK() string {
	for _, pattern := range []string{"usr/lib/*/pkgconfig/libdpdk.pc", "usr/lib*/pkgconfig/libdpdk.pc", "usr/local/lib/*/pkgconfig/libdpdk.pc"} {
		found, _ := fs.Glob(m.fs, pattern)
		for _, name := range found {
			for l := range strings.Lines(m.read(name)) {
				if v, ok := strings.CutPrefix(l, "Version:"); ok {
					return strings.TrimSpace(v)
				}
			}
		}
	}
	return ""
}

// hugePages are asked for more strictly where devices are bound to drivers of UIO.
func (m *host) hugePages(uio []string) finding {
	f := finding{Name: "huge pages", State: stateOK}
	free, total, size := 0, 0, ""
	dirs, _ := fs.Glob(m.fs, "sys/kernel/mm/hugepages/hugepages-*kB")
	for _, d := range dirs {
		n, _ := strconv.Atoi(m.read(path.Join(d, "free_hugepages")))
		t, _ := strconv.Atoi(m.read(path.Join(d, "nr_hugepages")))
		if n > free || total == 0 && t > 0 {
			free, total, size = n, t, strings.TrimPrefix(path.Base(d), "hugepages-")
		}
	}
	if free > 0 {
		f.Found = fmt.Sprintf("%d of %d pages of %s free", free, total, size)
		return f
	}
	f.State, f.Found = stateNote, "none free"
	f.Consequence = "DPDK uses ordinary pages: slower, and only for virtual devices and those behind an IOMMU"
	f.Fix = "sysctl -w vm.nr_hugepages=512"
	if len(uio) > 0 {
		f.State = stateMissing
		f.Consequence = "DPDK cannot drive " + strings.Join(uio, ", ") + ", which is given physical addresses"
	}
	return f
}

// vfio is about what PCI devices can be bound to. uio are those that are bound to
// a driver of UIO, which needs no IOMMU.
func (m *host) vfio(uio []string) finding {
	f := finding{Name: "VFIO", State: stateOK}
	groups, _ := fs.ReadDir(m.fs, "sys/class/iommu")
	_, loaded := fs.Stat(m.fs, "sys/module/vfio_pci")
	const parameter = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
	_, hasUnsafe := fs.Stat(m.fs, parameter) // not in the kernels of all distributions
	const iommu = "boot with intel_iommu=on (or amd_iommu=on) iommu=pt where the machine has one"
	switch {
	case loaded == nil && len(groups) > 0:
		f.Found = "vfio-pci is loaded, with an IOMMU"
	case loaded == nil && m.read(parameter) == "Y":
		f.State, f.Found = stateNote, "vfio-pci is loaded, without an IOMMU"
		f.Consequence = "DPDK works, but the device can write to all memory"
		f.Fix = iommu
	case len(uio) > 0:
		f.State, f.Found = stateNote, "not needed: UIO has "+strings.Join(uio, ", ")
		f.Consequence = "DPDK works, but the device can write to all memory"
		f.Fix = iommu + ", and bind the device to vfio-pci"
	case loaded == nil:
		f.State, f.Found = stateMissing, "vfio-pci is loaded, but there is no IOMMU"
		f.Consequence = "DPDK cannot drive PCI devices, but for those with drivers of their own (mlx5)"
		f.Fix = iommu + "; in a virtual machine without: modprobe uio_pci_generic && dpdk-devbind.py --bind uio_pci_generic ADDRESS"
		if hasUnsafe == nil {
			f.Fix = iommu + "; in a virtual machine without: echo 1 > /" + parameter
		}
	case len(groups) == 0:
		f.State, f.Found = stateMissing, "vfio-pci is not loaded, and there is no IOMMU"
		f.Consequence = "DPDK cannot drive PCI devices, but for those with drivers of their own (mlx5)"
		f.Fix = iommu + "; in a virtual machine without: modprobe uio_pci_generic && dpdk-devbind.py --bind uio_pci_generic ADDRESS"
	default:
		f.State, f.Found = stateMissing, "vfio-pci is not loaded"
		f.Consequence = "DPDK cannot drive PCI devices, but for those with drivers of their own (mlx5)"
		f.Fix = "modprobe vfio-pci && dpdk-devbind.py --bind vfio-pci ADDRESS"
	}
	return f
}

// devicesOf are the PCI addresses that are bound to drivers.
func (m *host) devicesOf(drivers ...string) []string {
	var all []string
	for _, d := range drivers {
		found, _ := fs.Glob(m.fs, path.Join("sys/bus/pci/drivers", d, "*:*:*.*"))
		for _, name := range found {
			all = append(all, path.Base(name))
		}
	}
	return all
}

// An iface is a kernel network interface.
type iface struct {
	name, driver, state string
	mtu                 string
	queues              int
	ethernet
}

// interfaces are those that can be used, or the one asked for. Virtual ones that
// are down have to be asked for.
func (m *host) interfaces(dev string) []iface {
	entries, _ := fs.ReadDir(m.fs, "sys/class/net")
	var all []iface
	for _, e := range entries {
		dir := path.Join("sys/class/net", e.Name())
		if e.Name() == "lo" || dev != "" && e.Name() != dev || m.read(path.Join(dir, "type")) != "1" {
			continue
		}
		n := iface{name: e.Name(), state: m.read(path.Join(dir, "operstate")), mtu: m.read(path.Join(dir, "mtu"))}
		if target, err := readLink(m.fs, path.Join(dir, "device/driver")); err == nil {
			n.driver = path.Base(target)
		} else if driver := m.read(path.Join(dir, "driver")); driver != "" {
			n.driver = driver
		}
		if n.driver == "" && n.state == "down" && dev == "" {
			continue // nobody means to use it
		}
		rx, _ := fs.Glob(m.fs, path.Join(dir, "queues/rx-*"))
		n.queues = len(rx)
		if n.ethernet = m.ask(n.name); n.ethernet.queues.known && n.ethernet.queues.now > 0 {
			n.queues = n.ethernet.queues.now
		}
		all = append(all, n)
	}
	// Those that are up, and with drivers, first.
	slices.SortStableFunc(all, func(a, b iface) int { return b.rank() - a.rank() })
	return all
}

func readLink(f fs.FS, name string) (string, error) {
	if l, ok := f.(fs.ReadLinkFS); ok {
		return l.ReadLink(name)
	}
	return "", fs.ErrInvalid
}

// native tells whether the driver would run the XDP program itself.
func (n *iface) native() bool { return n.plan != nil && n.plan.Attach == xdp.AttachNative }

func (n *iface) rank() int {
	rank := 0
	if n.state == "up" {
		rank += 2
	}
	if n.native() {
		rank++
	}
	return rank
}

// findings are those about an interface, for so many pollers.
func (n *iface) findings(pollers int) []finding {
	return slices.Concat([]finding{n.link(), n.program()}, n.traps(), []finding{n.spread(pollers)}, n.offloads())
}

func (n *iface) link() finding {
	driver := n.driver
	if driver == "" {
		driver = "virtual"
	}
	of := ""
	if most := n.ethernet.queues.most; most > n.queues {
		of = fmt.Sprintf(" of %d", most)
	}
	noun := "queues"
	if n.queues == 1 && of == "" {
		noun = "queue"
	}
	f := finding{Name: "interface " + n.name, State: stateOK, Found: fmt.Sprintf("%s, %s, %d%s receive %s, MTU %s", driver, n.state, n.queues, of, noun, n.mtu)}
	var what, fix []string
	if n.state == "down" {
		what, fix = append(what, "nothing arrives"), append(fix, "ip link set "+n.name+" up")
	}
	if most := n.ethernet.queues.most; n.queues == 1 && (most > 1 || !n.ethernet.queues.known && n.native() && n.driver != "veth" && n.driver != "tun") {
		what, fix = append(what, "one queue is one poller"), append(fix, fmt.Sprintf("ethtool -L %s combined %d", n.name, max(most, 2)))
	}
	if len(what) > 0 {
		f.State, f.Consequence, f.Fix = stateNote, strings.Join(what, "; "), strings.Join(fix, " && ")
	}
	return f
}

// program is about the XDP program that AF_XDP needs, and what it would get: nothing
// is attached to find that out.
func (n *iface) program() finding {
	f := finding{Name: n.name + " XDP", State: stateOK}
	if n.attached != 0 {
		f.State, f.Found = stateMissing, fmt.Sprintf("program %d is attached already", n.attached)
		f.Consequence = "AF_XDP cannot be used: an interface runs one program; a packet socket can, from Linux 6.6 on"
		f.Fix = fmt.Sprintf("bpftool prog show id %d names it: tpa_filter is a server of this kind, leave it alone; another one ends with its process, or by `bpftool link detach` where `bpftool link` lists it, or else by `ip link set %s xdp off`", n.attached, n.name)
		return f
	}
	p := n.plan
	if p != nil && p.Slower != "" {
		f.Found = fmt.Sprintf("from Linux 6.6 on a packet socket takes its place: %s; TPA_DEV=xdp:%s insists on %v", p.Slower, n.name, p)
		return f
	}
	if p == nil {
		f.State, f.Found = stateNote, "unknown"
		f.Consequence = "what AF_XDP makes of it shows when it starts"
		f.Fix = "ip link show " + n.name
		return f
	}
	f.Found = "will be " + p.String()
	if p.Told {
		f.Found += " (the kernel says)"
	} else {
		f.Found += " (by the driver's name: the kernel does not tell before 6.3)"
	}
	if p.Attach == xdp.AttachNative {
		f.Found += fmt.Sprintf(", chunks of %d bytes", p.ChunkSize)
		if p.MaxMTU > 0 {
			f.Found += fmt.Sprintf(", MTU up to %d", p.MaxMTU)
		}
		if p.MaxQueues > 1 {
			f.Found += fmt.Sprintf(", up to %d queues", p.MaxQueues)
		}
		if !p.ZeroCopy {
			f.Found += ": " + p.Copies
		}
		return f
	}
	f.State = stateNote
	if p.Refused != "" {
		f.Found = "cannot be used: " + p.Refused
		f.Consequence = "AF_XDP would lose segments; from Linux 6.6 on a packet socket is used"
		f.Fix = p.Remedy
		return f
	}
	f.Found += ": " + p.NotNative
	f.Consequence = "AF_XDP copies every frame, after the kernel has made a packet of it: slower"
	f.Fix = p.Remedy
	return f
}

// traps are what is known of the driver, one finding each.
func (n *iface) traps() (all []finding) {
	if n.plan == nil {
		return nil
	}
	for _, t := range n.plan.Traps {
		all = append(all, finding{Name: n.name + " " + n.plan.Driver, State: stateOK, Found: t})
	}
	return all
}

// spread is about RSS.
func (n *iface) spread(pollers int) finding {
	f := finding{Name: n.name + " RSS", State: stateOK}
	switch {
	case n.rss.known:
		f.Found = fmt.Sprintf("%s, key of %d bytes, table over %d queues", n.rss.function, n.rss.key, n.rss.queues)
		if n.rss.function != "toeplitz" {
			f.State = stateNote
			f.Consequence = "dialled connections cannot be placed: their segments are handed from poller to poller"
			f.Fix = "ethtool -X " + n.name + " hfunc toeplitz"
		} else if n.rss.queues < min(pollers, n.queues) {
			f.State = stateNote
			f.Consequence = "some pollers get no frames"
			f.Fix = fmt.Sprintf("ethtool -X %s equal %d", n.name, min(pollers, n.queues))
		}
	case n.queues == 1:
		f.Found = "one queue, nothing to spread"
	default:
		f.Found = "the driver does not tell"
		if pollers > 1 {
			f.State = stateNote
			f.Consequence = "dialled connections cannot be placed: their segments are handed from poller to poller"
			f.Fix = "TPA_QUEUES=1, or an interface where ethtool -x shows a key"
		}
	}
	return f
}

// offloads is about what the interface does to segments on its own, nil when
// that is not known.
func (n *iface) offloads() []finding {
	if !n.features.known {
		return nil
	}
	f := finding{Name: n.name + " offloads", State: stateOK}
	var on []string
	for _, o := range []struct{ feature, name string }{
		{"rx-checksum", "rx-checksum"}, {"tx-checksum-ip-generic", "tx-checksum"}, {"tx-checksum-ipv4", "tx-checksum"},
		{"tx-tcp-segmentation", "tso"}, {"rx-hashing", "rx-hash"}, {"rx-lro", "lro"}, {"rx-gro-hw", "gro-hw"},
	} {
		if n.features.active[o.feature] && !slices.Contains(on, o.name) {
			on = append(on, o.name)
		}
	}
	f.Found = "none on"
	if len(on) > 0 {
		f.Found = strings.Join(on, ", ")
	}
	if n.features.active["rx-lro"] || n.features.active["rx-gro-hw"] {
		f.State = stateNote
		f.Consequence = "the interface joins segments, which many drivers refuse to combine with XDP"
		f.Fix = "ethtool -K " + n.name + " lro off rx-gro-hw off"
	}
	return []finding{f}
}

func (m *host) runtimeDir() finding {
	return finding{Name: "debug sockets", State: stateOK, Found: "in " + accel.DebugSocketDirs()[0]}
}

func printFindings(out io.Writer, findings []finding, b best) {
	marks := map[string]string{stateOK: "✓", stateNote: "!", stateMissing: "✗"}
	for _, f := range findings {
		fmt.Fprintf(out, "%s %-20s %s\n", marks[f.State], f.Name, f.Found)
		if f.Consequence != "" {
			fmt.Fprintf(out, "    so:   %s\n", f.Consequence)
		}
		if f.Fix != "" {
			fmt.Fprintf(out, "    fix:  %s\n", f.Fix)
		}
	}
	fmt.Fprintf(out, "\nBest mode now: %s. %s.\n", b.Mode, b.Why)
	if b.Use != "" {
		fmt.Fprintf(out, "Use it with: %s\n", b.Use)
	}
}
