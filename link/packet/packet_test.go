package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/internal/testnet"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/packet"
	"github.com/gotpa/tpa/link/xdp"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const port = 6379

// A bench is a wire with a device at each end. near has claimed a port.
type bench struct {
	*testing.T
	far, near   *testnet.Interface
	sender, dev *packet.Device
	frames      []link.Frame
	sequence    uint32
}

func newBench(t *testing.T, cfg packet.Config, wire testnet.Wire) *bench {
	t.Helper()
	testnet.Need(t, testnet.Root, testnet.TCX)
	n := testnet.New(t)
	b := &bench{T: t, frames: make([]link.Frame, link.MaxBurst)}
	b.far, b.near = n.Connect(n.Host("far"), n.Host("near"), wire)
	b.sender = open(t, b.far, packet.Config{})
	b.dev = open(t, b.near, cfg)
	for _, a := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		if err := b.dev.Filter().Claim(a, port, 1); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// open opens a device that is closed when the test ends.
func open(t *testing.T, i *testnet.Interface, cfg packet.Config) *packet.Device {
	t.Helper()
	cfg.Interface = i.Name
	var dev *packet.Device
	var err error
	i.Host.Do(func() { dev, err = packet.Open(cfg) })
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

// segment returns a frame from far to a port of near with a payload of n bytes,
// and where its TCP header starts. The TCP checksum is that of the pseudo-header
// for want, as link.TxTCPChecksum wants it, or the right one.
func (b *bench) segment(v6 bool, to uint16, n int, want link.TxOffload) (frame []byte, tcp int) {
	s := testframe.TCP{
		DstMAC: b.near.MAC, SrcMAC: b.far.MAC,
		Src: netip.AddrPortFrom(b.far.IPv4.Addr(), 40000), Dst: netip.AddrPortFrom(b.near.IPv4.Addr(), to),
		Seq: b.sequence, Flags: header.TCPFlagAck, Window: 0xffff, Payload: make([]byte, n),
	}
	tcp = 34
	if v6 {
		s.Src, s.Dst = netip.AddrPortFrom(b.far.IPv6.Addr(), 40000), netip.AddrPortFrom(b.near.IPv6.Addr(), to)
		tcp = 54
	}
	for i := range s.Payload {
		s.Payload[i] = byte(i*7) + byte(b.sequence)
	}
	b.sequence += uint32(n)
	switch {
	case want.Flags&link.TxTCPChecksum == 0:
	case want.MSS == 0:
		s.Sum = testframe.Partial
	default:
		s.Sum = testframe.PartialTSO
	}
	return s.Frame(), tcp
}

// send stages a frame at far and sends it.
func (b *bench) send(frame []byte, tx link.TxOffload) {
	b.Helper()
	b.stage(frame, tx)
	if pending, err := b.sender.Queue(0).Flush(); pending != 0 || err != nil {
		b.Fatalf("Flush: %d, %v", pending, err)
	}
}

func (b *bench) stage(frame []byte, tx link.TxOffload) {
	b.Helper()
	q := b.sender.Queue(0)
	buf := q.Reserve(len(frame))
	if buf == nil {
		b.Fatal("Reserve: no buffer")
	}
	copy(buf, frame)
	q.Commit(len(frame), tx)
}

// receive waits for n frames, and returns copies.
func (b *bench) receive(n int) (got []link.Frame) {
	b.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(got) < n; {
		k, err := b.dev.Queue(0).Receive(b.frames)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range b.frames[:k] {
			got = append(got, link.Frame{Data: bytes.Clone(f.Data), Checksum: f.Checksum})
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d frames after 10 s; %+v", len(got), n, b.dev.Queue(0).Stats())
		}
	}
	return got
}

// valid tells whether a received segment's checksums are right.
func valid(frame []byte) bool {
	_, err := testframe.Parse(frame)
	return err == nil
}

// TestFrames sends segments as they are, and with the checksum left to the device.
func TestFrames(t *testing.T) {
	for _, offloads := range []bool{false, true} {
		b := newBench(t, packet.Config{}, testnet.Wire{Offloads: offloads})
		for _, v6 := range []bool{false, true} {
			for _, size := range []int{0, 1, 1000, 1440} {
				for _, tx := range []link.TxOffload{{}, {Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20}} {
					if v6 && tx.Flags != 0 {
						tx.Flags |= link.TxIPv6
						tx.L3Len = 40
					}
					frame, tcp := b.segment(v6, port, size, tx)
					b.send(frame, tx)
					got := b.receive(1)[0]
					// The checksum of a segment that never left the machine may be open still.
					if !valid(got.Data) && !got.Checksum.Right() {
						t.Errorf("IPv6 %t, %d bytes, %+v: wrong checksum, status %v", v6, size, tx, got.Checksum)
					}
					copy(frame[tcp+16:tcp+18], got.Data[tcp+16:])
					if !bytes.Equal(got.Data, frame) {
						t.Errorf("IPv6 %t, %d bytes: got\n%x, want\n%x", v6, size, got.Data, frame)
					}
				}
			}
		}
	}
}

// TestSegmentation sends 60 KB in one piece. It arrives in one piece where the
// interface leaves that to the next one, else in segments.
func TestSegmentation(t *testing.T) {
	for _, tt := range []struct{ offloads, v6 bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			b := newBench(t, packet.Config{}, testnet.Wire{Offloads: tt.offloads})
			tx := link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20, MSS: 1400}
			if tt.v6 {
				tx.Flags |= link.TxIPv6
				tx.L3Len = 40
			}
			const size = 60_000
			for range 3 {
				frame, tcp := b.segment(tt.v6, port, size, tx)
				b.send(frame, tx)
				var payload []byte
				frames := 0
				for len(payload) < size {
					for _, f := range b.receive(1) {
						if !valid(f.Data) && !f.Checksum.Right() {
							t.Fatalf("wrong checksum in a frame of %d bytes", len(f.Data))
						}
						payload = append(payload, f.Data[tcp+20:]...)
						frames++
					}
				}
				if !bytes.Equal(payload, frame[tcp+20:]) {
					t.Error("the payload is not the one sent")
				}
				if want := 1; tt.offloads && frames != want || !tt.offloads && frames != (size+1399)/1400 {
					t.Errorf("%d frames", frames)
				}
			}
			if st := b.dev.Queue(0).Stats(); st.RxMalformed != 0 || st.RxNoBuffer != 0 {
				t.Errorf("stats %+v, want none lost", st)
			}
		})
	}
}

// TestJumbo passes frames of an MTU that XDP cannot take.
func TestJumbo(t *testing.T) {
	b := newBench(t, packet.Config{RingSize: 64}, testnet.Wire{MTU: 9000})
	if mtu := b.dev.Info().MTU; mtu != 9000 {
		t.Errorf("Info().MTU is %d, want 9000", mtu)
	}
	for range 200 {
		frame, _ := b.segment(false, port, 8960, link.TxOffload{})
		b.send(frame, link.TxOffload{})
		if got := b.receive(1)[0].Data; !bytes.Equal(got, frame) {
			t.Fatalf("got %d bytes, want the %d that were sent", len(got), len(frame))
		}
	}
}

// TestManyFrames sends bursts until the ring has come round many times.
func TestManyFrames(t *testing.T) {
	b := newBench(t, packet.Config{RingSize: 128}, testnet.Wire{})
	const rounds, burst = 200, 60
	for round := range rounds {
		var want [][]byte
		for range burst {
			frame, _ := b.segment(round%2 == 0, port, 100, link.TxOffload{})
			want = append(want, frame)
			b.stage(frame, link.TxOffload{})
		}
		if pending, err := b.sender.Queue(0).Flush(); pending != 0 || err != nil {
			t.Fatalf("Flush: %d, %v", pending, err)
		}
		for i, got := range b.receive(burst) {
			if !bytes.Equal(got.Data, want[i]) {
				t.Fatalf("round %d: frame %d is not the one sent", round, i)
			}
		}
	}
	if st := b.dev.Queue(0).Stats(); st.RxFrames != rounds*burst || st.RxNoBuffer != 0 {
		t.Errorf("stats %+v, want %d frames and none lost", st, rounds*burst)
	}
	if st := b.sender.Queue(0).Stats(); st.TxFrames != rounds*burst || st.TxDropped != 0 {
		t.Errorf("the sender's stats %+v, want %d frames", st, rounds*burst)
	}
}

// TestRingFull sends more than the ring holds: the rest is lost and counted, and
// the queue goes on.
func TestRingFull(t *testing.T) {
	b := newBench(t, packet.Config{RingSize: 64}, testnet.Wire{})
	const sent = 200
	for range sent {
		frame, _ := b.segment(false, port, 100, link.TxOffload{})
		b.send(frame, link.TxOffload{})
	}
	until(t, "all frames accounted for", func() bool {
		if _, err := b.dev.Queue(0).Receive(b.frames); err != nil {
			t.Fatal(err)
		}
		st := b.dev.Queue(0).Stats()
		return st.RxFrames+st.RxNoBuffer == sent && st.RxNoBuffer > 0
	})
	if n, err := b.dev.Queue(0).Receive(b.frames); n != 0 || err != nil { // takes the slots back
		t.Fatalf("Receive: %d, %v, want nothing", n, err)
	}
	frame, _ := b.segment(false, port, 100, link.TxOffload{})
	b.send(frame, link.TxOffload{})
	b.receive(1)
	if buf := b.sender.Queue(0).Reserve(1 << 20); buf != nil {
		t.Error("a buffer of 1 MB")
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 10 s", what)
		}
	}
}

// TestOnlyOurs: what is not ours reaches the kernel and not the queue, and what is
// ours the queue and not the kernel, whose resets would show.
func TestOnlyOurs(t *testing.T) {
	b := newBench(t, packet.Config{}, testnet.Wire{})
	var ln net.Listener
	var err error
	b.near.Host.Do(func() { ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port+1)) })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, to := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		before := b.dev.Filter().Counts()
		b.far.Host.Do(func() {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, port+1).String(), 5*time.Second)
			if err != nil {
				t.Errorf("the kernel's port: %v", err)
				return
			}
			c.Close()
		})
		v := b.dev.Filter().Counts()
		if v.OtherPort == before.OtherPort || v.Redirected != before.Redirected {
			t.Errorf("the kernel's port: counts %+v", v)
		}
	}
	if n, err := b.dev.Queue(0).Receive(b.frames); n != 0 || err != nil {
		t.Errorf("Receive: %d, %v, want nothing", n, err)
	}
	for _, to := range []netip.Addr{b.near.IPv4.Addr(), b.near.IPv6.Addr()} {
		var refused error
		b.far.Host.Do(func() {
			_, refused = net.DialTimeout("tcp", netip.AddrPortFrom(to, port).String(), 300*time.Millisecond)
		})
		if errors.Is(refused, syscall.ECONNREFUSED) {
			t.Errorf("%v: the kernel answers at our port: %v", to, refused)
		}
		b.receive(1)
	}
}

// TestTwoDevices: each gets its own port, next to an XDP filter that has a third.
func TestTwoDevices(t *testing.T) {
	b := newBench(t, packet.Config{}, testnet.Wire{})
	other := open(t, b.near, packet.Config{})
	var first *xdp.Device
	var err error
	b.near.Host.Do(func() { first, err = xdp.Open(xdp.Config{Interface: b.near.Name}) })
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	sharing, _ := first.Sharing()
	for filter, p := range map[link.Filter]uint16{other.Filter(): port + 1, sharing.Filter: port + 2} {
		if err := filter.Claim(b.near.IPv4.Addr(), p, 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		frame, _ := b.segment(false, port+uint16(i%3), 100, link.TxOffload{})
		b.send(frame, link.TxOffload{})
	}
	for i, q := range []link.Queue{b.dev.Queue(0), other.Queue(0), first.Queue(0)} {
		n := 0
		until(t, fmt.Sprintf("10 frames for device %d", i), func() bool {
			k, err := q.Receive(b.frames)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range b.frames[:k] {
				if got := binary.BigEndian.Uint16(f.Data[36:]); got != port+uint16(i) {
					t.Errorf("device %d got a frame to port %d", i, got)
				}
			}
			n += k
			return n >= 10
		})
		if n != 10 {
			t.Errorf("device %d got %d frames, want 10", i, n)
		}
	}
}

// TestSleep: Wait returns for a frame, and for Wake, and not before.
func TestSleep(t *testing.T) {
	b := newBench(t, packet.Config{}, testnet.Wire{})
	q := b.dev.Queue(0)
	w := q.(link.Waiter)
	start := time.Now()
	w.Wait(20 * time.Millisecond)
	if d := time.Since(start); d < 15*time.Millisecond {
		t.Errorf("Wait returned after %v with nothing there", d)
	}
	time.AfterFunc(10*time.Millisecond, w.Wake)
	w.Wait(-1)
	frame, _ := b.segment(false, port, 10, link.TxOffload{})
	sent := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() {
		b.send(frame, link.TxOffload{})
		close(sent)
	})
	until(t, "frame", func() bool {
		w.Wait(time.Second)
		n, err := q.Receive(b.frames)
		return n == 1 && err == nil
	})
	<-sent
}

// TestDownAndGone: an interface that is set down loses frames and comes back; one
// that is removed ends the queue with an error.
func TestDownAndGone(t *testing.T) {
	b := newBench(t, packet.Config{}, testnet.Wire{})
	l, err := b.near.Host.Netlink.LinkByName(b.near.Name)
	if err != nil {
		t.Fatal(err)
	}
	frame, _ := b.segment(false, port, 100, link.TxOffload{})
	if err := b.near.Host.Netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	if b.dev.LinkUp() {
		t.Error("the link is up")
	}
	q := b.dev.Queue(0)
	copy(q.Reserve(100), frame)
	q.Commit(100, link.TxOffload{})
	if pending, err := q.Flush(); pending != 0 || err != nil || q.Stats().TxDropped != 1 {
		t.Errorf("Flush while the interface is down: %d, %v, %+v", pending, err, q.Stats())
	}
	q.(link.Waiter).Wait(10 * time.Millisecond)
	if _, err := q.Receive(b.frames); err != nil {
		t.Errorf("while the interface is down: %v", err)
	}
	// The error of the socket is taken back: it does not keep Wait from waiting.
	start := time.Now()
	q.(link.Waiter).Wait(20 * time.Millisecond)
	if d := time.Since(start); d < 15*time.Millisecond {
		t.Errorf("Wait returned after %v while the interface is down", d)
	}
	if err := b.near.Host.Netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	until(t, "up again", func() bool { return b.dev.LinkUp() && b.sender.LinkUp() })
	b.send(frame, link.TxOffload{})
	b.receive(1)

	if err := b.near.Host.Netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	until(t, "error", func() bool {
		q.(link.Waiter).Wait(time.Millisecond)
		_, err = q.Receive(b.frames)
		return err != nil
	})
	if !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("after removal: %v", err)
	}
	q.Reserve(100)
	q.Commit(100, link.TxOffload{})
	if _, err := q.Flush(); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("Flush after removal: %v", err)
	}
}

func TestClosed(t *testing.T) {
	b := newBench(t, packet.Config{}, testnet.Wire{})
	frame, _ := b.segment(false, port, 10, link.TxOffload{})
	b.send(frame, link.TxOffload{})
	b.receive(1)
	for range 2 {
		if err := b.dev.Close(); err != nil {
			t.Error(err)
		}
	}
	q := b.dev.Queue(0)
	if _, err := q.Receive(b.frames); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive: %v", err)
	}
	if _, err := q.Flush(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Flush: %v", err)
	}
	if st := b.dev.Stats(); st.RxPackets != 1 || st.BuffersTotal != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, cfg := range []packet.Config{{}, {Interface: "eth0", RingSize: 100}, {Interface: "eth0", RingSize: 65536}} {
		if _, err := packet.Open(cfg); err == nil || !strings.Contains(err.Error(), "Config.") {
			t.Errorf("Open(%+v): %v, want an error that names the field", cfg, err)
		}
	}
	testnet.Need(t, testnet.Root, testnet.TCX)
	h := testnet.New(t).Host("h")
	for name, want := range map[string]string{"nowhere": "no such interface", "lo": "Ethernet"} {
		var err error
		h.Do(func() { _, err = packet.Open(packet.Config{Interface: name}) })
		var e *link.InterfaceError
		if !errors.As(err, &e) || !strings.Contains(e.Problem, want) || e.Remedy == "" {
			t.Errorf("%s: %v, want %q and a remedy", name, err, want)
		}
	}
}
