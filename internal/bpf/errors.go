package bpf

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/ethtool"
	"github.com/gotpa/tpa/link"
)

// ErrOccupied is wrapped by errors of Open where another program has the
// interface's XDP.
var ErrOccupied = errors.New("in use")

// enotsupp is what some drivers answer in place of EOPNOTSUPP; C libraries do not
// know it.
const enotsupp = syscall.Errno(524)

// Capabilities says how to give a program the rights that it needs.
const Capabilities = "run as root, or: setcap cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon,cap_ipc_lock+ep PROGRAM"

// NoInterface explains that no interface has the name.
func NoInterface(name string, err error) error {
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		err = fmt.Errorf("%w (%w)", err, syscall.ENODEV)
	}
	return &link.InterfaceError{Interface: name, Problem: "no such interface in this network namespace", Remedy: "`ip link` lists those there are", Err: err}
}

// wantEthernet refuses interfaces whose frames the filter cannot read, and those
// whose frames are another interface's, with the addresses.
func wantEthernet(attrs *netlink.LinkAttrs) error {
	if attrs.MasterIndex != 0 {
		// An interface in a VRF keeps its addresses.
		if m, err := netlink.LinkByIndex(attrs.MasterIndex); err == nil && m.Type() != "vrf" {
			return &link.InterfaceError{
				Interface: attrs.Name, Problem: fmt.Sprintf("a part of %s (%s), which has its frames and the addresses", m.Attrs().Name, m.Type()),
				Remedy: upperOf(attrs.Name, m), Err: errors.ErrUnsupported,
			}
		}
	}
	if len(attrs.HardwareAddr) != 6 {
		return &link.InterfaceError{
			Interface: attrs.Name, Problem: "not an Ethernet interface", Remedy: "name one that has a MAC address of 6 bytes", Err: errors.ErrUnsupported,
		}
	}
	return nil
}

// upperOf says what to name in the place of a part of another interface.
func upperOf(part string, m netlink.Link) string {
	if m.Type() == "openvswitch" {
		// The master of all ports is the data path, ovs-system, which has no addresses.
		return "name the interface of its bridge, which `ovs-vsctl port-to-br " + part + "` prints"
	}
	return "name " + m.Attrs().Name
}

// Gathers tells whether an interface gathers others, as a bond, a team, and a
// virtual interface that a passed-through card speeds up do (hv_netvsc,
// net_failover). In native mode their XDP program runs on the lower interfaces,
// whose queues are no queues of the upper one: a socket there gets nothing, and the
// frames are lost (xsk_rcv_check in the kernel's net/xdp/xsk.c). In generic mode the
// program runs on the upper one.
func Gathers(l netlink.Link) bool {
	if kind := l.Type(); kind == "bond" || kind == "team" {
		return true
	}
	s, err := ethtool.Open()
	if err != nil {
		return false
	}
	defer s.Close()
	d, err := s.Driver(l.Attrs().Name)
	return err == nil && (d.Name == "net_failover" || d.Name == "hv_netvsc" && hasParts(l.Attrs().Index))
}

// hasParts tells whether others are parts of an interface.
func hasParts(index int) bool {
	all, err := netlink.LinkList()
	return err != nil || slices.ContainsFunc(all, func(l netlink.Link) bool { return l.Attrs().MasterIndex == index })
}

// WhyGathers is why a filter is not attached in native mode to such an interface.
const WhyGathers = "its XDP program would run on the interfaces below, whose queues are not its own"

func errGathers(l netlink.Link) error {
	return &link.InterfaceError{Interface: l.Attrs().Name, Problem: WhyGathers, Remedy: "use AttachGeneric or AttachAuto", Err: errors.ErrUnsupported}
}

// errFilter explains why the filter could not be loaded or attached.
func errFilter(l netlink.Link, mode Mode, err error) error {
	attrs := l.Attrs()
	e := &link.InterfaceError{Interface: attrs.Name, Err: err}
	_, noSys := ebpf.PossibleCPU()
	switch {
	case noSys != nil:
		e.Problem = "loading the filter needs the number of processors, which /sys tells"
		e.Remedy = "mount -t sysfs sysfs /sys, as container engines do"
	case errors.Is(err, errPin):
		e.Problem = "the filter cannot be pinned in " + PinDir
		e.Remedy = "mount -t bpf bpf " + filepath.Dir(PinDir) + ", or do not ask to pin"
	case errors.Is(err, os.ErrPermission):
		e.Problem = "loading the filter needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
		e.Remedy = Capabilities
	case occupied(err):
		e.Problem = "another XDP program is attached" + describeProgram(attrs.Xdp)
		e.Remedy = "stop its owner; if it has none: ip link set dev " + attrs.Name + " xdp off"
		e.Err = fmt.Errorf("%w: %w", ErrOccupied, err)
	case errors.Is(err, syscall.ENODEV):
		e.Problem = "the interface is gone"
		e.Remedy = "`ip link` lists those there are"
	case errors.Is(err, ebpf.ErrNotSupported) && mode == Ingress:
		e.Problem = "kernel " + KernelRelease() + " cannot attach a filter behind XDP"
		e.Remedy = "use Linux 6.6 or newer"
	case errors.Is(err, ebpf.ErrNotSupported):
		e.Problem = "kernel " + KernelRelease() + " cannot load or attach the filter"
		e.Remedy = "use Linux 5.10 or newer"
	case errors.Is(err, syscall.ENOSPC) && attrs.Slave == nil && l.Type() == "veth":
		e.Problem = "fewer receive queues than the other end of the veth pair has transmit queues"
		e.Remedy = fmt.Sprintf("ethtool -L %s rx N with N transmit queues at the peer, or use AttachGeneric", attrs.Name)
	case mode == Native && attrs.MTU > 1500 && !errors.Is(err, syscall.EOPNOTSUPP):
		e.Problem = fmt.Sprintf("the driver does not run XDP at an MTU of %d", attrs.MTU)
		e.Remedy = fmt.Sprintf("ip link set dev %s mtu 1500 (drivers take up to about 3500), or use AttachGeneric", attrs.Name)
	case mode == Native && (errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, enotsupp)):
		e.Problem = "the driver does not run XDP"
		e.Remedy = "use AttachGeneric or AttachAuto"
	default:
		e.Problem = "cannot attach the filter in " + mode.String() + " mode"
		e.Remedy = "`dmesg` may say why; AttachGeneric works with any driver"
	}
	return e
}

// occupied tells whether attaching failed because of another XDP program.
func occupied(err error) bool {
	return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EEXIST)
}

// describeProgram names an attached XDP program as far as may be known.
func describeProgram(x *netlink.LinkXdp) string {
	if x == nil || !x.Attached {
		return ""
	}
	return nameProgram(x) + owners(x.ProgId)
}

func nameProgram(x *netlink.LinkXdp) string {
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.ProgId))
	if err != nil {
		return fmt.Sprintf(": number %d", x.ProgId)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return fmt.Sprintf(": number %d", x.ProgId)
	}
	if info.Name == filterProgTpaFilter {
		return ": the filter of another process that uses this library"
	}
	return fmt.Sprintf(": number %d, name %q", x.ProgId, info.Name)
}

// owners names the processes that hold an XDP program by a link, as far as this
// one may look into them.
func owners(program uint32) string {
	files, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	want := fmt.Sprintf("\nprog_id:\t%d\n", program)
	var pids []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(b), want) {
			continue
		}
		if pid := strings.Split(f, "/")[2]; !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return ""
	}
	return ", process " + strings.Join(pids, ", ")
}

// KernelRelease returns the version of the running kernel: "6.1.0-18-amd64".
func KernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Gone is what a queue answers when its interface was removed. network names the
// kind of socket: "xdp", "packet".
func Gone(name, network string) error {
	return &link.InterfaceError{
		Interface: name, Problem: "the interface is gone", Remedy: "open it again when it is back",
		Err: &net.OpError{Op: "read", Net: network, Err: syscall.ENODEV},
	}
}
