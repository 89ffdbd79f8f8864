package shard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/gotpa/tpa/internal/clock"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/netif"
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

// connect returns both ends of an established connection with the short way on.
func connect(t testing.TB, a, b *Shard, proto tcpip.NetworkProtocolNumber, to tcpip.Address) (client, server *gonet.TCPConn) {
	t.Helper()
	ep, wq, terr := b.Socket(proto == header.IPv6ProtocolNumber)
	if terr != nil {
		t.Fatal(terr)
	}
	defer ep.Close()
	ready := make(chan struct{}, 1)
	entry := waiter.NewFunctionEntry(waiter.ReadableEvents, func(waiter.EventMask) {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	wq.EventRegister(&entry)
	if terr := ep.Bind(tcpip.FullAddress{Port: 7}); terr != nil {
		t.Fatal(terr)
	}
	if terr := ep.Listen(16); terr != nil {
		t.Fatal(terr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := gonet.DialContextTCP(ctx, a.stack, tcpip.FullAddress{Addr: to, Port: 7}, proto)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	select {
	case <-ready:
	case <-ctx.Done():
		t.Fatal("no connection to accept within 10s")
	}
	accepted, awq, terr := ep.Accept(nil)
	if terr != nil {
		t.Fatal(terr)
	}
	b.Established(accepted.(tpanet.Endpoint), nil)
	return client, gonet.NewTCPConn(awq, accepted)
}

func TestStream(t *testing.T) {
	for _, tc := range []struct {
		name  string
		proto tcpip.NetworkProtocolNumber
		to    tcpip.Address
		link  memory.Options
		tcp   TCP
	}{
		{name: "IPv4", proto: header.IPv4ProtocolNumber, to: address("10.0.0.2")},
		{name: "IPv6", proto: header.IPv6ProtocolNumber, to: address("fd00::2")},
		{name: "IPv4 uncoalesced", proto: header.IPv4ProtocolNumber, to: address("10.0.0.2"), tcp: TCP{NoCoalescing: true}},
		{name: "IPv6 jumbo", proto: header.IPv6ProtocolNumber, to: address("fd00::2"), link: memory.Options{MTU: 9000}},
		{name: "IPv4 small ring", proto: header.IPv4ProtocolNumber, to: address("10.0.0.2"), link: memory.Options{Ring: 8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newPair(t, tc.link, tc.tcp)
			client, server := connect(t, a, b, tc.proto, tc.to)
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
			if st.Shortcuts == 0 {
				t.Error("no segment took the short way in")
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
	client, server := connect(t, a, b, header.IPv4ProtocolNumber, address("10.0.0.2"))
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
	for proto, to := range map[tcpip.NetworkProtocolNumber]tcpip.Address{
		header.IPv4ProtocolNumber: address("10.0.0.99"), header.IPv6ProtocolNumber: address("fd00::99"),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := gonet.DialContextTCP(ctx, a.stack, tcpip.FullAddress{Addr: to, Port: 7}, proto)
		cancel()
		if err == nil || ctx.Err() == context.DeadlineExceeded {
			t.Errorf("dial %v: got %v, want no route to host", to, err)
		}
	}
}

func BenchmarkPingPong(bench *testing.B) {
	a, b := newPair(bench, memory.Options{}, TCP{})
	client, server := connect(bench, a, b, header.IPv4ProtocolNumber, address("10.0.0.2"))
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
	client, server := connect(bench, a, b, header.IPv4ProtocolNumber, address("10.0.0.2"))
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
