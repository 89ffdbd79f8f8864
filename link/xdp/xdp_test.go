package xdp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/xdp"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A bench is a device at one end of a wire, and raw frames at the other.
type bench struct {
	*testing.T
	net       *testnet.Net
	dev       *xdp.Device
	near, far *testnet.Interface // near has the device
	peer      int                // packet socket at far
	claimed   uint16             // a port that is claimed for near's addresses
	frames    []link.Frame
}

func newBench(t *testing.T, cfg xdp.Config, wire testnet.Wire) *bench {
	t.Helper()
	n := testnet.New(t)
	b := &bench{T: t, net: n, claimed: 6379, frames: make([]link.Frame, link.MaxBurst)}
	b.far, b.near = n.Connect(n.Host("far"), n.Host("near"), wire)
	cfg.Interface = b.near.Name
	b.dev = open(t, b.near, cfg)
	for _, a := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		if err := b.dev.Filter().Claim(a, b.claimed, 1); err != nil {
			t.Fatal(err)
		}
	}
	b.peer = packetSocket(t, b.far)
	return b
}

// open opens a device that is closed when the test ends.
func open(t *testing.T, i *testnet.Interface, cfg xdp.Config) *xdp.Device {
	t.Helper()
	var dev *xdp.Device
	var err error
	i.Host.Do(func() { dev, err = xdp.Open(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// packetSocket returns a socket for raw frames at an interface, whose reads give
// up after 100 ms.
func packetSocket(t *testing.T, i *testnet.Interface) (fd int) {
	t.Helper()
	i.Host.Do(func() {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		t.Fatal(err)
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// segment returns a frame from far to a port of near, size bytes long, with a
// payload that depends on seed.
func (b *bench) segment(local netip.Addr, port uint16, size int, seed byte) []byte {
	s := b.from(local, port)
	s.Payload = make([]byte, max(0, size-len(s.Frame())))
	for i := range s.Payload {
		s.Payload[i] = byte(i) + seed
	}
	return s.Frame()
}

// from describes a segment without data from far to a port of near.
func (b *bench) from(local netip.Addr, port uint16) *testframe.TCP {
	remote := b.far.IPv4.Addr()
	if local.Is6() {
		remote = b.far.IPv6.Addr()
	}
	return &testframe.TCP{
		DstMAC: b.near.MAC, SrcMAC: b.far.MAC, Src: netip.AddrPortFrom(remote, 40000), Dst: netip.AddrPortFrom(local, port),
		Flags: header.TCPFlagAck, Window: 0xffff,
	}
}

// send puts a frame on the wire at far.
func (b *bench) send(frame []byte) {
	b.Helper()
	if _, err := unix.Write(b.peer, frame); err != nil {
		b.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// sniff returns the next frame from near that arrives at far and starts with
// prefix.
func (b *bench) sniff(prefix []byte) []byte {
	b.Helper()
	buf := make([]byte, 65536)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		n, from, err := unix.Recvfrom(b.peer, buf, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || !bytes.HasPrefix(buf[:n], prefix) {
			continue
		}
		return buf[:n]
	}
	b.Fatal("no frame in 5 s")
	return nil
}

// receive polls a queue until it has n frames, and returns copies.
func (b *bench) receive(q link.Queue, n int) [][]byte {
	b.Helper()
	var got [][]byte
	deadline := time.Now().Add(5 * time.Second)
	for len(got) < n {
		k, err := q.Receive(b.frames)
		if err != nil {
			b.Fatalf("receive: %v", err)
		}
		for _, f := range b.frames[:k] {
			got = append(got, bytes.Clone(f.Data))
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d frames in 5 s, want %d; counts %+v, stats %+v", len(got), n, b.dev.Filter().Counts(), q.Stats())
		}
	}
	return got
}

// until polls a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 5 s: %s", what)
		}
	}
}

type mode struct {
	name string
	cfg  xdp.Config
}

// modes are the ways to run a device that veth has.
var modes = []mode{
	{"native", xdp.Config{Attach: xdp.AttachNative}},
	{"generic", xdp.Config{Attach: xdp.AttachGeneric}},
	{"busy polling", xdp.Config{BusyPoll: 20 * time.Microsecond}.DeferAnyway()},
	ring,
}

// ring is how a device with zero-copy mode sends.
var ring = mode{"ring", xdp.Config{}.SendByRing()}

func TestReceive(t *testing.T) {
	for _, m := range modes {
		for _, mtu := range []int{1500, 3400, 9000} {
			if mtu == 9000 && m.name != "native" {
				continue
			}
			t.Run(fmt.Sprintf("%s/MTU %d", m.name, mtu), func(t *testing.T) {
				if _, near := wire(t, testnet.Wire{MTU: mtu}); mtu == 9000 && !fragments(t, near) {
					testnet.Need(t, testnet.Requirement{Name: "frames in several chunks", Fix: "use Linux 6.6 or newer",
						Probe: func() error { return errors.ErrUnsupported }})
				}
				b := newBench(t, m.cfg, testnet.Wire{MTU: mtu})
				q := b.dev.Queue(0)
				if got := b.dev.Info().MTU; got != mtu {
					t.Errorf("Info().MTU is %d, want %d", got, mtu)
				}
				var frames, size uint64
				for n := 74; n <= mtu+14; n += 37 {
					for _, local := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
						want := b.segment(local, b.claimed, n, byte(n))
						b.send(want)
						if got := b.receive(q, 1)[0]; !bytes.Equal(got, want) {
							t.Fatalf("%d bytes to %v arrived as %d:\n got %x\nwant %x", n, local, len(got), got, want)
						}
						frames++
						size += uint64(n)
					}
				}
				if st := q.Stats(); st.RxFrames != frames || st.RxBytes != size || st.RxMalformed+st.RxNoBuffer != 0 {
					t.Errorf("stats %+v, want %d frames of %d bytes", st, frames, size)
				}
				if v := b.dev.Filter().Counts(); v.Redirected != frames || v.NoSocket != 0 {
					t.Errorf("counts %+v, want %d redirected", v, frames)
				}
			})
		}
	}
}

func TestSend(t *testing.T) {
	for _, m := range modes {
		for _, mtu := range []int{1500, 3400} {
			t.Run(fmt.Sprintf("%s/MTU %d", m.name, mtu), func(t *testing.T) {
				b := newBench(t, m.cfg, testnet.Wire{MTU: mtu})
				q := b.dev.Queue(0)
				header := append(append(bytes.Clone(b.far.MAC), b.near.MAC...), 0x88, 0xb5) // for experiments
				var frames, size uint64
				for n := 60; n <= mtu+14; n += 37 {
					want := bytes.Clone(header)
					for i := len(want); i < n; i++ {
						want = append(want, byte(i+n))
					}
					copy(q.Reserve(n), want)
					q.Commit(n, link.TxOffload{})
					if pending, err := q.Flush(); pending != 0 || err != nil {
						t.Fatalf("Flush() = %d, %v", pending, err)
					}
					if got := b.sniff(header); !bytes.Equal(got, want) {
						t.Fatalf("%d bytes arrived as %d:\n got %x\nwant %x", n, len(got), got, want)
					}
					frames++
					size += uint64(n)
				}
				if st := q.Stats(); st.TxFrames != frames || st.TxBytes != size || st.TxDropped+st.TxFull != 0 {
					t.Errorf("stats %+v, want %d frames of %d bytes", st, frames, size)
				}
			})
		}
	}
}

// Through the ring, checksums are asked for by metadata in front of the frame; the
// kernel plays the device that fills them in.
func TestSendChecksum(t *testing.T) {
	b := newBench(t, xdp.Config{RingSize: 64}.SendByRing().SoftwareChecksum(), testnet.Wire{})
	if c := b.dev.Info().Capabilities; !c.TxTCPChecksum || c.TSO != 0 {
		testnet.Need(t, testnet.Requirement{Name: "AF_XDP metadata for sending", Fix: "use Linux 6.8 or newer",
			Probe: func() error { return fmt.Errorf("capabilities %+v", c) }})
	}
	q := b.dev.Queue(0)
	// More frames than there are chunks: those that come back are used again.
	for n := range 300 {
		s := testframe.TCP{DstMAC: b.far.MAC, SrcMAC: b.near.MAC, Flags: header.TCPFlagAck, Window: 0xffff,
			Src: netip.AddrPortFrom(b.near.IPv4.Addr(), 6379), Dst: netip.AddrPortFrom(b.far.IPv4.Addr(), 40000),
			Seq: uint32(n), Payload: bytes.Repeat([]byte{byte(n)}, n%1400)}
		tx := link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20}
		if n%2 == 1 {
			s.Src, s.Dst = netip.AddrPortFrom(b.near.IPv6.Addr(), 6379), netip.AddrPortFrom(b.far.IPv6.Addr(), 40000)
			tx.L3Len = 40
		}
		want := s.Frame()
		s.Sum = testframe.Partial
		frame := s.Frame()
		if n%3 == 0 { // one that is complete, between those that are not
			frame, tx.Flags = want, 0
		}
		copy(q.Reserve(len(frame)), frame)
		q.Commit(len(frame), tx)
		if pending, err := q.Flush(); pending != 0 || err != nil {
			t.Fatalf("Flush() = %d, %v", pending, err)
		}
		// The kernel, too, sends from here: to look for neighbours.
		if got := b.sniff(want[:14+tx.L3Len]); !bytes.Equal(got, want) {
			t.Fatalf("segment %d arrived as\n%x, want\n%x", n, got, want)
		}
	}
}
