package accel

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/eventlog"
	"github.com/gotpa/tpa/internal/limits"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/netstack"
	"github.com/gotpa/tpa/internal/processor"
	"github.com/gotpa/tpa/internal/recorder"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/shard"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
)

// A Runtime is a device and the shards that drive its queues. One that could not
// start and fell back has no device and serves through the kernel.
type Runtime struct {
	config Config
	log    *slog.Logger
	logTo  slog.Handler // of Config.Logger
	// reason is why the runtime fell back, nil for an accelerated one.
	reason error
	// failure is why it works no longer, nil while it does.
	failure atomic.Pointer[error]

	device     link.Device
	sharing    *sharing // nil on a device of our own
	neighbours *netif.Neighbours
	shards     []*shard.Shard
	stacks     []transport.Stack
	budget     *limits.Budget // of what the shards share
	next       atomic.Uint32  // the shard of the next dial
	spreading  spreading
	spreadNow  atomic.Pointer[rss.Spread] // nil while unknown

	dials   dialCounters
	events  eventlog.Log
	history history
	socket  *debugSocket // nil without one
	// recorder records connections, nil does not.
	recorder *recorder.Recorder
	// socketDirs are DebugSocketDirs, and madeDirs those that this runtime made.
	socketDirs, madeDirs []string
	started              time.Time

	// stopped ends watchers.
	stopped  chan struct{}
	watchers sync.WaitGroup

	// changing guards the following field, and makes changes one at a time.
	changing sync.Mutex
	current  Config // with the settings that Change changed

	// mu guards the following fields.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	closed    bool

	fallbackListens, fallbackDials atomic.Uint64
}

// New starts a runtime. When that fails and the fallback policy is FallbackAuto, it
// logs why and returns a runtime that serves through the kernel. A setting that no
// device could satisfy is an error whatever the policy.
func New(c Config) (*Runtime, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("accel: %w", err)
	}
	rt := newRuntime(c)
	if err := rt.start(); err != nil {
		if c.Fallback != FallbackAuto {
			return nil, fmt.Errorf("accel: %w", err)
		}
		rt.fallBack(err)
		return rt, nil
	}
	rt.openSocket()
	return rt, nil
}

// newRuntime returns a runtime that has not started. What it logs, and what the
// layers below log, passes its event log.
func newRuntime(c Config) *Runtime {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	rt := &Runtime{started: time.Now(), listeners: make(map[net.Listener]struct{}), socketDirs: DebugSocketDirs()}
	rt.logTo = c.Logger.Handler()
	rt.log = slog.New(rt.events.Handler(rt.logTo))
	rt.events.SetLevel(c.LogLevel)
	c.Logger = rt.log
	rt.config, rt.current = c, c
	return rt
}

func (rt *Runtime) fallBack(reason error) {
	rt.reason = reason
	rt.log.Warn("serving through the kernel: acceleration could not start", "reason", reason)
}

// start opens the device and starts its shards, or leaves nothing behind.
func (rt *Runtime) start() (err error) {
	c := &rt.config
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			rt.stop()
			for _, dir := range rt.madeDirs {
				os.Remove(dir) // unless another program uses it meanwhile
			}
		}
	}()
	rt.device = dev
	info := dev.Info()
	var resolver netif.Resolver
	if name := sharedInterface(dev); name != "" {
		if rt.sharing, err = rt.share(dev, name, len(c.Addrs) == 0); err != nil {
			return err
		}
		if err := rt.sharing.checkAddrs(); err != nil {
			return err
		}
		resolver = rt.sharing
		if c.Zone != "" {
			return fmt.Errorf("Config.Zone is %q: the zone of a shared device is the name of its interface, %s", c.Zone, name)
		}
	} else if len(c.Addrs) == 0 {
		return errors.New("no address for the device: set TPA_ADDR or Config.Addrs, such as 10.0.0.2/24")
	}
	if c.Addrs, err = withLinkLocal(c.Addrs, info.HardwareAddr); err != nil {
		return err
	}
	mtu := info.MTU
	if c.MTU != 0 {
		if c.MTU > info.MTU {
			return fmt.Errorf("Config.MTU is %d: %s takes at most %d", c.MTU, info.Name, info.MTU)
		}
		mtu = c.MTU
	}
	queues := info.Queues
	if c.Queues != 0 {
		if c.Queues > queues {
			return fmt.Errorf("Config.Queues is %d: %s has %d", c.Queues, info.Name, queues)
		}
		queues = c.Queues
	}
	if err := checkPinning(c.CPUs, queues); err != nil {
		return err
	}
	rt.openRecorder()
	rt.neighbours = netif.NewNeighbours(link.MAC(info.HardwareAddr), clock.New(), resolver)
	rt.budget = limits.NewBudget(limits.Limits(c.Limits), c.AllowFrom)
	for i := range queues {
		var router netif.Router
		if rt.sharing != nil {
			if router, err = rt.sharing.router(); err != nil {
				return err
			}
		}
		cpu := -1
		if len(c.CPUs) > 0 {
			cpu = c.CPUs[i]
		}
		s, err := shard.New(shard.Options{
			Index: i, Device: info, Queue: dev.Queue(i), Neighbours: rt.neighbours, MTU: mtu,
			CPU: cpu, Polling: processor.Polling(c.Polling), TCP: shardTCP(c.TCP), Zone: transport.Zone{Name: cmp.Or(c.Zone, info.Name)},
			Budget: rt.budget, Random: c.Random, Recorder: rt.recorder, Router: router, Logger: rt.log, Broken: rt.fail,
		})
		if err != nil {
			return err
		}
		rt.shards = append(rt.shards, s)
		rt.stacks = append(rt.stacks, s)
	}
	if rt.sharing != nil {
		if f, ok := rt.sharing.steering.Filter().(limits.Shield); ok {
			rt.budget.SetShield(f)
		}
		if err := rt.allowFrom(c.AllowFrom); err != nil {
			return err
		}
	}
	if err := shard.Join(rt.shards); err != nil {
		return err
	}
	rt.spread()
	for _, s := range rt.shards {
		s.Start()
	}
	if rt.sharing != nil {
		if len(c.Gateways) > 0 {
			rt.setRoutes()
		}
		if err := rt.sharing.start(mtu); err != nil {
			return err
		}
	} else {
		for _, a := range c.Addrs {
			if err := rt.addAddress(a); err != nil {
				return err
			}
		}
		rt.setRoutes()
	}
	rt.stopped = make(chan struct{})
	rt.watchers.Go(func() { rt.budget.Keep(rt.stopped) })
	rt.watchers.Go(rt.watch)
	rt.offerInterface()
	facts := []any{"device", info.Name, "driver", info.Driver}
	if info.Mode != "" {
		facts = append(facts, "mode", info.Mode, "queue_modes", slices.Compact(slices.Sorted(slices.Values(info.QueueModes))))
	}
	rt.log.Info("accelerating", append(facts, "queues", queues, "addrs", rt.localAddrs(), "mtu", mtu)...)
	return nil
}

// withLinkLocal returns the addresses with the one made from the device's MAC
// address in the place of fe80::/64.
func withLinkLocal(addrs []netip.Prefix, mac net.HardwareAddr) ([]netip.Prefix, error) {
	prefix := netip.MustParsePrefix("fe80::/64")
	i := slices.Index(addrs, prefix)
	if i < 0 {
		return addrs, nil
	}
	if len(mac) != len(link.MAC{}) {
		return nil, fmt.Errorf("Config.Addrs has %v, but the device has no MAC address of 6 bytes to make an address of", prefix)
	}
	addrs = slices.Clone(addrs)
	addr := header.LinkLocalAddr(tcpip.LinkAddress(mac))
	addrs[i] = netip.PrefixFrom(netstack.Addr(addr), prefix.Bits())
	return addrs, nil
}

// localAddrs are the addresses that the runtime started with.
func (rt *Runtime) localAddrs() []netip.Prefix {
	if len(rt.config.Addrs) == 0 && rt.sharing != nil {
		return rt.sharing.follower.State().Addrs
	}
	return rt.config.Addrs
}

func (rt *Runtime) addAddress(p netip.Prefix) error {
	a := tcpip.AddressWithPrefix{Address: netstack.Address(p.Addr()), PrefixLen: p.Bits()}
	for _, s := range rt.shards {
		if err := s.AddAddress(a); err != nil {
			return err
		}
	}
	rt.neighbours.AddLocal(a.Address)
	return nil
}

func (rt *Runtime) removeAddress(p netip.Prefix) error {
	var errs []error
	a := netstack.Address(p.Addr())
	rt.neighbours.RemoveLocal(a)
	for _, s := range rt.shards {
		errs = append(errs, s.RemoveAddress(a))
	}
	return errors.Join(errs...)
}

// setRoutes installs the prefixes of the addresses and the gateways.
func (rt *Runtime) setRoutes() {
	var routes []shard.Route
	for _, p := range rt.localAddrs() {
		a := tcpip.AddressWithPrefix{Address: netstack.Address(p.Addr()), PrefixLen: p.Bits()}
		routes = append(routes, shard.Route{Destination: a.Subnet()})
	}
	for _, g := range rt.config.Gateways {
		everything := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(make([]byte, g.BitLen()/8))}
		routes = append(routes, shard.Route{
			Destination: everything.Subnet(), Gateway: netstack.Address(g),
		})
	}
	for _, s := range rt.shards {
		s.SetRoutes(routes)
	}
}

// stop ends the shards and gives the device back.
func (rt *Runtime) stop() error {
	if rt.stopped != nil {
		close(rt.stopped)
		rt.watchers.Wait()
	}
	if rt.sharing != nil {
		rt.sharing.stopFollowing()
	}
	for _, s := range rt.shards {
		s.Close()
	}
	if rt.recorder != nil {
		rt.recorder.Close()
	}
	if rt.neighbours != nil {
		rt.neighbours.Close()
	}
	if rt.sharing != nil {
		rt.sharing.stop()
	}
	return rt.device.Close()
}

// Close closes the listeners, resets the connections that are still open, stops
// the pollers and gives the device back. Closing twice is harmless.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	if rt.closed {
		rt.mu.Unlock()
		return nil
	}
	rt.closed = true
	listeners := rt.listeners
	rt.listeners = nil
	rt.mu.Unlock()
	rt.socket.close()
	for l := range listeners {
		l.Close()
	}
	if rt.reason != nil {
		return nil
	}
	return rt.stop()
}

// Accelerated reports whether connections run on the device, and if not, why.
// A runtime whose device is lost is so no longer.
func (rt *Runtime) Accelerated() (bool, error) {
	why := rt.notAccelerated()
	return why == nil, why
}

// notAccelerated returns why the runtime does not serve by a device, or nil.
func (rt *Runtime) notAccelerated() error {
	if failure := rt.failure.Load(); failure != nil {
		return *failure
	}
	return rt.reason
}

// fail is called when the device is lost. It closes the listeners, whose Accept
// returns err from then on. Connections stay, and time out.
func (rt *Runtime) fail(err error) {
	if !rt.failure.CompareAndSwap(nil, &err) {
		return
	}
	rt.log.Error("the device is lost: listeners end, connections will time out", "err", err)
	rt.mu.Lock()
	listeners := maps.Clone(rt.listeners)
	rt.mu.Unlock()
	// Not by the caller: it may be one that the listeners wait for.
	go func() {
		for l := range listeners {
			l.Close()
		}
	}()
}

// useKernel tells whether listeners and dials are the kernel's: the runtime fell
// back, or would if it started now that its device is lost. An error says that it
// must not.
func (rt *Runtime) useKernel() (bool, error) {
	why := rt.notAccelerated()
	if why != nil && rt.config.Fallback == FallbackNever {
		return false, why
	}
	return why != nil, nil
}

// errClosed is what a closed runtime answers.
var errClosed = fmt.Errorf("the runtime is closed: %w", net.ErrClosed)

// keep remembers a listener, so that Close closes it.
func (rt *Runtime) keep(l net.Listener) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return false
	}
	rt.listeners[l] = struct{}{}
	return true
}

func (rt *Runtime) forget(l net.Listener) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	delete(rt.listeners, l)
}

var standard struct {
	sync.Mutex
	rt *Runtime
}

// Default returns the default runtime. The first call starts it from the
// environment; see ConfigFromEnv.
func Default() (*Runtime, error) {
	standard.Lock()
	defer standard.Unlock()
	if standard.rt != nil {
		return standard.rt, nil
	}
	c, err := ConfigFromEnv()
	if err != nil {
		return nil, fmt.Errorf("accel: %w", err)
	}
	rt, err := New(c)
	if err != nil {
		return nil, err
	}
	standard.rt = rt
	return rt, nil
}

// SetDefault makes rt the default runtime and returns the one before, which may
// be nil. The caller closes it.
func SetDefault(rt *Runtime) (old *Runtime) {
	standard.Lock()
	defer standard.Unlock()
	old, standard.rt = standard.rt, rt
	return old
}
