package coexistence

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
)

// A box joins two interfaces of a host, frame by frame, and makes of each IP packet
// what change says.
type box struct {
	change atomic.Pointer[func(packet []byte) [][]byte]
	id     atomic.Uint32
}

// newBox joins the interfaces until the test ends.
func newBox(t *testing.T, a, b *testnet.Interface) *box {
	t.Helper()
	x := new(box)
	x.set(nil)
	var fds [2]int
	for i, end := range []*testnet.Interface{a, b} {
		end.Release()
		var err error
		end.Host.Do(func() {
			all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
			if fds[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
				return
			}
			err = unix.Bind(fds[i], &unix.SockaddrLinklayer{Protocol: all, Ifindex: end.Index})
		})
		if err != nil {
			t.Fatal(err)
		}
		tick := unix.Timeval{Usec: 50_000}
		if err := unix.SetsockoptTimeval(fds[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{}, 2)
	for i := range fds {
		go func() {
			x.forward(t.Context(), fds[i], fds[1-i])
			done <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		<-done
		<-done
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return x
}

// set sets what becomes of an IP packet; nil for nothing.
func (x *box) set(change func(packet []byte) [][]byte) {
	if change == nil {
		change = func(packet []byte) [][]byte { return [][]byte{packet} }
	}
	x.change.Store(&change)
}

func (x *box) forward(ctx context.Context, from, to int) {
	b := make([]byte, 1<<16)
	for ctx.Err() == nil {
		n, sender, err := unix.Recvfrom(from, b, 0)
		if err != nil {
			continue
		}
		if ll := sender.(*unix.SockaddrLinklayer); ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		packets := [][]byte{b[14:n]}
		if p, err := testframe.ParseUnchecked(b[:n]); err == nil && p.Protocol == unix.IPPROTO_TCP {
			packets = (*x.change.Load())(b[14:n])
		}
		for _, p := range packets {
			unix.Write(to, append(slices.Clone(b[:14]), p...))
		}
	}
}

// fragments cuts TCP segments into fragments of size bytes.
func (x *box) fragments(size int) func([]byte) [][]byte {
	return func(packet []byte) [][]byte { return testframe.Fragments(packet, x.id.Add(1), size) }
}

// options adds IPv4 options, or IPv6 extension headers.
func options(ipv4 []byte, ipv6 ...[]byte) func([]byte) [][]byte {
	return func(packet []byte) [][]byte {
		if packet[0]>>4 == 4 {
			b := slices.Concat(packet[:20], ipv4, packet[20:])
			b[0] += byte(len(ipv4) / 4)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			testframe.SumIPv4(b)
			return [][]byte{b}
		}
		b := bytes.Clone(packet[:40])
		next := 6
		for _, e := range ipv6 {
			at := len(b)
			b = append(b, e[1:]...) // e[0] is the number of the header
			b[at], b[next] = b[next], e[0]
			next = at
		}
		b = append(b, packet[40:]...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return [][]byte{b}
	}
}

// TestFragments: segments that come in fragments, with IPv4 options or with IPv6
// extension headers are served on connections from and to an accelerated program, as
// the kernel's own are.
func TestFragments(t *testing.T) {
	testnet.Need(t, testnet.Root)
	n := testnet.New(t)
	client, middle, server := n.Host("client"), n.Host("box"), n.Host("server")
	ci, left := n.Connect(client, middle, testnet.Wire{})
	right, si := n.Connect(middle, server, testnet.Wire{})
	c := &crossing{T: t}
	for _, r := range []struct {
		host *testnet.Host
		to   *testnet.Interface
	}{{client, si}, {server, ci}} {
		for _, to := range []netip.Prefix{r.to.IPv4, r.to.IPv6} {
			c.ip(r.host, "route add "+to.Masked().String()+" dev eth0 mtu 1400") // room for what the box adds
		}
	}
	x := newBox(t, left, right)
	s := &site{T: t, client: client, server: server, ci: ci, si: si}
	echoServer(t, client, ":8000")
	echoServer(t, server, ":8000")

	// Router alert and padding (RFC 2113, RFC 8200), and an option of no meaning (RFC 4727).
	nop4, alert4 := []byte{1, 1, 1, 0}, []byte{148, 4, 0, 0}
	hop := []byte{header6HopByHop, 0, 0, 1, 4, 0, 0, 0, 0}
	destination := []byte{header6Destination, 0, 0, 1, 4, 0, 0, 0, 0}
	long := append([]byte{header6Destination, 0, 1, 0x1e, 12}, make([]byte, 12)...)
	rows := []struct {
		name   string
		change func([]byte) [][]byte
	}{
		{"fragments of 512 bytes", x.fragments(512)},
		{"small fragments", func(p []byte) [][]byte {
			if p[0]>>4 == 4 {
				return x.fragments(16)(p)
			}
			return x.fragments(48)(p) // the first has to have all headers (RFC 7112)
		}},
		{"options", options(nop4, destination)},
		{"router alert, hop-by-hop options", options(alert4, hop)},
		{"40 bytes of options, several headers", options(bytes.Repeat([]byte{1}, 40), hop, destination, long)},
		{"options of a fragment", func(p []byte) [][]byte {
			var all [][]byte
			for _, f := range x.fragments(512)(p) {
				if f[0]>>4 == 6 { // before the fragment header
					f = options(nil, hop)(f)[0]
				} else {
					f = options(nop4)(f)[0]
				}
				all = append(all, f)
			}
			return all
		}},
	}
	for _, dev := range []string{"xdp:eth0", "packet:eth0"} {
		t.Run(dev[:len(dev)-5], func(t *testing.T) {
			x.set(nil)
			rt := acceleratedEcho(t, server, dev, port, io.Discard)
			before := s.resets()
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					x.set(row.change)
					for _, end := range []struct {
						name string
						host *testnet.Host
						dial func(network, addr string) (net.Conn, error)
						addr netip.Addr
						port int
					}{
						{"the kernel, IPv4", client, nil, si.IPv4.Addr(), 8000},
						{"the kernel, IPv6", client, nil, si.IPv6.Addr(), 8000},
						{"accelerated, IPv4", client, nil, si.IPv4.Addr(), port},
						{"accelerated, IPv6", client, nil, si.IPv6.Addr(), port},
						{"accelerated, dials IPv4", server, (&accel.Dialer{Runtime: rt, Timeout: 3 * time.Second}).Dial, ci.IPv4.Addr(), 8000},
						{"accelerated, dials IPv6", server, (&accel.Dialer{Runtime: rt, Timeout: 3 * time.Second}).Dial, ci.IPv6.Addr(), 8000},
					} {
						if end.dial == nil {
							end.dial = (&net.Dialer{Timeout: 3 * time.Second}).Dial
						}
						to := netip.AddrPortFrom(end.addr, uint16(end.port)).String()
						end.host.Do(func() {
							if err := exchange(end.dial, to, 20_000); err != nil {
								t.Errorf("%s: %v", end.name, err)
							}
						})
					}
				})
			}
			if n := s.resets() - before; n != 0 {
				t.Errorf("the kernel sent %d resets", n)
			}
			stats := rt.Stats()
			if stats.Sharing.Routes.KernelDials != 0 {
				t.Errorf("%d dials went through the kernel", stats.Sharing.Routes.KernelDials)
			}
		})
	}
}

const header6HopByHop, header6Destination = 0, 60

// exchange sends n bytes and reads them back.
func exchange(dial func(network, addr string) (net.Conn, error), to string, n int) error {
	c, err := dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	sent := bytes.Repeat([]byte("0123456789abcdef"), (n+15)/16)[:n]
	if _, err := c.Write(sent); err != nil {
		return err
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("what came back differs")
	}
	return nil
}
