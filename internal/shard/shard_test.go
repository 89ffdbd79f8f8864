package shard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/netif"
	"github.com/gotpa/tpa/internal/transport"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/memory"
	tpanet "github.com/gotpa/tpa/net"
)

func address(s string) tcpip.Address {
	a := netip.MustParseAddr(s)
	return tcpip.AddrFromSlice(a.AsSlice())
}

// newPair returns two running shards that are wired to each other: .1 and .2 of
// 10.0.0.0/24 and fd00::/64.
func newPair(t testing.TB, o memory.Options, tcp TCP) (a, b *Shard) {
	t.Helper()
	da, db, err := memory.Pair(o)
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, da, db)
	make := func(d *memory.Device, last string) *Shard {
		info := d.Info()
		n := netif.NewNeighbours(link.MAC(info.HardwareAddr), clock.New(), nil)
		s, err := New(Options{
			Device: info, Queue: d.Queue(0), Neighbours: n, MTU: info.MTU,
			CPU: -1, TCP: tcp, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		v4, v6 := address("10.0.0."+last), address("fd00::"+last)
		for addr, bits := range map[tcpip.Address]int{v4: 24, v6: 64} {
			if err := s.AddAddress(tcpip.AddressWithPrefix{Address: addr, PrefixLen: bits}); err != nil {
				t.Fatal(err)
			}
			n.AddLocal(addr)
		}
		s.SetRoutes([]Route{
			{Destination: tcpip.AddressWithPrefix{Address: v4, PrefixLen: 24}.Subnet()},
			{Destination: tcpip.AddressWithPrefix{Address: v6, PrefixLen: 64}.Subnet()},
		})
		s.Start()
		t.Cleanup(func() { s.Close(); n.Close(); d.Close() })
		return s
	}
	return make(da, "1"), make(db, "2")
}

// connect returns both ends of an established connection from a to an address of b.
func connect(t testing.TB, a, b *Shard, to string) (client, server *tpanet.Conn) {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(to), 7)
	ln, err := transport.Listen([]transport.Stack{b}, net.TCPAddrFromAddrPort(at), "tcp", transport.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := transport.Dial(ctx, a, nil, net.TCPAddrFromAddrPort(at), "tcp", transport.DialOptions{})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*tpanet.Conn), s.(*tpanet.Conn)
}

func TestStream(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   string
		link memory.Options
		tcp  TCP
	}{
		{name: "IPv4", to: "10.0.0.2"},
		{name: "IPv4 with gVisor's TCP", to: "10.0.0.2", tcp: TCP{Engine: "gvisor"}},
		{name: "IPv6", to: "fd00::2"},
		{name: "IPv4 uncoalesced", to: "10.0.0.2", tcp: TCP{Engine: "gvisor", NoCoalescing: true}},
		{name: "IPv6 jumbo", to: "fd00::2", link: memory.Options{MTU: 9000}},
		{name: "IPv4 small ring", to: "10.0.0.2", link: memory.Options{Ring: 8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newPair(t, tc.link, tc.tcp)
			client, server := connect(t, a, b, tc.to)
			defer client.Close()
			defer server.Close()
			data := make([]byte, 4<<20)
			rand.NewChaCha8([32]byte{1}).Read(data)
			go func() {
				client.Write(data)
				client.CloseWrite()
			}()
			server.SetDeadline(time.Now().Add(30 * time.Second))
			got, err := io.ReadAll(server)
			if err != nil {
				t.Fatalf("read: %v after %d bytes", err, len(got))
			}
			if sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("the stream arrived changed: %d bytes, want %d", len(got), len(data))
			}
			st := b.Stats()
			if st.FastPath == 0 {
				t.Error("no segment took the fast path")
			}
			if st.Link.RxMalformed+st.Link.RxBadChecksum != 0 {
				t.Errorf("refused frames: %+v", st.Link)
			}
			if got := a.Stats().Link.TxSegmented; got == 0 {
				t.Error("no large segment was cut up")
			}
		})
	}
}

// TestPingPong checks that both ends of an idle connection wake up.
func TestPingPong(t *testing.T) {
	a, b := newPair(t, memory.Options{}, TCP{})
	client, server := connect(t, a, b, "10.0.0.2")
	defer client.Close()
	defer server.Close()
	go io.Copy(server, server)
	client.SetDeadline(time.Now().Add(30 * time.Second))
	want, got := make([]byte, 64), make([]byte, 64)
	for i := range 1000 {
		want[0] = byte(i)
		if _, err := client.Write(want); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, got); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: got %x, want %x", i, got, want)
		}
	}
	if s := b.Stats(); s.Queue.TxFrames < 1000 {
		t.Errorf("server sent %d frames, want at least 1000", s.Queue.TxFrames)
	}
}

// TestUnresolved checks that a neighbour who does not answer fails the dial.
func TestUnresolved(t *testing.T) {
	a, _ := newPair(t, memory.Options{}, TCP{})
	for _, to := range []string{"10.0.0.99", "fd00::99"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := transport.Dial(ctx, a, nil, &net.TCPAddr{IP: net.ParseIP(to), Port: 7}, "tcp", transport.DialOptions{})
		cancel()
		if err == nil || ctx.Err() == context.DeadlineExceeded {
			t.Errorf("dial %v: got %v, want no route to host", to, err)
		}
	}
}

func BenchmarkPingPong(bench *testing.B) {
	a, b := newPair(bench, memory.Options{}, TCP{})
	client, server := connect(bench, a, b, "10.0.0.2")
	defer client.Close()
	defer server.Close()
	go io.Copy(server, server)
	buf := make([]byte, 64)
	bench.ReportAllocs()
	for bench.Loop() {
		client.Write(buf)
		io.ReadFull(client, buf)
	}
}

func BenchmarkStream(bench *testing.B) {
	a, b := newPair(bench, memory.Options{}, TCP{})
	client, server := connect(bench, a, b, "10.0.0.2")
	defer client.Close()
	defer server.Close()
	go io.Copy(io.Discard, server)
	buf := make([]byte, 64<<10)
	bench.SetBytes(int64(len(buf)))
	bench.ReportAllocs()
	for bench.Loop() {
		if _, err := client.Write(buf); err != nil {
			bench.Fatal(err)
		}
	}
	bench.ReportMetric(float64(a.Stats().Stack.TCP.Retransmits.Value())/float64(bench.N), "retransmits/op")
}
