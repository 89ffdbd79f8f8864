package testnet

import (
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Net is a network of one test. It is used by the goroutine of that test.
type Net struct {
	tb    testing.TB
	wires int
}

// New starts an empty network. It skips the test where namespaces cannot be made
// (see Need), and removes the network when the test ends.
func New(tb testing.TB) *Net {
	tb.Helper()
	Need(tb, Netns)
	return &Net{tb: tb}
}

// Host adds a host with nothing but a loopback interface. The name is for
// messages only.
func (n *Net) Host(name string) *Host {
	n.tb.Helper()
	ns, err := newNamespace()
	if err != nil {
		n.tb.Fatalf("make namespace for host %s: %v", name, err)
	}
	h := &Host{Name: name, tb: n.tb, ns: ns}
	n.tb.Cleanup(h.close)
	h.Netlink, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		n.tb.Fatalf("open netlink in host %s: %v", name, err)
	}
	lo, err := h.Netlink.LinkByName("lo")
	if err == nil {
		err = h.Netlink.LinkSetUp(lo)
	}
	if err != nil {
		n.tb.Fatalf("set up lo in host %s: %v", name, err)
	}
	// Addresses work at once, and no host sends what a test does not expect.
	for _, key := range []string{"accept_dad", "accept_ra", "router_solicitations"} {
		h.Sysctl("net/ipv6/conf/all/"+key, "0")
		h.Sysctl("net/ipv6/conf/default/"+key, "0")
	}
	return h
}

// newNamespace makes a network namespace and returns with the thread back in the
// namespace it came from.
func newNamespace() (netns.NsHandle, error) {
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return netns.None(), err
	}
	defer old.Close()
	ns, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		return netns.None(), err
	}
	if err := netns.Set(old); err != nil {
		// The thread stays locked, so that it ends with its goroutine.
		ns.Close()
		return netns.None(), fmt.Errorf("return from the new namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return ns, nil
}

// A Wire describes a veth pair.
type Wire struct {
	// MTU is the greatest IP packet in bytes. Default: 1500.
	MTU int
	// Queues is the number of receive and of transmit queues at each end, 1 to
	// 64. What enters at transmit queue i of one end leaves at receive queue i of
	// the other. Default: 1.
	Queues int
	// Offloads leaves checksum and segmentation offload on. The kernel then puts
	// frames of up to 64 KB without a TCP checksum on the wire: faster between
	// two kernels, useless to any other stack. Default: off.
	Offloads bool
}

// Connect joins two hosts and returns the ends of the wire, up and with one
// address per IP version: 10.99.K.1/24 and fd99:K::1/64 at a, .2 and ::2 at b,
// where K counts the wires of the network from 1.
func (n *Net) Connect(a, b *Host, w Wire) (*Interface, *Interface) {
	n.tb.Helper()
	if w.MTU == 0 {
		w.MTU = 1500
	}
	if w.Queues == 0 {
		w.Queues = 1
	}
	n.wires++
	ends := [2]*Interface{a.nextInterface(), b.nextInterface()}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = ends[0].Name, w.MTU
	attrs.NumTxQueues, attrs.NumRxQueues = w.Queues, w.Queues
	// The kernel brings a link up at once only when the two ends have different
	// indexes, else within a second (linkwatch); in two fresh namespaces both
	// would be 2.
	attrs.Index = 1000 + n.wires
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = ends[1].Name, netlink.NsFd(b.ns)
	if err := a.Netlink.LinkAdd(veth); err != nil {
		n.tb.Fatalf("make a veth pair from %s to %s: %v", a.Name, b.Name, err)
	}
	for i, end := range ends {
		end.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(n.wires), byte(i + 1)}), 24)
		end.IPv6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 3: byte(n.wires), 15: byte(i + 1)}), 64)
		end.configure(w)
	}
	for _, end := range ends {
		end.waitUp()
	}
	return ends[0], ends[1]
}

// Netns is the ability to make network namespaces and to enter them.
var Netns = Requirement{
	Name: "network namespaces",
	Probe: sync.OnceValue(func() error {
		if _, err := exec.LookPath("nsenter"); err != nil {
			return err
		}
		ns, err := newNamespace()
		if err != nil {
			return err
		}
		return ns.Close()
	}),
	Fix: "run as root (sudo -E make test), in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN; nsenter is in the package util-linux",
}
