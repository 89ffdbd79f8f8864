package accel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotpa/tpa/internal/histogram"
	"github.com/gotpa/tpa/internal/transport"
	tpanet "github.com/gotpa/tpa/net"
)

// defaultFallbackDelay is how long the first IP version may take before the
// other one is tried as well: RFC 6555 recommends 300 ms, as package net.
const defaultFallbackDelay = 300 * time.Millisecond

// A Dialer holds options for connecting, as net.Dialer does. The zero value
// dials on the default runtime.
type Dialer struct {
	// Runtime to dial on. Default: that of Default.
	Runtime *Runtime
	// Timeout, Deadline, LocalAddr, FallbackDelay, KeepAlive, KeepAliveConfig and
	// Resolver are as in net.Dialer. LocalAddr must be a *net.TCPAddr.
	Timeout         time.Duration
	Deadline        time.Time
	LocalAddr       net.Addr
	FallbackDelay   time.Duration
	KeepAlive       time.Duration
	KeepAliveConfig net.KeepAliveConfig
	Resolver        *net.Resolver
	// Near is a connection on whose shard the new one is wanted, so that one poller
	// serves both: that of a proxy's client. It must be of the same runtime.
	// Default: the shards take turns.
	Near net.Conn
}

// Dial connects to an address, like net.Dial. The network must be "tcp", "tcp4"
// or "tcp6".
func Dial(network, address string) (net.Conn, error) {
	var d Dialer
	return d.Dial(network, address)
}

// DialTimeout is Dial with a limit on the time it takes, like net.DialTimeout.
func DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d := Dialer{Timeout: timeout}
	return d.Dial(network, address)
}

// Dial connects to an address, like net.Dialer.Dial.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to an address, like net.Dialer.DialContext: a name's
// addresses are tried one after the other, the two IP versions side by side. The
// context ends the dial, not the connection. All errors are *net.OpError values.
//
// Addresses of this host ("localhost", ":80", those of a shared interface) are
// the kernel's, where no listener of the runtime has the port for itself:
// docs/compat.md has the rules.
//
// A handler in a poller (Serve) lets others go on meanwhile.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	tpanet.Detach(func() { c, err = d.dialContext(ctx, network, address) })
	return c, err
}

func (d *Dialer) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if err := checkNetwork(network); err != nil {
		return fail(err)
	}
	rt, err := orDefault(d.Runtime)
	if err != nil {
		return fail(err)
	}
	byKernel, err := rt.useKernel()
	if err != nil {
		return fail(err)
	}
	if byKernel {
		kernel := net.Dialer{
			Timeout: d.Timeout, Deadline: d.Deadline, LocalAddr: d.LocalAddr, FallbackDelay: d.FallbackDelay,
			KeepAlive: d.KeepAlive, KeepAliveConfig: d.KeepAliveConfig, Resolver: d.Resolver,
		}
		rt.fallbackDials.Add(1)
		return kernel.DialContext(ctx, network, address)
	}
	deadline := d.deadline(time.Now())
	if _, err := netip.ParseAddrPort(address); err != nil && !deadline.IsZero() { // there is a name to look up
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
		deadline = time.Time{}
	}
	laddr, addrs, err := resolveDial(ctx, cmp.Or(d.Resolver, net.DefaultResolver), network, address, d.LocalAddr)
	if err != nil {
		return fail(err)
	}
	a := attempt{rt: rt, network: network, laddr: laddr, near: d.Near, options: transport.DialOptions{
		KeepAlive: keepAlive(d.KeepAlive, d.KeepAliveConfig), Deadline: deadline,
	}}
	first, second := partition(addrs)
	start := time.Now()
	var c net.Conn
	if len(second) == 0 || d.FallbackDelay < 0 {
		c, err = a.serial(ctx, append(first, second...))
	} else {
		delay := d.FallbackDelay
		if delay == 0 {
			delay = defaultFallbackDelay
		}
		c, err = a.race(ctx, first, second, delay)
	}
	rt.dials.count(err, time.Since(start))
	return c, err
}

// deadline is the earlier of Timeout and Deadline, zero for none.
func (d *Dialer) deadline(now time.Time) time.Time {
	earliest := d.Deadline
	if d.Timeout != 0 {
		if t := now.Add(d.Timeout); earliest.IsZero() || t.Before(earliest) {
			earliest = t
		}
	}
	return earliest
}

// errFull says that Limits.Connections is reached.
var errFull = fmt.Errorf("the runtime has as many connections as Config.Limits allows: %w", os.NewSyscallError("connect", syscall.ENOBUFS))

// attempt is one dial with its options.
type attempt struct {
	rt      *Runtime
	network string
	laddr   *net.TCPAddr
	near    net.Conn // on whose shard, nil for any
	options transport.DialOptions
}

// partition splits addresses into those of the IP version of the first and the
// others.
func partition(addrs []*net.TCPAddr) (first, second []*net.TCPAddr) {
	v4 := addrs[0].IP.To4() != nil
	for _, a := range addrs {
		if (a.IP.To4() != nil) == v4 {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	return first, second
}

// serial tries the addresses in order and returns the first error. Each gets a
// fair part of the time left, at least 2 s, as in package net.
func (a *attempt) serial(ctx context.Context, addrs []*net.TCPAddr) (net.Conn, error) {
	var firstErr error
	for i, raddr := range addrs {
		one, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok && i < len(addrs)-1 {
			share := max(time.Until(deadline)/time.Duration(len(addrs)-i), 2*time.Second)
			one, cancel = context.WithTimeout(ctx, share)
		}
		c, err := a.dial(one, raddr)
		cancel()
		if err == nil {
			return c, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, firstErr
}

// race tries the second list after the delay, or as soon as the first has
// failed, and returns the first connection.
func (a *attempt) race(ctx context.Context, first, second []*net.TCPAddr, delay time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c       net.Conn
		err     error
		primary bool
	}
	results := make(chan result)
	returned := make(chan struct{})
	defer close(returned)
	run := func(addrs []*net.TCPAddr, primary bool) {
		c, err := a.serial(ctx, addrs)
		select {
		case results <- result{c, err, primary}:
		case <-returned:
			if c != nil {
				c.Close()
			}
		}
	}
	go run(first, true)
	wait := time.NewTimer(delay)
	defer wait.Stop()
	running, started := 1, false
	var primaryErr error
	for {
		select {
		case <-wait.C:
			if !started {
				started = true
				running++
				go run(second, false)
			}
		case r := <-results:
			if r.err == nil {
				return r.c, nil
			}
			running--
			if r.primary {
				primaryErr = r.err
				if !started {
					wait.Reset(0)
					continue
				}
			}
			if running == 0 && started {
				return nil, primaryErr
			}
		}
	}
}

// dial connects to one address. When the shard that it begins with has no port
// left for that address, another one may.
func (a *attempt) dial(ctx context.Context, raddr *net.TCPAddr) (net.Conn, error) {
	a.rt.mu.Lock()
	closed := a.rt.closed
	a.rt.mu.Unlock()
	if closed {
		return nil, &net.OpError{Op: "dial", Net: a.network, Addr: raddr, Err: errClosed}
	}
	raddr, kernel := a.rt.local(raddr)
	if kernel {
		return a.dialKernel(ctx, raddr)
	}
	if a.rt.sharing != nil && a.rt.sharing.byKernel(a.laddr, raddr) {
		return a.dialKernel(ctx, raddr)
	}
	if a.rt.budget.Full() {
		return nil, &net.OpError{Op: "dial", Net: a.network, Addr: raddr, Err: errFull}
	}
	var lease *lease
	if a.rt.sharing != nil {
		var err error
		if lease, err = a.rt.sharing.dial(a.network, a.laddr); err != nil {
			return nil, &net.OpError{Op: "dial", Net: a.network, Addr: raddr, Err: err}
		}
	}
	var c net.Conn
	var err error
	for {
		had := 0
		if a.rt.sharing != nil {
			had = a.rt.sharing.blocks()
		}
		first := a.shard(raddr)
		for i := range a.rt.stacks {
			c, err = transport.Dial(ctx, a.rt.stacks[(first+i)%len(a.rt.stacks)], a.laddr, raddr, a.network, a.options)
			if !errors.Is(err, syscall.EADDRNOTAVAIL) {
				break
			}
		}
		if had == 0 || !errors.Is(err, transport.ErrPortsTaken) || a.rt.sharing.addBlock(had) != nil {
			break
		}
	}
	if lease != nil {
		lease.end() // as far as it has no connection
	}
	return c, err
}

// shard chooses the shard of a connection.
func (a *attempt) shard(raddr *net.TCPAddr) int {
	if len(a.rt.stacks) == 1 {
		return 0
	}
	if a.laddr != nil && a.laddr.Port != 0 && !unspecified(a.laddr) {
		// The answers' queue is given.
		if queue, ok := a.rt.queueOf(raddr.AddrPort(), a.laddr.AddrPort()); ok {
			return queue
		}
	}
	if c, ok := a.near.(*tpanet.Conn); ok {
		if i := c.Shard(); i < len(a.rt.stacks) {
			return i
		}
	}
	return int(a.rt.next.Add(1)-1) % len(a.rt.stacks)
}

// dialCounters count how dials ended.
type dialCounters struct {
	ok, refused, timeout, canceled, failed atomic.Uint64
	duration                               histogram.Histogram
}

func (d *dialCounters) count(err error, took time.Duration) {
	d.duration.Observe(took)
	var t interface{ Timeout() bool }
	switch {
	case err == nil:
		d.ok.Add(1)
	case errors.Is(err, context.Canceled):
		d.canceled.Add(1)
	case errors.Is(err, syscall.ECONNREFUSED):
		d.refused.Add(1)
	case errors.As(err, &t) && t.Timeout():
		d.timeout.Add(1)
	default:
		d.failed.Add(1)
	}
}
