package veth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Interface is the name of each end inside its namespace.
const Interface = "eth0"

// Pair is two namespaces with an end of a veth pair in each.
type Pair struct{ ends [2]*os.File }

// New makes a pair whose ends have one address each, and as many queues as asked
// for. mtu is that of both ends, 0: 1500. An error wraps os.ErrPermission where the process may not make namespaces.
func New(queues, mtu int, first, second netip.Prefix) (_ *Pair, err error) {
	p := &Pair{}
	defer func() {
		if err != nil {
			p.Close()
			err = fmt.Errorf("make two network namespaces with a veth pair: %w", permission(err))
		}
	}()
	var handles [2]*netlink.Handle
	for i := range p.ends {
		if p.ends[i], err = namespace(); err != nil {
			return nil, err
		}
		if handles[i], err = netlink.NewHandleAt(netns.NsHandle(p.ends[i].Fd()), unix.NETLINK_ROUTE); err != nil {
			return nil, err
		}
		defer handles[i].Close()
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Interface
	attrs.NumTxQueues, attrs.NumRxQueues = queues, queues
	attrs.MTU = mtu
	// With equal indexes at both ends, the kernel would bring them up within a
	// second, not at once.
	attrs.Index = 1000
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace = Interface, netlink.NsFd(p.ends[1].Fd())
	if err := handles[0].LinkAdd(pair); err != nil {
		return nil, err
	}
	for i, addr := range []netip.Prefix{first, second} {
		if err := configure(handles[i], addr, mtu); err != nil {
			return nil, err
		}
	}
	for _, h := range handles {
		if err := waitUp(h); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// First and Second return the namespaces, which are the pair's until Close.
func (p *Pair) First() *os.File  { return p.ends[0] }
func (p *Pair) Second() *os.File { return p.ends[1] }

// Close lets go of the namespaces. They go with the last process inside.
func (p *Pair) Close() {
	for _, f := range p.ends {
		if f != nil {
			f.Close()
		}
	}
}

// namespace makes a network namespace, and returns with the thread back in the
// one that it came from.
func namespace() (*os.File, error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		// As the kernel does over loopback: a client that connects anew for each request
		// would be out of ports within seconds.
		err = os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0)
	}
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that nothing else runs on it.
		return f, errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return f, err
}

func configure(h *netlink.Handle, addr netip.Prefix, mtu int) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	l, err := h.LinkByName(Interface)
	if err != nil {
		return err
	}
	if mtu != 0 { // the peer does not take it over
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("MTU %d: %w", mtu, err)
		}
	}
	mask := net.CIDRMask(addr.Bits(), addr.Addr().BitLen())
	return errors.Join(
		h.LinkSetUp(lo),
		h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: mask}}),
		h.LinkSetUp(l),
	)
}

// waitUp returns when the kernel sends through the interface.
func waitUp(h *netlink.Handle) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := h.LinkByName(Interface)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the link is not up after 10 s")
		}
	}
}

// permission says who may do what was refused.
func permission(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%w: run it as root", err)
	}
	return err
}
