package accel

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/transport"
	tpanet "github.com/gotpa/tpa/net"
)

// A ListenConfig holds options for listening, as net.ListenConfig does. The zero
// value listens on the default runtime.
type ListenConfig struct {
	// Runtime to listen on. Default: that of Default.
	Runtime *Runtime
	// KeepAlive is as in net.ListenConfig: the time between keep-alive probes of
	// accepted connections, negative for none. Default: 15 s.
	KeepAlive time.Duration
	// KeepAliveConfig is as in net.ListenConfig. Default: unused.
	KeepAliveConfig net.KeepAliveConfig
	// Backlog is the number of connections that may wait for Accept, per shard, 1
	// to 65535. Default: 4096.
	Backlog int
	// Kernel makes the kernel listen at the same address and port as well, and
	// Accept return its connections, too: those of clients on this host, and on
	// networks that the device is not part of. tpanet.OriginOf tells which way one
	// came. The kernel must have the address: on a device of our own, where it has
	// not, listen on all addresses (":6379"). Default: Config.Kernel.
	Kernel bool
}

// Listen announces on a local address, like net.Listen. The network must be
// "tcp", "tcp4" or "tcp6".
func Listen(network, address string) (net.Listener, error) {
	var lc ListenConfig
	return lc.Listen(context.Background(), network, address)
}

// Listen announces on a local address, like net.ListenConfig.Listen. All errors
// are *net.OpError values. Loopback addresses are the kernel's.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	fail := func(addr net.Addr, err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: addr, Err: err}
	}
	if err := checkNetwork(network); err != nil {
		return fail(nil, err)
	}
	rt, err := orDefault(lc.Runtime)
	if err != nil {
		return fail(nil, err)
	}
	byKernel, err := rt.useKernel()
	if err != nil {
		return fail(nil, err)
	}
	byTheKernel := func() (net.Listener, error) {
		kernel := lc.kernelConfig()
		l, err := kernel.Listen(ctx, network, address)
		if err == nil {
			rt.fallbackListens.Add(1)
		}
		return l, err
	}
	if byKernel {
		return byTheKernel()
	}
	laddr, err := resolveListen(ctx, network, address)
	if err != nil {
		return fail(nil, err)
	}
	if laddr.IP.IsLoopback() {
		kernel := lc.kernelConfig() // no device has the address
		return kernel.Listen(ctx, network, address)
	}
	if rt.sharing != nil {
		if err := rt.sharing.bypass(network, laddr); err != nil {
			if rt.config.Fallback == FallbackNever {
				return fail(laddr, err)
			}
			rt.log.Warn("serving a port through the kernel", "port", laddr.Port, "reason", err)
			return byTheKernel()
		}
	}
	l, err := lc.listen(ctx, rt, network, laddr)
	if err != nil {
		return nil, err // not l, which would be a net.Listener that is not nil
	}
	if l.kernel != nil {
		return tpanet.Merge(l, l.kernel), nil
	}
	return l, nil
}

// PerShard announces on a local address with one listener for each shard, for
// programs that run an accept loop per shard: connections of one listener share a
// poller, and their loop shares nothing with others. Where the kernel serves, too
// (Kernel), its listener is the last one; a runtime that fell back has only that.
// Close all of them: peers whose connections arrive on a closed one are refused.
func (lc *ListenConfig) PerShard(ctx context.Context, network, address string) ([]net.Listener, error) {
	rt, err := orDefault(lc.Runtime)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	if why := rt.notAccelerated(); why != nil || len(rt.stacks) == 1 && !lc.Kernel && !rt.config.Kernel {
		l, err := lc.Listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	if err := checkNetwork(network); err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	laddr, err := resolveListen(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	if laddr.IP.IsLoopback() || rt.sharing != nil && rt.config.Firewall == FirewallRespect && rt.sharing.bypass(network, laddr) != nil {
		l, err := lc.Listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	whole, err := lc.listen(ctx, rt, network, laddr)
	if err != nil {
		return nil, err
	}
	parts := whole.Split()
	whole.open.Store(int32(len(parts)))
	var all []net.Listener
	for _, p := range parts {
		all = append(all, &part{Listener: p, whole: whole})
	}
	if whole.kernel != nil {
		all = append(all, whole.kernel)
	}
	return all, nil
}

// part is what one shard has of a listener.
type part struct {
	*tpanet.Listener
	whole *listener
}

// Accept is net.Listener's, and tells of a lost device.
func (p *part) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	return c, p.whole.why(err)
}

// Close closes the part. The port is free when all parts are closed.
func (p *part) Close() error {
	err := p.Listener.Close()
	if err == nil && p.whole.open.Add(-1) == 0 {
		p.whole.Close()
	}
	return err
}

// listen listens on the device and, if that is wanted, by the kernel.
func (lc *ListenConfig) listen(ctx context.Context, rt *Runtime, network string, laddr *net.TCPAddr) (*listener, error) {
	if !lc.Kernel && !rt.config.Kernel {
		return lc.listenOnce(rt, network, laddr, nil)
	}
	for attempt := 1; ; attempt++ {
		l, err := lc.listenOnce(rt, network, laddr, func(l *listener) (net.Listener, error) {
			return lc.listenKernel(ctx, l, network, laddr)
		})
		if err == nil || laddr.Port != 0 || attempt == transport.PortAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return l, err // another port would not help
		}
	}
}

// listenOnce listens on the device, and by kernel if that is not nil. laddr is
// left as it is.
func (lc *ListenConfig) listenOnce(rt *Runtime, network string, laddr *net.TCPAddr, kernel func(*listener) (net.Listener, error)) (*listener, error) {
	addr := *laddr
	fail := func(err error) (*listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: laddr, Err: err}
	}
	var lease *lease
	if rt.sharing != nil {
		var err error
		if lease, err = rt.sharing.reserve(network, &addr); err != nil {
			return fail(err)
		}
	}
	l, err := transport.Listen(rt.stacks, &addr, network, transport.ListenOptions{
		Backlog: lc.backlog(), KeepAlive: keepAlive(lc.KeepAlive, lc.KeepAliveConfig),
	})
	if err != nil {
		if lease != nil {
			lease.release()
		}
		return nil, err
	}
	if lease != nil {
		// Last, so that nobody is refused who comes while a port is handed over.
		if err := lease.claimPort(); err != nil {
			l.Close()
			return fail(err)
		}
	}
	tracked := &listener{Listener: l.(*tpanet.Listener), rt: rt, lease: lease}
	if kernel != nil {
		if tracked.kernel, err = kernel(tracked); err != nil {
			tracked.Close()
			return nil, err
		}
	}
	tracked.offer(network, laddr)
	if !rt.keep(tracked) {
		tracked.Close()
		return fail(errClosed)
	}
	rt.log.Debug("listening", "addr", l.Addr())
	return tracked, nil
}

func (lc *ListenConfig) backlog() int { return cmp.Or(lc.Backlog, transport.DefaultBacklog) }

// listener is a listener that its runtime knows of.
type listener struct {
	*tpanet.Listener
	rt     *Runtime
	lease  *lease       // of the port on a shared device, else nil
	kernel net.Listener // nil without one
	once   sync.Once
	open   atomic.Int32 // parts that are open, if it was split

	offered    *offer      // nil where the port is not offered to other processes
	handedOver atomic.Bool // and one has taken it
}

// Accept is net.Listener's, and tells of a lost device.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return c, l.why(err)
}

// why replaces the error of a listener that the runtime closed, because its device is
// lost or its port was handed over.
func (l *listener) why(err error) error {
	if l.handedOver.Load() && errors.Is(err, net.ErrClosed) {
		return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: ErrHandedOver}
	}
	if failure := l.rt.failure.Load(); failure != nil && errors.Is(err, net.ErrClosed) {
		l.Close() // returns when the port is free
		return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: *failure}
	}
	return err
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		l.offered.close()
		if l.kernel != nil {
			l.kernel.Close()
		}
		if l.lease != nil && !l.handedOver.Load() {
			l.lease.end()
		}
		l.rt.forget(l)
		l.rt.log.Debug("no longer listening", "addr", l.Addr())
	})
	return err
}

func orDefault(rt *Runtime) (*Runtime, error) {
	if rt != nil {
		return rt, nil
	}
	return Default()
}

// keepAlive merges the two ways to ask for keep-alive, as package net does.
func keepAlive(period time.Duration, c net.KeepAliveConfig) net.KeepAliveConfig {
	if c.Enable || period < 0 {
		return c
	}
	if period == 0 {
		period = transport.KeepAlive
	}
	return net.KeepAliveConfig{Enable: true, Idle: period, Interval: period}
}
