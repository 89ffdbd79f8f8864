package softnic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/internal/rss"
	"github.com/gotpa/tpa/internal/testframe"
	"github.com/gotpa/tpa/link"
)

// segment builds a TCP frame with right checksums, behind VLAN tags if asked.
func segment(src, dst string, payload int, vlans ...uint16) []byte {
	s := testframe.TCP{
		DstMAC: dstMAC, SrcMAC: srcMAC, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
		Flags: header.TCPFlagAck, Window: 1, Payload: make([]byte, payload),
	}
	return testframe.VLAN(s.Frame(), vlans...)
}

var dstMAC, srcMAC = []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}

func newNIC(tb testing.TB, c Config) *NIC {
	tb.Helper()
	n, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { n.Close() })
	return n
}

// receive returns copies of all frames that wait on a queue.
func receive(tb testing.TB, n *NIC, queue int) (got []link.Frame) {
	tb.Helper()
	frames := make([]link.Frame, link.MaxBurst)
	for {
		k, err := n.Queue(queue).Receive(frames)
		if err != nil {
			tb.Fatal(err)
		}
		if k == 0 {
			return got
		}
		for _, f := range frames[:k] {
			got = append(got, link.Frame{Data: bytes.Clone(f.Data), Checksum: f.Checksum})
		}
	}
}

// landed empties all queues and returns which one had a frame, -1 for none.
func landed(tb testing.TB, n *NIC) int {
	tb.Helper()
	at := -1
	for q := range n.Info().Queues {
		if len(receive(tb, n, q)) > 0 {
			at = q
		}
	}
	return at
}

// transmit sends one frame from queue 0.
func transmit(tb testing.TB, n *NIC, f []byte, tx link.TxOffload) {
	tb.Helper()
	q := n.Queue(0)
	b := q.Reserve(len(f))
	if b == nil {
		tb.Fatal("no transmit buffer")
	}
	q.Commit(copy(b, f), tx)
	if _, err := q.Flush(); err != nil {
		tb.Fatal(err)
	}
}

func TestSpreadsLikeTheVectors(t *testing.T) {
	// 128 entries that name 128 queues make the queue tell the hash's low bits.
	n := newNIC(t, Config{Queues: 128})
	ipv4 := func(packet []byte) []byte { return testframe.Ethernet(dstMAC, srcMAC, testframe.TypeIPv4, packet) }
	src, dst := netip.MustParseAddrPort("66.9.149.187:2794"), netip.MustParseAddrPort("161.142.100.80:1766")
	fragments := testframe.Fragments((&testframe.TCP{Src: src, Dst: dst, Payload: make([]byte, 80)}).Packet(), 1, 80)
	// Hashes are Microsoft's, "Verifying the RSS Hash Calculation".
	for _, c := range []struct {
		name  string
		frame []byte
		hash  uint32
	}{
		{"TCP over IPv4", segment("66.9.149.187:2794", "161.142.100.80:1766", 9), 0x51ccc178},
		{"TCP over IPv6", segment("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 9), 0x40207d3d},
		{"VLAN", segment("199.92.111.2:14230", "65.69.140.83:4739", 0, 5), 0xc626b0ea},
		{"two VLANs", segment("199.92.111.2:14230", "65.69.140.83:4739", 0, 5, 6), 0xc626b0ea},
		{"UDP", ipv4(testframe.UDP(src, dst, nil)), 0x323e8fc2},
		{"fragment", ipv4(fragments[1]), 0x323e8fc2},
		{"first fragment", ipv4(fragments[0]), 0x323e8fc2},
		{"ARP", testframe.Ethernet(dstMAC, srcMAC, testframe.TypeARP, make([]byte, 28)), 0},
	} {
		n.Deliver(c.frame)
		if got, want := landed(t, n), int(c.hash%128); got != want {
			t.Errorf("%s: queue %d, want %d", c.name, got, want)
		}
	}
	want := map[string]uint64{"rx_hash_ports": 4, "rx_hash_addrs": 3, "rx_no_hash": 1}
	for name, count := range want {
		if got := n.Stats().Extended[name]; got != count {
			t.Errorf("%s = %d, want %d", name, got, count)
		}
	}
}

func TestSetRSSMovesFlows(t *testing.T) {
	n := newNIC(t, Config{Queues: 4})
	f := segment("66.9.149.187:2794", "161.142.100.80:1766", 0) // hash ...78
	n.Deliver(f)
	if got := landed(t, n); got != 0x78%4 {
		t.Fatalf("queue %d, want %d", got, 0x78%4)
	}
	r, err := n.RSS()
	if err != nil {
		t.Fatal(err)
	}
	r.Table[0x78] = 3
	if err := n.SetRSS(r); err != nil {
		t.Fatal(err)
	}
	n.Deliver(f)
	if got := landed(t, n); got != 3 {
		t.Errorf("queue %d after the table changed, want 3", got)
	}
	r.Table[0] = 4
	if err := n.SetRSS(r); err == nil || !strings.Contains(err.Error(), "queue 4") {
		t.Errorf("error %v, want one about queue 4", err)
	}
	if got, _ := n.RSS(); got.Table[0] != 0 {
		t.Error("a refused RSS was kept")
	}
}

func TestRules(t *testing.T) {
	n := newNIC(t, Config{Queues: 4, RSS: link.RSS{Key: rss.MicrosoftKey(), Table: make([]uint16, 128)}})
	for _, r := range []Rule{{Port: 6379, Queue: 1}, {Port: 0x4000, Mask: 0xc000, Queue: 2}, {Port: 0x4000, Mask: 0xff00, Queue: 3}} {
		if err := n.AddRule(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.AddRule(Rule{Port: 1, Queue: 4}); err == nil {
		t.Error("a rule to a queue that is not there was taken")
	}
	check := func(port, want int) {
		t.Helper()
		for _, addr := range []string{"10.0.0.1", "[fd00::1]"} {
			n.Deliver(segment(addr+":1000", fmt.Sprintf("%s:%d", addr, port), 0))
			if got := landed(t, n); got != want {
				t.Errorf("%s port %d: queue %d, want %d", addr, port, got, want)
			}
		}
	}
	check(6379, 1)
	check(6380, 0)
	check(0x4000, 2) // both masks match, the first decides
	check(0x7fff, 2)
	check(0x8000, 0)
	if !n.DropRule(Rule{Port: 0x4000, Mask: 0xc000, Queue: 2}) || n.DropRule(Rule{Port: 1}) {
		t.Error("DropRule is wrong about what was there")
	}
	check(0x4000, 3)
	n.DropRules()
	check(6379, 0)
	if len(n.Rules()) != 0 {
		t.Errorf("rules %v after all were dropped", n.Rules())
	}
}

func TestVLANStripping(t *testing.T) {
	n := newNIC(t, Config{StripVLAN: true})
	plain := segment("10.0.0.1:1", "10.0.0.2:2", 20)
	one, two := segment("10.0.0.1:1", "10.0.0.2:2", 20, 7), segment("10.0.0.1:1", "10.0.0.2:2", 20, 7, 8)
	inner := segment("10.0.0.1:1", "10.0.0.2:2", 20, 8)
	for _, f := range [][]byte{plain, one, two} {
		n.Deliver(f)
	}
	n.SetStripVLAN(false)
	n.Deliver(one)
	want := []link.Frame{{Data: plain}, {Data: plain}, {Data: inner}, {Data: one}}
	if diff := cmp.Diff(want, receive(t, n, 0)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestChecksumStatus(t *testing.T) {
	good := segment("10.0.0.1:1", "10.0.0.2:2", 20)
	bad := bytes.Clone(good)
	bad[54] ^= 1
	for _, c := range []struct {
		can  bool
		want []link.ChecksumStatus
	}{
		{false, []link.ChecksumStatus{link.Unchecked, link.Unchecked}},
		{true, []link.ChecksumStatus{link.Good, link.Bad}},
	} {
		n := newNIC(t, Config{Capabilities: link.Capabilities{RxChecksum: c.can}})
		n.Deliver(good)
		n.Deliver(bad)
		var got []link.ChecksumStatus
		for _, f := range receive(t, n, 0) {
			got = append(got, f.Checksum)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("RxChecksum %v: (-want +got)\n%s", c.can, diff)
		}
	}
}

func TestFullRingLosesAndCounts(t *testing.T) {
	n := newNIC(t, Config{Ring: 4})
	for range 7 {
		n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	}
	if s := n.Stats(); s.RxPackets != 4 || s.RxMissed != 3 || s.BuffersInUse != 4 || s.BuffersTotal != 8 {
		t.Errorf("%+v, want 4 received, 3 missed, 4 of 8 buffers in use", s)
	}
	frames := make([]link.Frame, 4)
	if k, _ := n.Queue(0).Receive(frames); k != 4 {
		t.Fatalf("%d frames, want 4", k)
	}
	// The reader still holds them, so the ring is still full.
	n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	if s := n.Queue(0).Stats(); s.RxNoBuffer != 4 {
		t.Errorf("%d frames lost, want 4", s.RxNoBuffer)
	}
	n.Queue(0).Receive(frames)
	if got := n.Stats().BuffersInUse; got != 0 {
		t.Errorf("%d buffers in use after all were given back", got)
	}
	n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	if len(receive(t, n, 0)) != 1 {
		t.Error("nothing arrives in a ring that was emptied")
	}
}

func TestMalformedFramesAreCounted(t *testing.T) {
	n := newNIC(t, Config{MTU: 1500})
	n.Deliver(make([]byte, 13))
	n.Deliver(make([]byte, 1519))
	n.Deliver(make([]byte, 1518))
	if s := n.Stats(); s.RxErrors != 2 || s.RxPackets != 1 {
		t.Errorf("%d errors, %d frames, want 2 and 1", s.RxErrors, s.RxPackets)
	}
}

func TestStalledReceiveRing(t *testing.T) {
	n := newNIC(t, Config{Ring: 4})
	n.StallReceive(0, true)
	for range 6 {
		n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	}
	if got := receive(t, n, 0); len(got) != 0 {
		t.Errorf("%d frames from a stalled ring", len(got))
	}
	n.StallReceive(0, false)
	if got := receive(t, n, 0); len(got) != 4 {
		t.Errorf("%d frames after the stall, want the 4 that the ring holds", len(got))
	}
}

func TestStalledTransmitRing(t *testing.T) {
	a, b := newNIC(t, Config{Ring: 2}), newNIC(t, Config{})
	Connect(a, b)
	a.StallTransmit(0, true)
	q := a.Queue(0)
	for range 2 {
		q.Commit(copy(q.Reserve(60), segment("10.0.0.1:1", "10.0.0.2:2", 0)), link.TxOffload{})
	}
	if pending, err := q.Flush(); pending != 2 || err != nil {
		t.Errorf("Flush = %d, %v, want 2 pending", pending, err)
	}
	if q.Reserve(60) != nil {
		t.Error("a buffer beyond the ring")
	}
	if got := a.Stats().BuffersInUse; got != 2 {
		t.Errorf("%d buffers in use, want 2", got)
	}
	a.StallTransmit(0, false)
	if pending, err := q.Flush(); pending != 0 || err != nil {
		t.Errorf("Flush = %d, %v, want nothing pending", pending, err)
	}
	if got := receive(t, b, 0); len(got) != 2 {
		t.Errorf("%d frames arrived, want 2", len(got))
	}
	if s := q.Stats(); s.TxFull != 1 || s.TxFrames != 2 {
		t.Errorf("%+v, want 1 full ring and 2 frames", s)
	}
}

func TestLinkDown(t *testing.T) {
	a, b := newNIC(t, Config{}), newNIC(t, Config{})
	Connect(a, b)
	f := segment("10.0.0.1:1", "10.0.0.2:2", 0)
	a.SetLink(false)
	if a.LinkUp() || !b.LinkUp() {
		t.Error("LinkUp is wrong")
	}
	transmit(t, a, f, link.TxOffload{})
	transmit(t, b, f, link.TxOffload{})
	a.SetLink(true)
	transmit(t, a, f, link.TxOffload{})
	a.Attach(nil)
	transmit(t, a, f, link.TxOffload{})
	if got := receive(t, b, 0); len(got) != 1 {
		t.Errorf("%d frames arrived, want the one sent while the link was up", len(got))
	}
	s := a.Stats()
	for name, want := range map[string]uint64{"tx_link_down": 1, "rx_link_down": 1, "tx_unplugged": 1} {
		if got := s.Extended[name]; got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
	if s.TxPackets != 1 || s.RxPackets != 0 {
		t.Errorf("%d sent, %d received, want 1 and 0", s.TxPackets, s.RxPackets)
	}
}

func TestTransmitOffloads(t *testing.T) {
	can := link.Capabilities{TxIPv4Checksum: true, TxTCPChecksum: true, TSO: 1 << 16}
	full := link.TxOffload{Flags: link.TxIPv4Checksum | link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20}
	cut := full
	cut.MSS = 1000
	for _, c := range []struct {
		name    string
		can     link.Capabilities
		payload int
		tx      link.TxOffload
		frames  int
		errors  uint64
	}{
		{"checksum", can, 100, full, 1, 0},
		{"TSO", can, 3500, cut, 4, 0},
		{"not capable", link.Capabilities{}, 100, full, 0, 1},
		{"longer than the MTU", can, 3500, full, 0, 1},
		{"MSS longer than the MTU", can, 3500, link.TxOffload{Flags: full.Flags, L2Len: 14, L3Len: 20, L4Len: 20, MSS: 1500}, 0, 1},
	} {
		a, b := newNIC(t, Config{Capabilities: c.can}), newNIC(t, Config{})
		Connect(a, b)
		f := segment("10.0.0.1:1", "10.0.0.2:2", c.payload)
		// The field holds what the stack leaves there: for a payload of zeros, the
		// sum of the pseudo-header.
		sum := 10<<8 + 1 + 10<<8 + 2 + 6
		if c.tx.MSS == 0 {
			sum += 20 + c.payload
		}
		f[14+20+16], f[14+20+17] = byte(sum>>8), byte(sum)
		f[14+10], f[14+11] = 0, 0
		transmit(t, a, f, c.tx)
		got := receive(t, b, 0)
		if len(got) != c.frames || a.Stats().TxErrors != c.errors {
			t.Errorf("%s: %d frames and %d errors, want %d and %d", c.name, len(got), a.Stats().TxErrors, c.frames, c.errors)
		}
		for i, f := range got {
			if offload.Verify(f.Data) != link.Good {
				t.Errorf("%s: frame %d has a wrong checksum", c.name, i)
			}
		}
	}
}

func TestClose(t *testing.T) {
	n := newNIC(t, Config{Queues: 2})
	q := n.Queue(1)
	q.Commit(copy(q.Reserve(60), make([]byte, 60)), link.TxOffload{})
	n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := q.Receive(make([]link.Frame, 1)); err != net.ErrClosed {
		t.Errorf("Receive: %v, want net.ErrClosed", err)
	}
	if _, err := q.Flush(); err != net.ErrClosed {
		t.Errorf("Flush: %v, want net.ErrClosed", err)
	}
	if q.Reserve(60) != nil {
		t.Error("a buffer from a closed queue")
	}
	n.Deliver(segment("10.0.0.1:1", "10.0.0.2:2", 0))
	if s := n.Stats(); s.BuffersInUse != 0 || q.Stats().TxDropped != 1 {
		t.Errorf("%d buffers in use, %d dropped, want 0 and 1", s.BuffersInUse, q.Stats().TxDropped)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{MTU: 67}, "MTU 67"},
		{Config{MTU: 65536}, "MTU 65536"},
		{Config{Queues: -1}, "-1 queues"},
		{Config{Queues: 1025}, "1025 queues"},
		{Config{Ring: 100}, "100 frames"},
		{Config{HardwareAddr: net.HardwareAddr{1}}, "6 bytes"},
		{Config{RSS: link.RSS{Key: make([]byte, 10)}}, "10 bytes"},
		{Config{Queues: 1, RSS: link.RSS{Table: []uint16{1}}}, "queue 1"},
		{Config{Capabilities: link.Capabilities{TSO: -1}}, "TSO"},
	} {
		if _, err := New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one about %q", c.config, err, c.want)
		}
	}
}

// TestWait runs in virtual time: who sleeps there sleeps exactly as long as it
// should.
func TestWait(t *testing.T) {
	f := segment("10.0.0.1:1", "10.0.0.2:2", 0)
	for _, c := range []struct {
		name    string
		timeout time.Duration
		before  func(*NIC)
		after   func(*NIC) // runs 1 s later
		want    time.Duration
	}{
		{name: "timeout", timeout: 3 * time.Second, want: 3 * time.Second},
		{name: "frame was there", timeout: -1, before: func(n *NIC) { n.Deliver(f) }},
		{name: "frame arrives", timeout: -1, after: func(n *NIC) { n.Deliver(f) }, want: time.Second},
		{name: "woken before", timeout: -1, before: func(n *NIC) { n.queues[0].Wake() }},
		{name: "woken", timeout: time.Hour, after: func(n *NIC) { n.queues[0].Wake() }, want: time.Second},
		{name: "closed", timeout: -1, after: func(n *NIC) { n.Close() }, want: time.Second},
		{name: "was closed", timeout: -1, before: func(n *NIC) { n.Close() }},
		{
			name: "stalled", timeout: 5 * time.Second, want: 5 * time.Second,
			before: func(n *NIC) { n.StallReceive(0, true); n.Deliver(f) },
		},
		{
			name: "stall ends", timeout: -1, want: time.Second,
			before: func(n *NIC) { n.StallReceive(0, true); n.Deliver(f) },
			after:  func(n *NIC) { n.StallReceive(0, false) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNIC(t, Config{})
				for range 2 { // the timer is used again
					start := time.Now()
					if c.before != nil {
						c.before(n)
					}
					if c.after != nil {
						time.AfterFunc(time.Second, func() { c.after(n) })
					}
					n.queues[0].Wait(c.timeout)
					if got := time.Since(start); got != c.want {
						t.Fatalf("slept %v, want %v", got, c.want)
					}
					if strings.Contains(c.name, "closed") {
						break
					}
					n.StallReceive(0, false)
					receive(t, n, 0)
					n.queues[0].notifier.Wait(0) // the stall's end may have notified it
				}
			})
		})
	}
}

// TestManyQueuesAtOnce has a sender and a reader on each of the 32 queues of two
// cards. Each sender picks a port whose frames arrive on the queue of its
// number: every frame must, in order, and nothing may be lost, since the rings
// hold all there is.
func TestManyQueuesAtOnce(t *testing.T) {
	const queues, each = 32, 2000
	config := Config{Queues: queues, Ring: 2048}
	a, b := newNIC(t, config), newNIC(t, config)
	Connect(a, b)
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddrPort("10.0.0.2:80")
	r, _ := a.RSS()
	spread, err := rss.New(r, queues)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := rss.NewPorts(1000, 60000, func() uint32 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	var pollers sync.WaitGroup
	for _, nics := range [][2]*NIC{{a, b}, {b, a}} {
		for i := range queues {
			search := ports.Search(spread, src, dst, i) // replies from dst to src
			port, ok := search.Next()
			if !ok {
				t.Fatalf("no port leads to queue %d", i)
			}
			f := segment(dst.String(), netip.AddrPortFrom(src, port).String(), 4)
			pollers.Go(func() {
				q := nics[0].Queue(i)
				for seq := range each {
					binary.BigEndian.PutUint32(f[len(f)-4:], uint32(seq))
					q.Commit(copy(q.Reserve(len(f)), f), link.TxOffload{})
					if seq%16 == 15 {
						q.Flush()
					}
				}
				q.Flush()
			})
			pollers.Go(func() {
				q := nics[1].Queue(i)
				frames := make([]link.Frame, link.MaxBurst)
				for next := 0; next < each; {
					n, err := q.Receive(frames)
					if err != nil {
						t.Error(err)
						return
					}
					for _, f := range frames[:n] {
						seq := binary.BigEndian.Uint32(f.Data[len(f.Data)-4:])
						if from := binary.BigEndian.Uint16(f.Data[36:]); int(seq) != next || from != port {
							t.Errorf("queue %d: frame %d to port %d, want %d to %d", i, seq, from, next, port)
							return
						}
						next++
					}
					if n == 0 {
						q.(link.Waiter).Wait(time.Minute)
					}
				}
			})
		}
	}
	pollers.Wait()
	for _, n := range []*NIC{a, b} {
		if s := n.Stats(); s.RxPackets != queues*each || s.RxMissed != 0 {
			t.Errorf("%d frames arrived and %d were missed of %d", s.RxPackets, s.RxMissed, queues*each)
		}
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	a, b := newNIC(t, Config{Queues: 4, Ring: 16}), newNIC(t, Config{Queues: 4, Ring: 16})
	Connect(a, b)
	f := segment("10.0.0.1:1", "10.0.0.2:2", 100)
	frames := make([]link.Frame, link.MaxBurst)
	round := func() {
		q := a.Queue(0)
		q.Commit(copy(q.Reserve(len(f)), f), link.TxOffload{})
		q.Flush()
		for i := range 4 {
			b.Queue(i).Receive(frames)
		}
	}
	for range 32 {
		round() // fills every slot once
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations per frame, want 0", n)
	}
}

// BenchmarkForward is the way of a frame from Reserve on one card to Receive on
// the other.
func BenchmarkForward(b *testing.B) {
	for _, size := range []int{10, 1448} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			x, y := newNIC(b, Config{Queues: 4}), newNIC(b, Config{})
			Connect(x, y)
			f := segment("10.0.0.1:1", "10.0.0.2:2", size)
			q, frames, n := x.Queue(0), make([]link.Frame, link.MaxBurst), 0
			b.ReportAllocs()
			for b.Loop() {
				q.Commit(copy(q.Reserve(len(f)), f), link.TxOffload{})
				if n++; n == 32 {
					n = 0
					q.Flush()
					y.Queue(0).Receive(frames)
				}
			}
		})
	}
}
