//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

// Drivers that end at a kernel interface are tried in a network namespace
// of their own: a raw socket on the other side of the wire plays the peer.

// ownNetwork gives a program its own network namespace.
func ownNetwork(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET }

// raw is a packet socket on an interface.
type raw int

func openRaw(iface string) (raw, error) {
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return 0, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return 0, err
	}
	return raw(fd), unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
}

// testEtherType is of frames that no kernel sends by itself (IEEE 802
// experimental use).
const testEtherType = 0x88b5

// next returns the next frame of an EtherType.
func (r raw) next(etherType uint16) ([]byte, error) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(int(r), b)
		if err != nil {
			return nil, err
		}
		if n >= 14 && binary.BigEndian.Uint16(b[12:]) == etherType {
			return b[:n], nil
		}
	}
}

// setUp sets all interfaces up.
func setUp() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}

// wire makes a pair of interfaces if the device needs one, opens the port, and
// returns it with a socket on the other side.
func wire(o order) (*dpdk.Port, raw, error) {
	other := "dpdk-tap"
	if !strings.HasPrefix(o.Ports[0].Device, "net_tap") {
		other = "dpdk-b"
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "dpdk-a"}, PeerName: "dpdk-b"}
		if err := netlink.LinkAdd(pair); err != nil {
			return nil, 0, err
		}
		if err := setUp(); err != nil {
			return nil, 0, err
		}
	}
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return nil, 0, err
	}
	if err := setUp(); err != nil {
		return nil, 0, err
	}
	r, err := openRaw(other)
	return p, r, err
}

// oneEachWay sends a frame out of a port and one into it.
func oneEachWay(o order, in *bufio.Scanner) error {
	p, r, err := wire(o)
	if err != nil {
		return err
	}
	if !poll(p.LinkUp) {
		return errors.New("the link does not come up")
	}
	want := bytesOf(1514, 3)
	copy(want, "\xff\xff\xff\xff\xff\xff")
	copy(want[6:], p.Info().HardwareAddr)
	binary.BigEndian.PutUint16(want[12:], testEtherType)

	if err := send(p.Queue(0), len(want), link.TxOffload{}, func(b []byte) { copy(b, want) }); err != nil {
		return err
	}
	// Some drivers send from their next burst on.
	p.Queue(0).Flush()
	got, err := r.next(testEtherType)
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("outside got %x, %v, want %x", got, err, want)
	}

	copy(want, p.Info().HardwareAddr)
	copy(want[6:], "\x02dpdk1")
	if _, err := unix.Write(int(r), want); err != nil {
		return err
	}
	for {
		f, err := receive(p.Queue(0))
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint16(f.Data[12:]) != testEtherType {
			continue // the kernel says hello
		}
		if !bytes.Equal(f.Data, want) {
			return fmt.Errorf("inside got %x, want %x", f.Data, want)
		}
		break
	}
	fmt.Println(p.Info().Driver)
	in.Scan()
	return p.Close()
}

func TestDriversOfTheKernel(t *testing.T) {
	if unix.Geteuid() != 0 {
		lacking(t, "needs root to make a network namespace")
	}
	for driver, device := range map[string]string{
		"net_af_packet": "net_af_packet0,iface=dpdk-a",
		"net_af_xdp":    "net_af_xdp0,iface=dpdk-a",
		"net_tap":       "net_tap0,iface=dpdk-tap",
	} {
		t.Run(driver, func(t *testing.T) {
			p := start(t, "wire", order{
				EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
				Ports: []dpdk.Config{{Device: device}},
			}, func(cmd *exec.Cmd) { ownNetwork(cmd); silent(t)(cmd) })
			p.expect(t, driver)
			p.end(t)
		})
	}
}

// tcpFrame returns an IPv4 TCP frame as a device wants it that is to fill in both
// checksums, or to cut it if mss is not 0.
func tcpFrame(payload []byte, mss int) ([]byte, link.TxOffload) {
	s := testframe.TCP{
		Src: netip.MustParseAddrPort("10.0.0.1:4660"), Dst: netip.MustParseAddrPort("10.0.0.2:80"),
		Flags: header.TCPFlagAck | header.TCPFlagPsh, Window: 256, Payload: payload, Sum: testframe.Partial,
	}
	if mss != 0 {
		s.Sum = testframe.PartialTSO
	}
	frame := s.Frame()
	copy(frame[24:], []byte{0, 0})
	return frame, link.TxOffload{
		Flags: link.TxIPv4Checksum | link.TxTCPChecksum,
		L2Len: 14, L3Len: 20, L4Len: 20, MSS: uint16(mss),
	}
}

// fillChecksums sends frames whose checksums the device must make.
func fillChecksums(o order, in *bufio.Scanner) error {
	p, r, err := wire(o)
	if err != nil {
		return err
	}
	if c := p.Info().Capabilities; !c.TxIPv4Checksum || !c.TxTCPChecksum || !c.RxChecksum {
		return fmt.Errorf("%+v: want checksums", c)
	}
	for size := range 100 {
		frame, offload := tcpFrame(bytesOf(size, byte(size)), 0)
		if err := send(p.Queue(0), len(frame), offload, func(b []byte) { copy(b, frame) }); err != nil {
			return err
		}
		got, err := r.next(unix.ETH_P_IP)
		if err != nil {
			return err
		}
		segment, err := testframe.Parse(got)
		if err != nil {
			return fmt.Errorf("payload of %d: %w", size, err)
		}
		if !bytes.Equal(segment.TCP().Payload(), frame[54:]) {
			return errors.New("the payload changed")
		}

		// And back: the device finds the sums right, then wrong.
		for _, want := range []link.ChecksumStatus{link.Good, link.Bad} {
			if want == link.Bad {
				got[len(got)-1] ^= 1
			}
			if _, err := unix.Write(int(r), got); err != nil {
				return err
			}
			for {
				f, err := receive(p.Queue(0))
				if err != nil {
					return err
				}
				if !bytes.Equal(f.Data, got) {
					continue // the kernel says hello
				}
				if f.Checksum != want {
					return fmt.Errorf("payload of %d: status %d, want %d", size, f.Checksum, want)
				}
				break
			}
		}
	}
	fmt.Println("filled")
	in.Scan()
	return p.Close()
}

func TestChecksumsByDevice(t *testing.T) {
	if unix.Geteuid() != 0 {
		lacking(t, "needs root to make a network namespace")
	}
	p := start(t, "fill", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
		Ports: []dpdk.Config{{Device: "net_tap0,iface=dpdk-tap"}},
	}, ownNetwork)
	p.expect(t, "filled")
	p.end(t)
}

// sendBig sends frames of all sizes up to the greatest that the device cuts.
func sendBig(o order, in *bufio.Scanner) error {
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	if !poll(p.LinkUp) {
		return errors.New("the link does not come up")
	}
	fmt.Println(p.Info().TSO)
	for in.Scan() {
		var size int
		if _, err := fmt.Sscan(in.Text(), &size); err != nil {
			return err
		}
		frame, offload := tcpFrame(bytesOf(size-54, 7), 1000)
		testframe.SumIPv4(frame[14:34])
		if err := send(p.Queue(0), size, offload, func(b []byte) { copy(b, frame) }); err != nil {
			return err
		}
	}
	if s := p.Queue(0).Stats(); s.TxDropped != 0 || s.TxFull != 0 {
		return fmt.Errorf("%+v, want nothing dropped", s)
	}
	return p.Close()
}

// A virtio device takes frames to be cut; here its host gets them whole.
func TestBigFrames(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "v.sock")
	host := open(t, dpdk.Config{
		Device: "net_vhost0,iface=" + socket + ",queues=1,tso=1,legacy-ol-flags=0",
		MTU:    65389, RxRing: 64, TxRing: 64, Staging: 64,
	})
	p := start(t, "big", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
		Ports: []dpdk.Config{{Device: "net_virtio_user0,path=" + socket + ",queues=1"}},
	}, nil)
	largest, err := strconv.Atoi(p.next(t))
	if err != nil || largest < 16000 {
		t.Fatalf("frames of up to %d bytes, %v", largest, err)
	}
	q := host.Queue(0)
	// More frames than there are big buffers, and no others.
	const frames = 2000
	for i := range frames {
		size := 1600 + i*(largest-1600)/(frames-1)
		p.say(t, fmt.Sprint(size))
		f, err := receive(q)
		if err != nil {
			t.Fatalf("frame of %d bytes: %v, %+v", size, err, q.Stats())
		}
		if len(f.Data) != size || !bytes.Equal(f.Data[54:], bytesOf(size-54, 7)) {
			t.Fatalf("got %d bytes, want %d, or other ones", len(f.Data), size)
		}
		if f.Checksum != link.Good {
			t.Fatalf("status %d on a frame that its sender vouches for", f.Checksum)
		}
	}
	p.end(t)
}

// leftOver describes what an interface has that a fresh one has not.
func leftOver(name string) (string, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return "", err
	}
	var left []string
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		left = append(left, "XDP program")
	}
	if l.Attrs().RawFlags&unix.IFF_PROMISC != 0 {
		left = append(left, "promiscuous mode")
	}
	return strings.Join(left, ", "), nil
}

// watch has another process open a port on an interface of this one's network,
// kills it, and says how long the interface takes to be as it was.
func watch(o order, in *bufio.Scanner) error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "dpdk-a"}, PeerName: "dpdk-b"}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	if err := setUp(); err != nil {
		return err
	}
	for round := range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), programEnv+"=hold")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := json.NewEncoder(stdin).Encode(o); err != nil {
			return err
		}
		out := bufio.NewScanner(stdout)
		if !out.Scan() || out.Text() != "open" {
			return fmt.Errorf("the process that opens the port says %q", out.Text())
		}
		has, err := leftOver("dpdk-a")
		if err != nil || has == "" {
			return fmt.Errorf("an open port has left no mark: %q, %v", has, err)
		}
		start := time.Now()
		if round == 0 {
			fmt.Fprintln(stdin)
		} else {
			cmd.Process.Kill()
		}
		cmd.Wait()
		for has != "" {
			if has, err = leftOver("dpdk-a"); err != nil {
				return err
			}
			if time.Since(start) > 10*time.Second {
				return fmt.Errorf("round %d: %s stayed for 10 s", round, has)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if round == 1 {
			fmt.Println("clean after", time.Since(start).Milliseconds())
		}
	}
	in.Scan()
	return nil
}

// hold opens a port and closes it when told to.
func hold(o order, in *bufio.Scanner) error {
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	fmt.Println("open")
	in.Scan()
	return p.Close()
}

// TestKilledOnAnInterface: drivers that change one of the kernel's interfaces leave
// it as it was, when the port is closed and when the process is killed.
func TestKilledOnAnInterface(t *testing.T) {
	if unix.Geteuid() != 0 {
		lacking(t, "needs root to make a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		lacking(t, "needs the program ip: apt-get install iproute2")
	}
	for driver, device := range map[string]string{
		"net_af_packet": "net_af_packet0,iface=dpdk-a",
		"net_af_xdp":    "net_af_xdp0,iface=dpdk-a",
	} {
		t.Run(driver, func(t *testing.T) {
			p := start(t, "watch", order{
				EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
				Ports: []dpdk.Config{{Device: device, Promiscuous: true}},
			}, func(cmd *exec.Cmd) { ownNetwork(cmd); silent(t)(cmd) })
			var ms int
			if line := p.next(t); !strings.HasPrefix(line, "clean after ") {
				t.Fatal(line)
			} else if _, err := fmt.Sscanf(line, "clean after %d", &ms); err != nil {
				t.Fatal(err)
			}
			if ms > 1000 {
				t.Errorf("clean %d ms after the kill, want 1 s", ms)
			}
			t.Logf("clean %d ms after the kill", ms)
			p.end(t)
		})
	}
}
