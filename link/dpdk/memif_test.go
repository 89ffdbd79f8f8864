//go:build dpdk && cgo && linux

package dpdk_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/dpdk"
)

func memifDevice(n int, role, socket string) string {
	return fmt.Sprintf("net_memif%d,role=%s,socket=%s,socket-abstract=no", n, role, socket)
}

// connect waits until a memif is connected and gives the peer the buffers it
// sends into, which is what a client's first poll does.
func connect(p *dpdk.Port) error {
	if !poll(p.LinkUp) {
		return errors.New("the memif link does not come up")
	}
	for i := range p.Info().Queues {
		if n, err := p.Queue(i).Receive(nil); n != 0 || err != nil {
			return fmt.Errorf("first Receive: %d, %v", n, err)
		}
	}
	return nil
}

// memifPair opens both ends of a memif in this process.
func memifPair(tb testing.TB, c dpdk.Config) (server, client *dpdk.Port) {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "m.sock")
	c.Device = memifDevice(0, "server", socket)
	server = open(tb, c)
	if server.LinkUp() {
		tb.Error("the link is up before the client is there")
	}
	c.Device = memifDevice(1, "client", socket)
	client = open(tb, c)
	for _, p := range []*dpdk.Port{server, client} {
		if err := connect(p); err != nil {
			tb.Fatal(err)
		}
	}
	return server, client
}

// echo sends back what it receives.
func echo(o order, in *bufio.Scanner) error {
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	if err := connect(p); err != nil {
		return err
	}
	fmt.Println("ready")
	var end atomic.Bool
	go func() {
		for in.Scan() {
		}
		end.Store(true)
	}()
	frames := make([]link.Frame, link.MaxBurst)
	for !end.Load() {
		for i := range p.Info().Queues {
			q := p.Queue(i)
			n, err := q.Receive(frames)
			if err != nil {
				return err
			}
			for _, f := range frames[:n] {
				if err := send(q, len(f.Data), link.TxOffload{}, func(b []byte) { copy(b, f.Data) }); err != nil {
					return err
				}
			}
		}
	}
	return p.Close()
}

func TestEverySizeBothWays(t *testing.T) {
	for _, tt := range []struct{ mtu, step int }{{1500, 1}, {9000, 59}} {
		t.Run(fmt.Sprint("MTU ", tt.mtu), func(t *testing.T) {
			mtu := tt.mtu
			socket := filepath.Join(t.TempDir(), "m.sock")
			const queues = 2
			server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket), Queues: queues, MTU: mtu})
			peer := start(t, "echo", order{
				EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
				Ports: []dpdk.Config{{Device: memifDevice(0, "client", socket), Queues: queues, MTU: mtu}},
			}, nil)
			peer.expect(t, "ready")
			if err := connect(server); err != nil {
				t.Fatal(err)
			}
			frames := 0
			largest := server.Info().MaxFrame
			for size := 14; size <= largest; size = max(size+1, min(size+tt.step, largest)) {
				for i := range queues {
					want := make([]byte, size)
					for j := range want {
						want[j] = byte(j*7 + size + i)
					}
					if err := send(server.Queue(i), size, link.TxOffload{}, func(b []byte) { copy(b, want) }); err != nil {
						t.Fatal(err)
					}
					got, err := receive(server.Queue(i))
					if err != nil {
						t.Fatalf("%d bytes on queue %d: %v", size, i, err)
					}
					if !bytes.Equal(got.Data, want) {
						t.Fatalf("%d bytes on queue %d: got %x, want %x", size, i, got.Data, want)
					}
					if got.Checksum != link.Unchecked {
						t.Fatalf("status %d from a device that does not look", got.Checksum)
					}
					frames++
				}
			}
			// The driver forgets its counters when the peer leaves.
			before := server.Stats()
			if before.Extended["rx_good_packets"] != uint64(frames) || before.Extended["tx_q1_packets"] != uint64(frames/queues) {
				t.Errorf("extended counters: %v, want rx_good_packets %d", before.Extended, frames)
			}
			peer.end(t)
			eventually(t, "the link to go down", func() bool { return !server.LinkUp() })

			want := uint64(frames / queues)
			for i := range queues {
				s := server.Queue(i).Stats()
				if s.TxFrames != want || s.RxFrames != want || s.TxBytes != s.RxBytes || s.TxDropped+s.RxMalformed != 0 {
					t.Errorf("queue %d: %+v, want %d frames each way", i, s, want)
				}
			}
			s := server.Stats()
			if s.RxPackets != uint64(frames) || s.TxPackets != uint64(frames) || s.RxBytes != s.TxBytes {
				t.Errorf("device: %+v, want %d frames each way", s, frames)
			}
		})
	}
}

// readLate reads only when it is told to, and checks that the frames carry
// 0, 1, 2 and so on.
func readLate(o order, in *bufio.Scanner) error {
	p, err := dpdk.Open(o.EAL, o.Ports[0])
	if err != nil {
		return err
	}
	defer p.Close()
	if err := connect(p); err != nil {
		return err
	}
	fmt.Println("ready")
	in.Scan()
	for i := range o.Count {
		f, err := receive(p.Queue(0))
		if err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if got := binary.BigEndian.Uint64(f.Data[14:]); got != uint64(i) {
			return fmt.Errorf("frame %d carries %d", i, got)
		}
	}
	fmt.Println("all there")
	in.Scan()
	return nil
}

func TestFullRingLosesNothing(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	const count, staging = 5000, 512
	server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket), Staging: staging})
	peer := start(t, "lazy", order{
		EAL:   dpdk.EAL{HugePages: dpdk.HugePagesNever},
		Ports: []dpdk.Config{{Device: memifDevice(0, "client", socket)}},
		Count: count,
	}, nil)
	peer.expect(t, "ready")
	if err := connect(server); err != nil {
		t.Fatal(err)
	}
	q := server.Queue(0)
	sent := 0
	stage := func() bool {
		for sent < count {
			buf := q.Reserve(22)
			if buf == nil {
				return false
			}
			binary.BigEndian.PutUint64(buf[14:], uint64(sent))
			q.Commit(22, link.TxOffload{})
			sent++
		}
		return true
	}
	// Fill the ring, then the staging area.
	pending := 0
	for pending < staging {
		stage()
		var err error
		if pending, err = q.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if stage(); q.Reserve(22) != nil {
		t.Error("Reserve finds room in a full staging area")
	}
	if s := q.Stats(); s.TxFull == 0 || s.TxDropped != 0 || s.TxFrames+staging != uint64(sent) {
		t.Errorf("%+v after %d frames, want all but %d sent, some full rings, none dropped", s, sent, staging)
	}
	peer.say(t, "read")
	eventually(t, "everything to leave", func() bool {
		all := stage()
		pending, err := q.Flush()
		if err != nil {
			t.Fatal(err)
		}
		return all && pending == 0
	})
	peer.expect(t, "all there")
	peer.end(t)
}

// TestNoChecksum: both ends take frames whose checksums nobody has made, and offer to
// send such.
func TestNoChecksum(t *testing.T) {
	server, client := memifPair(t, dpdk.Config{NoChecksum: true})
	for _, p := range []*dpdk.Port{server, client} {
		if c := p.Info().Capabilities; !c.RxChecksum || !c.TxTCPChecksum || c.TSO != 0 {
			t.Errorf("%v: %+v, want checksums off the processor", p, c)
		}
	}
	frame := append(make([]byte, 12), 0x08, 0x00, 0x45)
	frame = append(frame, make([]byte, 60)...) // all checksums are wrong
	q := client.Queue(0)
	copy(q.Reserve(len(frame)), frame)
	q.Commit(len(frame), link.TxOffload{Flags: link.TxTCPChecksum, L2Len: 14, L3Len: 20, L4Len: 20})
	eventually(t, "the frame to leave", func() bool { pending, _ := q.Flush(); return pending == 0 })
	f, err := receive(server.Queue(0))
	if err != nil || f.Checksum != link.Good || !bytes.Equal(f.Data[:len(frame)], frame) {
		t.Errorf("received %x, %v, %v; want it good and unchanged", f.Data, f.Checksum, err)
	}
}

// Without a peer, polling and sending do no harm, and what was sent waits.
func TestBeforeThePeerIsThere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket)})
	q := server.Queue(0)
	if n, err := q.Receive(make([]link.Frame, 8)); n != 0 || err != nil {
		t.Errorf("Receive: %d, %v", n, err)
	}
	copy(q.Reserve(60), "early bird")
	q.Commit(60, link.TxOffload{})
	if pending, err := q.Flush(); pending != 1 || err != nil {
		t.Errorf("Flush: %d, %v, want 1 pending", pending, err)
	}
	if s := q.Stats(); s.TxFull != 1 || s.TxFrames != 0 {
		t.Errorf("%+v, want TxFull 1", s)
	}
	client := open(t, dpdk.Config{Device: memifDevice(1, "client", socket)})
	for _, p := range []*dpdk.Port{server, client} {
		if err := connect(p); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the early frame to leave", func() bool { pending, _ := q.Flush(); return pending == 0 })
	f, err := receive(client.Queue(0))
	if err != nil || !bytes.HasPrefix(f.Data, []byte("early bird")) {
		t.Errorf("got %q, %v", f.Data, err)
	}
}

// A peer that leaves in the middle of a burst must not take this process along.
func TestPeerComesAndGoes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket)})
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		q := server.Queue(0)
		frames := make([]link.Frame, link.MaxBurst)
		var err error
		for !stop.Load() && err == nil {
			_, err = q.Receive(frames)
			if q.Reserve(100) != nil {
				q.Commit(100, link.TxOffload{})
			}
			if _, e := q.Flush(); e != nil {
				err = e
			}
		}
		done <- err
	}()
	for range 50 {
		client, err := dpdk.Open(testEAL, dpdk.Config{Device: memifDevice(1, "client", socket)})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the link to come up", func() bool { return client.LinkUp() && server.LinkUp() })
		for range 10 {
			client.Queue(0).Receive(nil)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the link to go down", func() bool { return !server.LinkUp() })
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCloseAndReopen(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	for range 3 {
		p, err := dpdk.Open(testEAL, dpdk.Config{Device: memifDevice(0, "server", socket)})
		if err != nil {
			t.Fatal(err)
		}
		q := p.Queue(0)
		if p.Queue(0) != q {
			t.Error("another queue 0")
		}
		q.Reserve(60)
		q.Commit(60, link.TxOffload{})
		q.Reserve(60)
		if s := p.Stats(); s.BuffersInUse == 0 || s.BuffersTotal < s.BuffersInUse {
			t.Errorf("%d of %d buffers in use", s.BuffersInUse, s.BuffersTotal)
		}
		for range 2 {
			// Close tells when a buffer did not come back.
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := q.Receive(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive after Close: %v", err)
		}
		if _, err := q.Flush(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Flush after Close: %v", err)
		}
		if q.Reserve(60) != nil || q.Close() != nil || p.LinkUp() {
			t.Error("alive after Close")
		}
		if s := q.Stats(); s.TxDropped != 1 {
			t.Errorf("%+v, want the staged frame counted as dropped", s)
		}
		if s := p.Stats(); s.BuffersInUse != 0 {
			t.Errorf("%d buffers in use after Close", s.BuffersInUse)
		}
	}
}

// A server that was killed leaves its socket, a server that runs keeps it.
func TestSocketOfAKilledServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	o := order{EAL: dpdk.EAL{HugePages: dpdk.HugePagesNever}, Ports: []dpdk.Config{{Device: memifDevice(0, "server", socket)}}}
	first := start(t, "open", o, nil)
	first.expect(t, "opened net_memif0")
	second := start(t, "open", o, nil)
	if got, want := second.next(t), "another server listens on it"; !strings.Contains(got, want) {
		t.Errorf("second server on a socket: %q, want %q", got, want)
	}
	first.kill()
	if _, err := os.Stat(socket); err != nil {
		t.Fatalf("the killed server's socket: %v", err)
	}
	third := start(t, "open", o, nil)
	third.expect(t, "opened net_memif0")
	third.end(t)
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after an orderly end: %v", err)
	}
}

// A server's socket is there before its port: it hangs up on a client that comes
// in between, which has to come again.
func TestMemifServerStarts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	busy, err := net.Listen("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := start(t, "open", order{EAL: dpdk.EAL{HugePages: dpdk.HugePagesNever}, Ports: []dpdk.Config{{Device: memifDevice(1, "client", socket)}}}, nil)
	conn, err := busy.Accept()
	if err != nil {
		t.Fatal(err)
	}
	busy.Close() // removes the socket
	server := open(t, dpdk.Config{Device: memifDevice(0, "server", socket)})
	conn.Close()
	client.expect(t, "opened net_memif1")
	if !poll(server.LinkUp) {
		t.Fatal("the server has no link")
	}
	client.end(t)
}

func BenchmarkMemif(b *testing.B) {
	for _, size := range []int{64, 1514} {
		b.Run(fmt.Sprint(size, " bytes"), func(b *testing.B) {
			server, client := memifPair(b, dpdk.Config{})
			tx, rx := server.Queue(0), client.Queue(0)
			frames := make([]link.Frame, link.MaxBurst)
			received := 0
			b.ReportAllocs()
			for b.Loop() {
				for range link.MaxBurst {
					tx.Reserve(size)
					tx.Commit(size, link.TxOffload{})
				}
				tx.Flush()
				n, _ := rx.Receive(frames)
				received += n
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(received), "ns/frame")
		})
	}
}

// The cost of looking at an empty queue, which pollers do all the time.
func BenchmarkEmptyPoll(b *testing.B) {
	server, _ := memifPair(b, dpdk.Config{})
	q := server.Queue(0)
	frames := make([]link.Frame, link.MaxBurst)
	b.ReportAllocs()
	for b.Loop() {
		q.Receive(frames)
		q.Flush()
	}
}
