package queues

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gotpa/tpa/accel"
	"github.com/gotpa/tpa/internal/echoserver"
	"github.com/gotpa/tpa/internal/leak"
	"github.com/gotpa/tpa/internal/offload"
	"github.com/gotpa/tpa/link"
	"github.com/gotpa/tpa/link/softnic"
	"github.com/gotpa/tpa/test/virtualtime"
)

func TestMain(m *testing.M) { virtualtime.Main(m) }

// A host is a runtime on a card.
type host struct {
	nic *softnic.NIC
	rt  *accel.Runtime
}

// secretive is a card that does not tell its RSS; ruled also has rules.
type (
	secretive struct{ link.Device }
	ruled     struct {
		link.Device
		link.Steerer
	}
)

// newHost starts a runtime at 10.0.0.last and fd00::last. wrap, if any, changes
// the card that the runtime sees.
func newHost(t testing.TB, last byte, queues int, wrap func(*softnic.NIC) link.Device, c accel.Config) *host {
	t.Helper()
	nic, err := softnic.New(softnic.Config{
		Name: fmt.Sprint("nic", last), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, last}, Queues: queues, Ring: 4096,
	})
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t, nic)
	c.Link = nic
	if wrap != nil {
		c.Link = wrap(nic)
	}
	c.Addrs = []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: last}), 64),
	}
	c.Fallback, c.DebugSocket, c.Record = accel.FallbackNever, "off", -1
	c.Logger = slog.New(slog.DiscardHandler)
	rt, err := accel.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &host{nic, rt}
}

// echo serves on port 7 until the listener is closed.
func (h *host) echo(t testing.TB) net.Listener {
	t.Helper()
	ln, err := (&accel.ListenConfig{Runtime: h.rt}).Listen(t.Context(), "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	go echoserver.Run(ln)
	return ln
}

// exchange sends so many bytes over a connection and checks that they come back.
func exchange(c net.Conn, seed uint64, size int) error {
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(sent)
	wrote := make(chan error, 1)
	go func() { _, err := c.Write(sent); wrote <- err }()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return errors.New("the bytes came back changed")
	}
	return nil
}

// handover sums up what a host's shards handed over.
func (h *host) handover() (sum accel.HandoverStats) {
	for _, s := range h.rt.Stats().Shards {
		sum.Sent += s.Handover.Sent
		sum.Dropped += s.Handover.Dropped
		sum.Received += s.Handover.Received
		sum.Errors += s.Handover.Errors
	}
	return sum
}

// talk makes connections from a to b, over IPv4 and IPv6 in turn, and exchanges
// bytes over all of them at once, in several rounds with between in the middle.
func talk(t *testing.T, a *host, conns, rounds int, between func(round int)) {
	t.Helper()
	d := accel.Dialer{Runtime: a.rt, Timeout: time.Minute}
	open := make([]net.Conn, conns)
	var wg sync.WaitGroup
	for i := range open {
		if i == len(open)/2 {
			wg.Wait() // the rest finds all that is known by now
		}
		wg.Go(func() {
			c, err := d.Dial("tcp", []string{"10.0.0.2:7", "[fd00::2]:7"}[i%2])
			if err != nil {
				t.Errorf("dial %d: %v", i, err)
				return
			}
			open[i] = c
		})
	}
	wg.Wait()
	for round := range rounds {
		for i, c := range open {
			if c == nil {
				continue
			}
			wg.Go(func() {
				c.SetDeadline(time.Now().Add(5 * time.Minute))
				if err := exchange(c, uint64(i), 20_000); err != nil {
					t.Errorf("connection %d, round %d: %v", i, round, err)
				}
			})
		}
		if between != nil {
			between(round)
		}
		wg.Wait()
	}
	for _, c := range open {
		if c != nil {
			c.Close()
		}
	}
}

// onEachTCP runs a test on our own TCP and on gVisor's.
func onEachTCP(t *testing.T, name string, test func(*testing.T, accel.Config)) {
	for _, engine := range []accel.Engine{accel.EngineTPA, accel.EngineGVisor} {
		t.Run(name+" on "+engine.String(), func(t *testing.T) { test(t, accel.Config{TCP: accel.TCP{Engine: engine}}) })
	}
}

// shuffle changes a card's table.
func shuffle(t *testing.T, nic *softnic.NIC, seed uint64) {
	t.Helper()
	rss, err := nic.RSS()
	if err != nil {
		t.Fatal(err)
	}
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(rss.Table), func(i, j int) { rss.Table[i], rss.Table[j] = rss.Table[j], rss.Table[i] })
	if err := nic.SetRSS(rss); err != nil {
		t.Fatal(err)
	}
}

// TestTablesChangeInHandshakes makes short connections over a wire that takes a
// millisecond, while the cards change their tables several times in each
// handshake, exchange and end.
func TestTablesChangeInHandshakes(t *testing.T) {
	onEachTCP(t, "short connections", func(t *testing.T, c accel.Config) {
		virtualtime.Test(t, func(t *testing.T) {
			c.TCP.TimeWait = 10 * time.Millisecond
			client := newHost(t, 1, 4, nil, c)
			server := newHost(t, 2, 4, nil, c)
			slow := func(deliver func([]byte)) func([]byte) {
				return func(frame []byte) {
					frame = bytes.Clone(frame)
					time.AfterFunc(time.Millisecond, func() { deliver(frame) })
				}
			}
			client.nic.Attach(slow(server.nic.Deliver))
			server.nic.Attach(slow(client.nic.Deliver))
			ln := server.echo(t)
			done := make(chan struct{})
			go func() {
				for seed := uint64(0); ; seed++ {
					select {
					case <-done:
						return
					case <-time.After(300 * time.Microsecond):
						shuffle(t, client.nic, seed)
						shuffle(t, server.nic, seed+1<<32)
					}
				}
			}()
			d := accel.Dialer{Runtime: client.rt, Timeout: time.Minute}
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					for j := range 20 {
						conn, err := d.Dial("tcp", []string{"10.0.0.2:7", "[fd00::2]:7"}[i%2])
						if err != nil {
							t.Errorf("dial: %v", err)
							return
						}
						conn.SetDeadline(time.Now().Add(time.Minute))
						if err := exchange(conn, uint64(i*j), 3000); err != nil {
							t.Errorf("exchange: %v", err)
						}
						conn.(interface{ CloseWrite() error }).CloseWrite()
						// The echo of the end, not a reset.
						if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
							t.Errorf("the end: got %d bytes, %v, want EOF", n, err)
						}
						conn.Close()
					}
				})
			}
			wg.Wait()
			close(done)
			for i, h := range []*host{client, server} {
				if o := h.handover(); o.Sent == 0 || o.Dropped != 0 {
					t.Errorf("host %d handed over %+v: want some, and none dropped", i+1, o)
				}
				var resets uint64
				for _, s := range h.rt.Stats().Shards {
					resets += s.TCP.ResetsSent
				}
				// A client in TIME-WAIT acknowledges what its server sent before the FIN and
				// what came behind it (RFC 9293 section 3.10.7.4), to a server that has ended
				// and answers with a reset.
				if resets > 0 && h == client {
					t.Errorf("host %d sent %d resets", i+1, resets)
				}
			}
			ln.Close()
			client.rt.Close()
			server.rt.Close()
			synctest.Wait()
		})
	})
}

// TestWrongQueue has flows arrive on queues other than their shards' in every way
// there is, and wants them served all the same.
func TestWrongQueue(t *testing.T) {
	for _, tc := range []struct {
		name           string
		client, server func(*softnic.NIC) link.Device
		cut            bool // the wire cuts segments into fragments
		change         bool // the cards change their tables all the time
		foreign        [2]bool
	}{
		{name: "known key"},
		{name: "rules", client: func(n *softnic.NIC) link.Device { return ruled{n, n} }},
		{name: "unknown key", client: func(n *softnic.NIC) link.Device { return secretive{n} }, foreign: [2]bool{true, false}},
		{name: "tables change", change: true, foreign: [2]bool{true, true}},
		{name: "fragments", cut: true, foreign: [2]bool{true, true}},
		{name: "fragments and an unknown key", client: func(n *softnic.NIC) link.Device { return secretive{n} }, cut: true, foreign: [2]bool{true, true}},
	} {
		onEachTCP(t, tc.name, func(t *testing.T, c accel.Config) {
			virtualtime.Test(t, func(t *testing.T) {
				client := newHost(t, 1, 4, tc.client, c)
				server := newHost(t, 2, 8, tc.server, c)
				there, back := server.nic.Deliver, client.nic.Deliver
				if tc.cut {
					there, back = fragmenting(there, 600), fragmenting(back, 600)
				}
				client.nic.Attach(there)
				server.nic.Attach(back)
				ln := server.echo(t)
				changes := uint64(0)
				talk(t, client, 100, 4, func(round int) {
					if !tc.change {
						return
					}
					for range 3 {
						time.Sleep(50 * time.Microsecond)
						changes++
						shuffle(t, client.nic, changes)
						shuffle(t, server.nic, changes)
					}
				})
				for i, h := range []*host{client, server} {
					o := h.handover()
					if got, want := o.Sent > 0, tc.foreign[i]; got != want {
						t.Errorf("host %d handed over %+v: want some %v", i+1, o, want)
					}
					if o.Sent != o.Received {
						t.Errorf("host %d: %d segments were handed over and %d taken over", i+1, o.Sent, o.Received)
					}
				}
				ln.Close()
				client.rt.Close()
				server.rt.Close()
				synctest.Wait()
			})
		})
	}
}

// TestICMP has errors about connections of all shards come from many routers, and
// so arrive on any queue: port unreachable ends a dial, too big makes segments
// smaller.
func TestICMP(t *testing.T) {
	onEachTCP(t, "errors", testICMP)
}

func testICMP(t *testing.T, c accel.Config) {
	virtualtime.Test(t, func(t *testing.T) {
		client := newHost(t, 1, 4, nil, c)
		server := newHost(t, 2, 4, nil, c)
		const closedPort, limit4, limit6 = 9, 600, 1280
		errors := 0
		toServer := func(frame []byte) {
			p, ok := offload.Parse(frame)
			if !ok || p.Protocol != offload.TCP {
				server.nic.Deliver(frame)
				return
			}
			errors++
			q := quote{router: byte(100 + errors%100), receiveMAC: [6]byte{2, 0, 0, 0, 0, 1}, routerMAC: [6]byte{2, 0, 0, 0, 0, 2}}
			limit := limit4
			if p.IPv6 {
				limit = limit6
			}
			switch {
			case header.TCP(frame[p.L4:]).DestinationPort() == closedPort:
				client.nic.Deliver(q.about(frame))
			case p.End-p.L3 > limit:
				q.tooBig, q.mtu = true, limit
				client.nic.Deliver(q.about(frame))
			default:
				errors--
				server.nic.Deliver(frame)
			}
		}
		client.nic.Attach(toServer)
		server.nic.Attach(client.nic.Deliver)
		ln := server.echo(t)

		d := accel.Dialer{Runtime: client.rt, Timeout: 30 * time.Second}
		for i := range 32 {
			address := []string{"10.0.0.2:9", "[fd00::2]:9"}[i%2]
			if c, err := d.Dial("tcp", address); !isRefused(err) {
				t.Errorf("dial %s: got %v, %v, want a refused connection", address, c, err)
			}
		}
		refused := client.handover().Errors
		if refused == 0 {
			t.Error("no error arrived on a wrong queue")
		}
		talk(t, client, 32, 2, nil)
		if client.handover().Errors == refused {
			t.Error("no news of a smaller MTU arrived on a wrong queue")
		}
		ln.Close()
		client.rt.Close()
		server.rt.Close()
		synctest.Wait()
	})
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// TestNeighbours: an answer arrives on one queue, and all shards know it.
func TestNeighbours(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		client := newHost(t, 1, 8, nil, accel.Config{})
		server := newHost(t, 2, 8, nil, accel.Config{})
		softnic.Connect(client.nic, server.nic)
		ln := server.echo(t)
		talk(t, client, 64, 1, nil)
		// ARP arrives on queue 0, NDP where the addresses' hash says.
		for i, h := range []*host{client, server} {
			if n := h.rt.Stats().Neighbours; n.Entries != 2 || n.RequestsSent > 2 {
				t.Errorf("host %d: %+v: want two neighbours, asked for once each", i+1, n)
			}
		}
		ln.Close()
		client.rt.Close()
		server.rt.Close()
		synctest.Wait()
	})
}

// TestPortsRunOut dials one destination until no port is left, or often enough,
// and then another one from the same ports.
func TestPortsRunOut(t *testing.T) {
	const atLeast = 28_000
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprint(queues, " queues"), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				client := newHost(t, 1, queues, nil, accel.Config{})
				server := newHost(t, 2, 1, nil, accel.Config{}) // for its neighbour answers
				client.nic.Attach(func(frame []byte) {
					if p, ok := offload.Parse(frame); !ok || p.Protocol != offload.TCP {
						server.nic.Deliver(frame)
					} else if answer := accept(frame); answer != nil {
						client.nic.Deliver(answer)
					}
				})
				server.nic.Attach(client.nic.Deliver)
				d := accel.Dialer{Runtime: client.rt, Timeout: time.Second}
				conns := 0
				// gVisor chooses for a single queue, ever slower towards the end.
				for queues > 1 || conns < atLeast {
					c, err := d.Dial("tcp", "10.0.0.2:7")
					if errors.Is(err, syscall.EADDRNOTAVAIL) {
						break
					}
					if err != nil || conns > 1<<16 {
						t.Fatalf("dial %d: %v", conns, err)
					}
					conns++
					c.(interface{ SetLinger(int) error }).SetLinger(0)
				}
				if conns < atLeast {
					t.Errorf("%d connections to one destination, want at least %d", conns, atLeast)
				}
				if c, err := d.Dial("tcp", "10.0.0.2:8"); err != nil {
					t.Errorf("dialing another destination from the same ports: %v", err)
				} else {
					c.Close()
				}
				if o := client.handover(); o.Sent != 0 {
					t.Errorf("%d segments arrived on a wrong queue", o.Sent)
				}
				client.rt.Close()
				server.rt.Close()
				synctest.Wait()
			})
		})
	}
}
