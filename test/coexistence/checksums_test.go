package coexistence

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testnet"
)

// A pairing is a way to join two hosts of one machine, whose kernel leaves checksums
// open and segments uncut between them.
type pairing struct {
	name string
	// guest and server are commands of iproute2 for what joins them, made of a veth pair.
	guest, server []string
	// The interfaces in the end. lent was made on the server.
	guestDevice, serverDevice, lent string
	modes                           []string
}

var pairings = []pairing{
	{name: "veth", guestDevice: "eth0", serverDevice: "eth0", modes: []string{"xdp:", "packet:"}},
	{
		name: "bridge", guestDevice: "eth0", serverDevice: "br0", modes: []string{"", "xdp:"},
		server: []string{"link add br0 type bridge", "link set eth0 master br0"},
	},
	{
		name: "bridge with ports of several containers", guestDevice: "eth0", serverDevice: "docker0", modes: []string{""},
		server: []string{
			"link add docker0 type bridge", "link add port2 type veth peer name container2", "link set eth0 master docker0",
			"link set port2 master docker0", "link set port2 up", "link set container2 up",
		},
	},
	{
		name: "macvlan", guestDevice: "mac1", serverDevice: "mac0", lent: "mac1", modes: []string{"", "xdp:"},
		server: []string{"link add mac0 link eth0 type macvlan mode bridge", "link add mac1 link eth0 type macvlan mode bridge"},
	},
	{
		name: "vxlan", guestDevice: "vx0", serverDevice: "vx0", modes: []string{"", "xdp:"},
		guest:  []string{"link add vx0 type vxlan id 7 local 10.99.1.1 remote 10.99.1.2 dstport 4789"},
		server: []string{"link add vx0 type vxlan id 7 local 10.99.1.2 remote 10.99.1.1 dstport 4789"},
	},
}

// TestChecksums: what a sender on the same machine sends, without checksums and in
// segments of 64 KB, is served in every mode, as by the kernel. So it is with IP options.
func TestChecksums(t *testing.T) {
	testnet.Need(t, testnet.Root, testnet.Tool("ip"))
	for _, pairing := range pairings {
		for _, mode := range pairing.modes {
			t.Run(pairing.name+", "+mode+pairing.serverDevice, func(t *testing.T) { pairing.test(t, mode) })
		}
	}
}

func (p pairing) test(t *testing.T, mode string) {
	n := testnet.New(t)
	guest, server := n.Host("guest"), n.Host("server")
	n.Connect(guest, server, testnet.Wire{Offloads: true})
	c := &crossing{T: t}
	for _, command := range p.guest {
		c.ip(guest, command)
	}
	for _, command := range p.server {
		c.ip(server, command)
	}
	if p.lent != "" {
		var to netns.NsHandle
		var err error
		guest.Do(func() { to, err = netns.Get() })
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		link, err := server.Netlink.LinkByName(p.lent)
		if err == nil {
			err = server.Netlink.LinkSetNsFd(link, int(to))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []struct {
		host         *testnet.Host
		device, last string
	}{{guest, p.guestDevice, "1"}, {server, p.serverDevice, "2"}} {
		c.ip(end.host, "addr add 10.98.0."+end.last+"/24 dev "+end.device)
		c.ip(end.host, "addr add fd98::"+end.last+"/64 dev "+end.device+" nodad")
		c.ip(end.host, "link set "+end.device+" up")
	}
	echoServer(t, guest, ":8000")
	echoServer(t, server, ":8000")

	log := new(testnet.Output)
	rt := acceleratedEcho(t, server, mode+p.serverDevice, port, log)
	status := rt.Status()
	t.Log(status.Device.Mode)
	accelerated := (&accel.Dialer{Runtime: rt, Timeout: 5 * time.Second}).Dial
	const size = 1 << 20
	kernel := (&net.Dialer{Timeout: 5 * time.Second}).Dial
	options := (&net.Dialer{Timeout: 5 * time.Second, Control: withOptions}).Dial
	for _, addrs := range [][2]string{{"10.98.0.1", "10.98.0.2"}, {"fd98::1", "fd98::2"}} {
		guestAddr, serverAddr := netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
		for _, row := range []struct {
			name string
			host *testnet.Host
			dial func(network, addr string) (net.Conn, error)
			to   netip.AddrPort
		}{
			{"the kernel", guest, kernel, netip.AddrPortFrom(serverAddr, 8000)},
			{"the kernel, with options", guest, options, netip.AddrPortFrom(serverAddr, 8000)},
			{"accelerated", guest, kernel, netip.AddrPortFrom(serverAddr, port)},
			{"accelerated, with options", guest, options, netip.AddrPortFrom(serverAddr, port)},
			{"accelerated, dials", server, accelerated, netip.AddrPortFrom(guestAddr, 8000)},
		} {
			row.host.Do(func() {
				start := time.Now()
				again, err := bulkExchange(row.dial, row.to.String(), size)
				if err != nil || again > size/10 {
					t.Errorf("%s, %v: %d of %d bytes sent again, %v", row.name, row.to, again, size, err)
				}
				t.Logf("%s, %v: %v, %d bytes sent again", row.name, row.to, time.Since(start), again)
			})
		}
	}
	if n := rt.Status().Sharing.Routes.KernelDials; n != 0 {
		t.Errorf("%d dials went through the kernel", n)
	}
}

// withOptions gives a socket IPv4 options or IPv6 destination options, of no meaning.
func withOptions(network, _ string, raw syscall.RawConn) error {
	var err error
	cerr := raw.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
		} else {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00")
		}
	})
	return errors.Join(cerr, err)
}

// bulkExchange sends n bytes and reads them back at the same time. again is how many
// bytes a kernel that dials has sent again.
func bulkExchange(dial func(network, addr string) (net.Conn, error), to string, n int) (again int, err error) {
	c, err := dial("tcp", to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		return 0, errors.Join(err, <-wrote)
	}
	if !bytes.Equal(got, sent) {
		return 0, errors.New("what came back differs")
	}
	if kernel, ok := c.(*net.TCPConn); ok {
		raw, err := kernel.SyscallConn()
		if err != nil {
			return 0, err
		}
		raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				again = int(info.Bytes_retrans)
			}
		})
		return again, err
	}
	return 0, <-wrote
}
