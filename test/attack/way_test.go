package attack

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link/dpdk"
)

// A way is how a server is attacked: over which device, IP version and TCP.
type way struct {
	name   string
	device string
	ipv6   bool
	engine accel.Engine // of TCP
}

const (
	overXDP  = "xdp:eth0"               // shared with the kernel
	overDPDK = "net_af_xdp0,iface=eth0" // a device of our own
)

// ways has each device with each IP version, and each TCP.
var ways = []way{
	{name: "AF_XDP, IPv4", device: overXDP},
	{name: "AF_XDP, IPv6", device: overXDP, ipv6: true},
	{name: "DPDK, IPv4", device: overDPDK},
	{name: "DPDK, IPv6, gVisor's TCP", device: overDPDK, ipv6: true, engine: accel.EngineGVisor},
}

// overWays runs a test over each way. The first one is where a test does all it
// can; to the others a part of it is enough.
func overWays(t *testing.T, f func(t *testing.T, w way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			w.need(t)
			f(t, w)
		})
	}
}

func (w way) first() bool { return w.name == ways[0].name }

// ours tells whether the kernel has no part in the device.
func (w way) ours() bool { return !strings.HasPrefix(w.device, "xdp:") }

func (w way) need(t *testing.T) {
	t.Helper()
	testnet.Need(t, testnet.Root)
	if w.ours() {
		testnet.Need(t, withDPDK)
	}
}

var withDPDK = testnet.Requirement{
	Name: "a test program with DPDK",
	Probe: func() error {
		if dpdk.Version() == "" {
			return errors.New("this one was built without the tag dpdk")
		}
		return nil
	},
	Fix: "make test-attack",
}

// addr is the address of an interface that the way leads to.
func (w way) addr(i *testnet.Interface) netip.Addr {
	if w.ipv6 {
		return i.IPv6.Addr()
	}
	return i.IPv4.Addr()
}

// An order is what a server's program is told, as accel.Config.
type order struct {
	Device   string
	Addrs    []netip.Prefix
	Gateways []netip.Addr
	MTU      int
	Engine   accel.Engine
	Limits   accel.Limits
}

// order releases the interface if it is to be ours.
func (w way) order(from, to *testnet.Interface, limits accel.Limits) order {
	o := order{Device: w.device, Engine: w.engine, Limits: limits}
	if w.ours() {
		to.Release()
		o.Addrs = []netip.Prefix{to.IPv4, to.IPv6}
		o.Gateways = []netip.Addr{from.IPv4.Addr(), from.IPv6.Addr()}
	}
	return o
}

// filters tells whether a filter answers SYNs while there is no room for
// handshakes.
func (w way) filters() bool { return !w.ours() && w.engine == accel.EngineTPA }
