package scenario

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

// A kernel is a network namespace with a TUN device whose other end the test
// holds. Each run has a peer address of its own there, so that many can go on
// at once.
type kernel struct {
	host *testnet.Host
	tun  *os.File

	mu    sync.Mutex
	peers map[netip.Addr]chan arrival
	last  uint16
}

var (
	kernel4, kernel6 = netip.MustParseAddr("10.98.0.1"), netip.MustParseAddr("fd98::1")

	tunDevice = testnet.Requirement{
		Name: "TUN devices",
		Probe: func() error {
			f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return f.Close()
		},
		Fix: "modprobe tun",
	}
)

// newKernel makes one with a value for the sysctl tcp_early_retrans, which turns
// tail loss probes on (3) or off (0).
func newKernel(t *testing.T, tailProbes string) *kernel {
	testnet.Need(t, testnet.Root, tunDevice)
	k := &kernel{host: testnet.New(t).Host("linux"), peers: map[netip.Addr]chan arrival{}}
	var err error
	k.host.Do(func() { k.tun, err = openTUN("scenario0") })
	if err != nil {
		t.Fatalf("open a TUN device: %v", err)
	}
	t.Cleanup(func() { k.tun.Close() })
	device, err := k.host.Netlink.LinkByName("scenario0")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"10.98.0.1/16", "fd98::1/64"} {
		addr, err := netlink.ParseAddr(p)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := k.host.Netlink.AddrAdd(device, addr); err != nil {
			t.Fatalf("add %s: %v", p, err)
		}
	}
	if err := k.host.Netlink.LinkSetUp(device); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"tcp_congestion_control": "reno",
		// Neither a guess that a timeout was spurious (RFC 5682) nor waiting for more
		// to send at once.
		"tcp_early_retrans":   tailProbes,
		"tcp_frto":            "0",
		"tcp_tso_win_divisor": "100",
		// No run learns from the one before it.
		"tcp_no_metrics_save": "1",
	} {
		k.host.Sysctl("net/ipv4/"+key, value)
	}
	go k.read()
	for _, f := range families {
		k.awaitReply(t, f.v6)
	}
	return k
}

// awaitReply returns when the kernel answers on its address, which for IPv6 it
// does some time after the device is up.
func (k *kernel) awaitReply(t *testing.T, v6 bool) {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		s := newRun(k.newHost(), &scenario{}, v6)
		s.ourPort = 9
		if err := s.send(mustParse("S 0")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.expect(mustParse("RA 0 ack 1"), 20*time.Millisecond); err == nil {
			return
		}
	}
	t.Fatal("the kernel does not answer through its TUN device")
}

// openTUN makes a TUN device in the namespace of the thread.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read hands out what the kernel sends, until the device is closed.
func (k *kernel) read() {
	b := make([]byte, 1<<16)
	for {
		n, err := k.tun.Read(b)
		if err != nil {
			return
		}
		now := time.Now()
		p, err := testframe.ParseIP(b[:n])
		if err != nil && !p.Dst.IsValid() {
			continue
		}
		k.mu.Lock()
		c := k.peers[p.Dst]
		k.mu.Unlock()
		select {
		case c <- arrival{now, append([]byte(nil), b[:n]...)}:
		default: // nobody listens any more
		}
	}
}

// A kernelHost is the kernel as one run sees it.
type kernelHost struct {
	*kernel
	peer4, peer6 netip.Addr
	packets      chan arrival
}

// newHost reserves addresses for a run.
func (k *kernel) newHost() *kernelHost {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	n := k.last + 256
	h := &kernelHost{
		kernel: k, packets: make(chan arrival, 1<<14),
		peer4: netip.AddrFrom4([4]byte{10, 98, byte(n >> 8), byte(n)}),
		peer6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x98, 14: byte(n >> 8), 15: byte(n)}),
	}
	k.peers[h.peer4], k.peers[h.peer6] = h.packets, h.packets
	return h
}

func (h *kernelHost) send(packet []byte) { h.tun.Write(packet) }

func (h *kernelHost) received() <-chan arrival { return h.packets }

func (h *kernelHost) addrs(v6 bool) (ours, peer netip.Addr) {
	if v6 {
		return kernel6, h.peer6
	}
	return kernel4, h.peer4
}

func (h *kernelHost) listen(addr netip.AddrPort, sc *scenario) (l net.Listener, err error) {
	h.host.Do(func() {
		if sc.backlog > 0 {
			l, err = listenShort(addr, sc.backlog)
			return
		}
		lc := net.ListenConfig{KeepAlive: -1}
		if sc.cubic {
			lc.Control = func(_, _ string, raw syscall.RawConn) (err error) {
				outer := raw.Control(func(fd uintptr) {
					err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
				})
				return errors.Join(outer, err)
			}
		}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp", addr.String())
	})
	return l, err
}

// listenShort listens at any port with a backlog, which package net does not let
// one choose.
func listenShort(addr netip.AddrPort, backlog int) (net.Listener, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // FileListener has its own
	if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, backlog)); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}

func (h *kernelHost) dial(ctx context.Context, to netip.AddrPort) (c net.Conn, err error) {
	h.host.Do(func() {
		d := net.Dialer{KeepAlive: -1}
		c, err = d.DialContext(ctx, "tcp", to.String())
	})
	return c, err
}

// settle has nothing to wait for: the kernel handles a packet while it is written
// to the device.
func (h *kernelHost) settle() {}

func (h *kernelHost) real() bool { return true }
