package accel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// Config describes a runtime: which device, under which addresses, how it is
// polled. The zero value has no device and so leads to the fallback policy.
type Config struct {
	// Device names the network device:
	//
	//	eth0                         an interface shared with the kernel: by AF_XDP, or
	//	                             by a packet socket where its XDP is in use
	//	xdp:eth0, packet:eth0        the same, by the one way or the other only
	//	net_memif0,socket=/run/m.sock a DPDK virtual device (any name with "net_")
	//	0000:3b:00.0                 a PCI address, by DPDK
	//
	// Devices of DPDK need a program built with -tags dpdk. Default: none.
	Device string

	// Link is a device that the program opened itself; it wins over Device and is
	// closed with the runtime. Default: none.
	Link link.Device

	// Steering is how our flows come here while the kernel has the rest. Default:
	// SteerAuto.
	Steering Steering

	// Addrs are the local addresses with their prefix lengths, IPv4 and IPv6, at
	// most 256. fe80::/64 stands for the link-local address that comes of the
	// device's MAC address (EUI-64, RFC 4291). Default: those of the interface for a
	// shared device, none (an error) for others.
	Addrs []netip.Prefix

	// Zone is the zone of link-local addresses on a device of our own, as tpa0 is
	// in [fe80::1%tpa0]:80. On a shared device it is the interface's name, always.
	// Default: the device's name: net_memif0, 0000:3b:00.0.
	Zone string

	// Gateways are the next hops for everything outside the prefixes, at most one
	// per IP version. Default: those of the kernel for a shared device, else none.
	Gateways []netip.Addr

	// AllowFrom are the sources that may connect to listeners, at most 1024 prefixes:
	// SYNs of others are dropped and counted, on a shared interface by the filter in the
	// kernel. Connections of this host itself, and those by the kernel
	// (ListenConfig.Kernel), are not concerned. It can change while the program runs.
	// Default: everybody.
	AllowFrom []netip.Prefix

	// MTU is the greatest IP packet in bytes, 1280 to 65535 and at most what the
	// device takes. Default: the device's.
	MTU int

	// VLAN is the number of the VLAN (IEEE 802.1Q) that a device of DPDK belongs to,
	// 1 to 4094: its frames have tags then, and those of other VLANs or of none are
	// dropped. For a kernel interface, name its VLAN interface instead, such as eth0.10.
	// Default: 0, no tags.
	VLAN int

	// NoChecksum leaves the checksums of TCP out, and takes frames without. It is for
	// net_memif, whose shared memory does not change bytes, and has to be set at both
	// ends: an end without it drops what comes from one with it (RxBadChecksum). Default:
	// checksums are made and checked.
	NoChecksum bool

	// Queues is the number of device queues, and so of shards, 1 to 256. Default:
	// 1, or the queues of Link.
	Queues int

	// CPUs pins the poller of shard i to CPU CPUs[i]. Each pinned poller takes
	// that CPU for itself while there is traffic: GOMAXPROCS must be greater than
	// the number of queues. Default: pollers float.
	CPUs []int

	// Polling tunes how pollers idle. Default: see Polling.
	Polling Polling

	// TCP tunes the stacks. Default: see TCP.
	TCP TCP

	// Limits bound what peers can make the runtime hold. Default: see Limits.
	Limits Limits

	// DPDK holds what only DPDK devices need. Default: see DPDK.
	DPDK DPDK

	// XDP holds what only interfaces shared by AF_XDP need. Default: see XDP.
	XDP XDP

	// Kernel makes every listener accept the kernel's connections as well; see
	// ListenConfig.Kernel. Default: only those of the device.
	Kernel bool

	// HandOver lets the next process of the same user, which has it, too, take over the
	// port of a listener on a shared interface: it listens at the same address while
	// this one does. New connections are its own from then on, not one of them is
	// refused; Accept here returns those that were there, then ErrHandedOver, and they
	// go on. Default: the port is in use.
	HandOver bool

	// Fallback is what happens when acceleration cannot start. A wrong setting is an
	// error whatever it is. Default: FallbackAuto.
	Fallback Fallback

	// Firewall is what becomes of ports that the host's firewall has rules for. It is
	// asked when a listener is opened. Default: FirewallIgnore.
	Firewall Firewall

	// Random is where initial sequence numbers, ports and hash keys come from. Who
	// knows it can forge segments: only simulations that must repeat set it. It must
	// be safe for concurrent use. Default: the system's random numbers.
	Random io.Reader

	// Record is how many connections the flight recorder records at once, 1 to
	// 65536 at 1.6 KB each; negative for none. Its file lies next to the debug socket,
	// with the ending .rec for .sock, while the runtime is accelerated: after a
	// fallback there is none. Default: 1024.
	Record int

	// DebugSocket is the path of a Unix socket where the tools of tpa-bench find
	// the runtime, open to the same user and to root; "off" for none. It is there
	// while the runtime is accelerated: one that fell back leaves nothing on the
	// host, and neither does one on a system other than Linux. Default: in the first of
	// DebugSocketDirs that can be used.
	DebugSocket string

	// Logger receives what an operator should know. Default: slog.Default().
	Logger *slog.Logger

	// LogLevel is the least level of what goes to Logger, whatever level that takes
	// itself. Default: nil, what Logger takes.
	LogLevel slog.Leveler
}

// DPDK is the environment of DPDK devices. It applies once per process: the
// first runtime with a DPDK device sets it.
type DPDK = dpdk.EAL

// ErrNoDevice says that no device was configured.
var ErrNoDevice = errors.New("no device is configured: set TPA_DEV or Config.Device")

// ErrHandedOver is what Accept returns when another process has the port; see
// Config.HandOver. It is a net.ErrClosed, too.
var ErrHandedOver = fmt.Errorf("another process has the port now: %w", net.ErrClosed)

// ConfigFromEnv returns the configuration in the environment:
//
//	TPA_CONFIG    the name of a configuration file; see ConfigFromFile
//	TPA_DEV       Config.Device
//	TPA_STEERING  Config.Steering: auto, rules or whole
//	TPA_ADDR      Config.Addrs, separated by commas: 10.0.0.2/24,fd00::2/64
//	TPA_ZONE      Config.Zone
//	TPA_GATEWAY   Config.Gateways, separated by commas
//	TPA_ALLOW_FROM Config.AllowFrom, separated by commas: 10.0.0.0/8,fd00::/8
//	TPA_MTU       Config.MTU
//	TPA_VLAN      Config.VLAN
//	TPA_CHECKSUM  no is Config.NoChecksum, for net_memif
//	TPA_QUEUES    Config.Queues
//	TPA_CPUS      Config.CPUs, separated by commas
//	TPA_SPIN      Config.Polling.Spin, a duration such as 50us
//	TPA_MAX_SLEEP Config.Polling.MaxSleep, a duration
//	TPA_KERNEL    Config.Kernel: true or false
//	TPA_TCP       Config.TCP.Engine: tpa or gvisor
//	TPA_HANDOVER  Config.HandOver: true or false
//	TPA_FALLBACK  Config.Fallback: auto or never
//	TPA_FIREWALL  Config.Firewall: ignore or respect
//	TPA_RECORD    Config.Record: a number of connections or off
//	TPA_SOCKET    Config.DebugSocket: a path or off
//	TPA_LOG_LEVEL Config.LogLevel: debug, info, warn or error
//	TPA_MAX_CONNS Config.Limits.Connections
//	TPA_MAX_MEMORY_MB Config.Limits.Memory, in MB of 1048576 bytes
//	TPA_HUGEPAGES Config.DPDK.HugePages: auto, always or never
//	TPA_MEMORY_MB Config.DPDK.MemoryMB
//	TPA_XDP_PIN   Config.XDP.Pin: true or false
//	TPA_XDP_BUSY_POLL Config.XDP.BusyPoll, a duration
//
// A variable wins over the file. An unset or empty one leaves what the file says, or
// the default. Values are those of the fields, spelled exactly so, but that
// TPA_SPIN=0 is the shortest spin, 1 µs, where the field's 0 is the default. A
// variable with a bad value, and one that starts with TPA_ and is none of these, is
// an error, which names all of them and what they may hold. Only names that start
// with TPA_TEST_ are left to tests.
func ConfigFromEnv() (Config, error) { return configFrom(os.Environ()) }

// configFrom reads lines such as TPA_DEV=eth0 and ignores those of others.
func configFrom(environ []string) (Config, error) {
	values := make(map[string]string)
	for _, line := range environ {
		if name, v, ok := strings.Cut(line, "="); ok && strings.HasPrefix(name, "TPA_") && !strings.HasPrefix(name, "TPA_TEST_") {
			values[name] = strings.TrimSpace(v)
		}
	}
	var c Config
	var errs []error
	if file := values["TPA_CONFIG"]; file != "" {
		var err error
		if c, err = readFile(file); err != nil {
			errs = append(errs, fmt.Errorf("TPA_CONFIG: %w", err))
		}
	}
	delete(values, "TPA_CONFIG")
	for _, s := range settings {
		if v := values[s.Env]; s.Env != "" && v != "" {
			errs = append(errs, s.readEnv(&c, v))
		}
		delete(values, s.Env)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		errs = append(errs, fmt.Errorf("%s is no setting: see accel.ConfigFromEnv for those there are", name))
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// ConfigFromFile returns the configuration in a file of TOML (https://toml.io), such
// as
//
//	device = "eth0"
//	queues = 2
//	cpus = [2, 3]
//
//	[polling]
//	spin = "50us"
//
// Settings lists the keys; durations and addresses are strings. An unknown key and a
// bad value are errors, which name all of them and what they may hold.
func ConfigFromFile(name string) (Config, error) {
	c, err := readFile(name)
	if wrong := c.check(); wrong != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w", name, wrong))
	}
	if err != nil {
		return Config{}, err
	}
	return c, nil
}

// readFile reads a file whose settings need not fit together yet: the environment may
// change some of them. On error it returns those that it could read.
func readFile(name string) (Config, error) {
	var tree map[string]any
	if _, err := toml.DecodeFile(name, &tree); err != nil {
		return Config{}, fmt.Errorf("read %s: %w", name, err)
	}
	var c Config
	if err := errors.Join(readTable(&c, "", tree)...); err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// readTable reads the keys of a table, whose own key is within.
func readTable(c *Config, within string, table map[string]any) (errs []error) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		name := within + key
		var values []string
		switch v := table[key].(type) {
		case map[string]any:
			errs = append(errs, readTable(c, name+".", v)...)
			continue
		case []any:
			for _, element := range v {
				values = append(values, fmt.Sprint(element))
			}
		default:
			values = []string{fmt.Sprint(v)}
		}
		if s, ok := lookUp(name); !ok {
			errs = append(errs, fmt.Errorf("%s is no setting: see accel.Settings, or tpa-bench config show, for those there are", name))
		} else if err := s.read(c, name, values); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// ParseAddrs reads a list of addresses with prefix lengths, as TPA_ADDR has it.
func ParseAddrs(s string) ([]netip.Prefix, error) { return parseList(s, netip.ParsePrefix) }

// ParseGateways reads a list of addresses, as TPA_GATEWAY has it.
func ParseGateways(s string) ([]netip.Addr, error) { return parseList(s, netip.ParseAddr) }

func parseList[T any](s string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for part := range strings.SplitSeq(s, ",") {
		v, err := parse(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

const (
	minMTU, maxMTU = transport.MinMTU6, 65535 // bytes; a host with IPv6 has no smaller one
	maxQueues      = 256
	// maxVLAN is the greatest number of a VLAN; 4095 is reserved.
	maxVLAN = 4094
)

// maxAddrs is the number of addresses that a runtime serves at most: that of the
// filter of a shared interface (internal/bpf).
const maxAddrs = 256

// maxSources is the number of prefixes that the filter has room for.
const maxSources = 1024

// check refuses what no device could satisfy. The message names the field and
// its range.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Queues < 0 || c.Queues > maxQueues {
		bad("Config.Queues is %d: want 1 to %d, or 0 for the default", c.Queues, maxQueues)
	}
	if c.VLAN < 0 || c.VLAN > maxVLAN {
		bad("Config.VLAN is %d: want 1 to 4094, or 0 for no tags", c.VLAN)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		bad("Config.MTU is %d: want %d to %d bytes, or 0 for the device's", c.MTU, minMTU, maxMTU)
	}
	if c.Record > recorder.MaxConns {
		bad("Config.Record is %d: want 1 to %d connections, 0 for the default, or less for none", c.Record, recorder.MaxConns)
	}
	if len(c.Addrs) > maxAddrs {
		bad("Config.Addrs has %d addresses: at most %d", len(c.Addrs), maxAddrs)
	}
	for _, a := range c.Addrs {
		if !a.IsValid() || a.Addr().IsMulticast() || a.Addr().IsUnspecified() || a.Addr().Is4In6() {
			bad("Config.Addrs has %v: want unicast addresses", a)
		} else if wholeNetwork(a) {
			bad("Config.Addrs has %v, which is the address of a network: want that of a host in it", a)
		}
	}
	if strings.ContainsAny(c.Zone, "%[]") {
		bad("Config.Zone is %q: want a name that can follow the %% in an address", c.Zone)
	}
	versions := map[bool]int{}
	for _, g := range c.Gateways {
		if !g.IsValid() || g.IsMulticast() || g.IsUnspecified() || g.Is4In6() {
			bad("Config.Gateways has %v: want a unicast address", g)
		}
		if versions[g.Is4()]++; versions[g.Is4()] > 1 {
			bad("Config.Gateways has two addresses of one IP version: at most one each")
		}
		if !reachable(g, c.Addrs) {
			bad("Config.Gateways has %v, which is in no prefix of Config.Addrs: nobody could answer for it", g)
		}
	}
	if len(c.AllowFrom) > maxSources {
		bad("Config.AllowFrom has %d prefixes: at most %d", len(c.AllowFrom), maxSources)
	}
	for _, p := range c.AllowFrom {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			bad("Config.AllowFrom has %v: want prefixes without bits behind them, such as %v", p, p.Masked())
		}
	}
	// A device of the program's has the queues that it has.
	if queues := max(c.Queues, 1); c.Link == nil && len(c.CPUs) > 0 && len(c.CPUs) != queues {
		bad("Config.CPUs names %d CPUs for %d queues: want one for each", len(c.CPUs), queues)
	}
	for _, cpu := range c.CPUs {
		if cpu < 0 {
			bad("Config.CPUs has %d: want CPU numbers from 0", cpu)
		}
	}
	if !steerings.has(c.Steering) {
		bad("Config.Steering is %v: want SteerAuto, SteerRules or SteerWhole", c.Steering)
	}
	if !fallbacks.has(c.Fallback) {
		bad("Config.Fallback is %v: want FallbackAuto or FallbackNever", c.Fallback)
	}
	if !firewalls.has(c.Firewall) {
		bad("Config.Firewall is %v: want FirewallIgnore or FirewallRespect", c.Firewall)
	}
	if err := c.checkDevice(); err != nil {
		errs = append(errs, err)
	}
	if err := c.DPDK.Check(); err != nil {
		errs = append(errs, err)
	}
	if err := c.Polling.check(); err != nil {
		errs = append(errs, err)
	}
	if err := c.XDP.check(); err != nil {
		errs = append(errs, err)
	}
	if err := c.TCP.check(); err != nil {
		errs = append(errs, err)
	}
	if err := limits.Limits(c.Limits).Check(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// wholeNetwork tells whether a prefix has the first or, with IPv4, the last address of
// a network, where no host is. fe80::/64 stands for the address made from the MAC
// address.
func wholeNetwork(p netip.Prefix) bool {
	if p.Bits() >= p.Addr().BitLen()-1 || p == netip.MustParsePrefix("fe80::/64") {
		return false
	}
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	broadcast, _ := netip.AddrFromSlice(last)
	return p == p.Masked() || p.Addr().Is4() && p.Addr() == broadcast
}

// reachable tells whether a gateway can be a neighbour. With addresses of their own
// length (10.0.0.2/32), as clouds have them, any can.
func reachable(gateway netip.Addr, addrs []netip.Prefix) bool {
	known := false
	for _, p := range addrs {
		if p.Addr().Is4() != gateway.Is4() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		known = true
		if p.Contains(gateway) || p.IsSingleIP() {
			return true
		}
	}
	return !known || gateway.IsLinkLocalUnicast()
}

// checkNetwork refuses networks other than TCP, as package net words it.
func checkNetwork(network string) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return nil
	}
	return net.UnknownNetworkError(network)
}
